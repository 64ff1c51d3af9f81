"""Codecs of pictures."""
