"""CuBERT (arXiv 2001.00059): source code as sub-words of lexer tokens, and what is learned from its lines."""

from tokenry.text.cubert.tokenizer import CodeTokenizer, EncodedCode
from tokenry.text.cubert.training import LineMasking, LinePretraining, pack_lines
from tokenry.tokens.moved import former_names

__all__ = ["CodeTokenizer", "EncodedCode", "LineMasking", "LinePretraining", "pack_lines"]

__getattr__ = former_names(__name__)
