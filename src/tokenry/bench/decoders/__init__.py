"""Decoding methods compared: speed and acceptance on prompts, interleaved."""
