"""Reproductions of the systems of `tokenry.learn`."""
