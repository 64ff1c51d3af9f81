"""Vision-language models and their parts."""
