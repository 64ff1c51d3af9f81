"""Reproductions of the systems of `tokenry.models`."""
