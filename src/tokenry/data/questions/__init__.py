"""Questions about pictures: what benchmarks and users keep them in, their answers, and how those are scored."""

from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)
