"""Reproductions of the systems of `tokenry.embed`."""
