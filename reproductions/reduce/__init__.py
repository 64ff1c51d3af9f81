"""Reproductions of the systems of `tokenry.reduce`."""
