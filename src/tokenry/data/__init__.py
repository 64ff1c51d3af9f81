"""Offline data sets: small loaders with licence and provenance."""
