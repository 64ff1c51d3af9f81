"""Reproductions of the systems of `tokenry.predict`."""
