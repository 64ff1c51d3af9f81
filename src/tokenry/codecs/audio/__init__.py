"""Codecs of sound."""
