"""Composed pictures with questions about them, drawn from a pack of small objects."""
