"""Decoding methods for language models."""
