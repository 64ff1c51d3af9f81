"""Fewer tokens: one file per method."""

from tokenry.reduce.base import Reducer, Scorer
from tokenry.reduce.registry import method, methods, read_methods

__all__ = ["Reducer", "Scorer", "method", "methods", "read_methods"]
