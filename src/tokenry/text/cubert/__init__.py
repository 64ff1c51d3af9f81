"""CuBERT (arXiv 2001.00059): source code as sub-words of lexer tokens, and what is learned from its lines."""

from tokenry.text.cubert.tokenizer import CodeTokenizer, EncodedCode

__all__ = ["CodeTokenizer", "EncodedCode"]
