"""Generators of the tokens of pictures."""
