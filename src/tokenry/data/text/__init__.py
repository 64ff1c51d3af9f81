"""Texts: corpora with licence and provenance, manual pages, prompts, and tasks made of text."""
