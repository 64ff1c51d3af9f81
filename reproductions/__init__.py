"""Small-scale reproductions of the papers' claims, run by `tokenry reproduce` in a checkout.

A system has two files in the folder of its room: its design (``SLUG.yaml``: claim, settings, criteria, written before
the first run) and a module with a function ``experiment(study) -> Outcome``. Further modules of a room belong to the
system whose name they begin with, or to several. Results are committed as ``docs/results/SLUG.json``.
"""
