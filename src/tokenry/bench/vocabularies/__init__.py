"""Vocabularies compared, and models moved from one to another."""
