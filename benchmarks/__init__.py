"""Speed, as ratios from one run: against the limit (a natively short sequence, plain attention), and the simple way.

``make bench`` runs everything and writes ``docs/results/bench-*.json``; ``python -m benchmarks prefill`` runs one part.
"""
