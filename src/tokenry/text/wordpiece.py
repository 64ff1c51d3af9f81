"""Training of BERT's tokenizer (WordPiece), the same at every run."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from tokenry.text.training import train_core
from tokenry.tokens.errors import InputError
from tokenry.train.rows import CONTINUES

_START = "\u2581"  # marks the beginning of a word while pieces are learned
_LETTERS = 1000  # the most frequent characters; others are unknown, as in BERT's trainer
_SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}


def train_wordpiece(
    texts: Iterable[str], size: int, *, lowercase: bool = True, min_frequency: int = 2
) -> PreTrainedTokenizerFast:
    """Train BERT's tokenizer: text cleaned and split at white space and punctuation, words cut into pieces.

    Args:
        texts: documents.
        size: largest number of entries, the five special tokens included.
        lowercase: drop case and accents, as BERT's uncased models do.
        min_frequency: pieces that occur less often are not learned.

    Raises:
        InputError: no text, or a size that does not hold the special tokens and one character.
    """
    if size < len(_SPECIAL) + 1:
        raise InputError(
            f"A vocabulary of {size} does not hold the {len(_SPECIAL)} special tokens and any text."
        )
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    pieces = _pieces(texts, size, normalizer, min_frequency)
    if not pieces:
        raise InputError("There is no text to train a vocabulary on: every document is empty.")
    vocabulary = {piece: index for index, piece in enumerate([*_SPECIAL.values(), *pieces][:size])}
    core = Tokenizer(
        models.WordPiece(vocabulary, unk_token=_SPECIAL["unk"], continuing_subword_prefix=CONTINUES)
    )
    core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece(prefix=CONTINUES)
    cls, sep = (vocabulary[_SPECIAL[role]] for role in ("cls", "sep"))
    core.post_processor = processors.BertProcessing((_SPECIAL["sep"], sep), (_SPECIAL["cls"], cls))
    return PreTrainedTokenizerFast(
        tokenizer_object=core, **{f"{role}_token": token for role, token in _SPECIAL.items()}
    )


def _pieces(
    texts: Iterable[str], size: int, normalizer: normalizers.Normalizer, min_frequency: int
) -> list[str]:
    """Pieces in the order they are learned, letters first: BPE over words that begin with a mark.

    `tokenizers` has a trainer for WordPiece, but which ids and ties it comes to changes from run to run.
    """
    core = Tokenizer(models.BPE())
    core.normalizer = normalizer
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(_START, "always", split=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=size, min_frequency=min_frequency, limit_alphabet=_LETTERS, show_progress=False
    )
    train_core(core, texts, trainer)
    learned = sorted(core.get_vocab().items(), key=lambda item: item[1])
    letters = [token for token, _ in learned if len(token) == 1 and token != _START]
    merged = [
        token.removeprefix(_START) if token.startswith(_START) else CONTINUES + token
        for token, _ in learned
        if len(token) > 1
    ]
    return list(dict.fromkeys([*letters, *(CONTINUES + letter for letter in letters), *merged]))
