"""Questions about pictures: what benchmarks and users keep them in, their answers, and how those are scored."""
