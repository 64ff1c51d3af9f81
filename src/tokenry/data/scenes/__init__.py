"""Composed pictures with questions about them, drawn from a pack of small objects."""

from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)
