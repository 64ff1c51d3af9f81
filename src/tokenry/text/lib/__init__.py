"""Less-is-Better (arXiv 2403.00417): a ranked lexicon of parts of words, words and phrases, and its tokenizer."""

from tokenry.text.lib.learning import Lexicon, Lib, Reader, fit, train_lib
from tokenry.text.lib.ranked import RankedLexicon
from tokenry.tokens.moved import former_names

__all__ = ["Lexicon", "Lib", "RankedLexicon", "Reader", "fit", "train_lib"]

__getattr__ = former_names(__name__)
