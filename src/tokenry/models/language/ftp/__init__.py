"""Future Token Prediction (arXiv 2410.18160): one state vector per position must say what the next N tokens are."""

from tokenry.models.language.ftp.model import FTPConfig, FTPForCausalLM, FTPOutput

__all__ = ["FTPConfig", "FTPForCausalLM", "FTPOutput"]
