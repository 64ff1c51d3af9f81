"""Reproductions of the systems of `tokenry.text`."""
