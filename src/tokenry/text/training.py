"""Training byte-pair vocabularies, and keeping a tokenizer on disk.

The trainers are those of Hugging Face `tokenizers`; what is added is what a user can rely on: the 256 bytes are always
in the vocabulary, so every text has an encoding and decoding it gives the text back; the size is exactly the size asked
for; what cannot be is said. A trained tokenizer is an ordinary `PreTrainedTokenizerFast`, and a saved one an ordinary
folder that `AutoTokenizer` loads.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from tokenry.tokens.errors import InputError, UnknownNameError
from tokenry.tokens.files import whole_folder

END_OF_TEXT = "<|endoftext|>"

PRE_TOKENIZERS: Mapping[str, str] = MappingProxyType(
    {
        # GPT-2's: a word, a number or a run of signs takes the space before it along.
        "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        # GPT-4's: as before, but at most three digits, and any one sign may lead a word.
        "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+",
        # Bounded by white space only.
        "words": r" ?\S+|\s+(?!\S)|\s+",
    }
)
"""Where merges stop, by name: the regular expression whose matches are the pre-tokens."""


def train_bpe(
    texts: Iterable[str],
    size: int,
    *,
    pre_tokenizer: str | Regex = "gpt2",
    normalizer: normalizers.Normalizer | None = None,
    min_frequency: int = 2,
    special_tokens: Sequence[str] = (END_OF_TEXT,),
    max_token_length: int | None = None,
    progress: bool = False,
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE vocabulary (arXiv 1508.07909, over bytes as GPT-2 has it).

    Args:
        texts: documents; read once, in a stream.
        size: entries of the vocabulary, special tokens included.
        pre_tokenizer: where merges stop: a name of `PRE_TOKENIZERS`, or a regular expression of your own.
        normalizer: applied before anything else; decoding gives the normalised text back. None: nothing is changed.
        min_frequency: a pair is merged if it occurs at least so often.
        special_tokens: ids 0, 1, ... in this order. The first ends and begins a text.
        max_token_length: longest token in bytes; None: no limit.
        progress: show bars.

    Returns:
        The tokenizer; `len(tokenizer) == size`.

    Raises:
        InputError: no text, text that is not Unicode, a size that does not hold the 256 bytes and the special tokens,
            or text that has fewer pairs to merge than `size` asks for.
        UnknownNameError: no pre-tokenizer of that name.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = byte_level(pre_tokenizer)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    learn_merges(
        core,
        texts,
        size,
        min_frequency=min_frequency,
        special_tokens=special_tokens,
        max_token_length=max_token_length,
        progress=progress,
    )
    if core.get_vocab_size() < size:
        limit = "" if max_token_length is None else f" or makes more than {max_token_length} bytes"
        raise InputError(
            f"The corpus has pairs for {core.get_vocab_size():,} entries, not for {size:,}: every other pair occurs "
            f"less than {min_frequency} times{limit}. Ask for a smaller size, lower min_frequency, or give more text."
        )
    end = special_tokens[0] if special_tokens else None
    return as_fast(core, bos_token=end, eos_token=end)


def learn_merges(
    core: Tokenizer,
    texts: Iterable[str],
    size: int,
    *,
    min_frequency: int,
    special_tokens: Sequence[str],
    max_token_length: int | None = None,
    progress: bool = False,
) -> None:
    """Fill a BPE core with the byte alphabet and merges, up to `size` entries; fewer if the text has no more pairs.

    Args:
        core: a `Tokenizer` around an empty BPE model, with the normaliser and pre-tokenizer to train under.
        texts, size, min_frequency, special_tokens, max_token_length, progress: as for `train_bpe`.

    Raises:
        InputError: as for `train_bpe`, except that too little text is left to the caller.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    check_size(size, special_tokens)
    if min_frequency < 1:
        raise InputError(f"min_frequency is {min_frequency}; a pair must occur at least once to be merged.")
    if max_token_length is not None and max_token_length < 1:
        raise InputError(f"max_token_length is {max_token_length}; a token has at least one byte.")
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=list(special_tokens),
        initial_alphabet=alphabet,
        # The library keeps what is strictly shorter than its limit.
        max_token_length=None if max_token_length is None else max_token_length + 1,
        show_progress=progress,
    )
    train_core(core, documents(texts), trainer)


def train_core(core: Tokenizer, texts: Iterable[str], trainer: trainers.Trainer) -> None:
    """Train a `tokenizers` core, and be there for Ctrl-C meanwhile.

    The library counts pairs for minutes without a look at signals. So it does that in a thread of its own; one that
    nobody waits for any longer ends with the process.

    Args:
        core: trained in place; of no use after an interruption.
        texts: what it is trained on; read once.
        trainer: for its kind of model.
    """
    failures: list[BaseException] = []

    def work() -> None:
        try:
            core.train_from_iterator(texts, trainer)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=work, name="vocabulary training", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # the signal may have reached another thread than the one that must act on it
    if failures:
        raise failures[0]


def check_size(size: int, special_tokens: Sequence[str], extra: int = 0) -> None:
    """See that a vocabulary of this size can hold what it must.

    Args:
        size: entries asked for.
        special_tokens: texts of the special tokens.
        extra: further entries that must fit.

    Raises:
        InputError: special tokens that are empty or twice in the list, or a size below what must be held.
    """
    if len(set(special_tokens)) < len(special_tokens) or "" in special_tokens:
        raise InputError(f"Special tokens must be different and not empty, not {list(special_tokens)!r}.")
    least = 256 + len(special_tokens) + extra
    if size < least:
        special_ones = f"{len(special_tokens)} special token{'' if len(special_tokens) == 1 else 's'}"
        held = f", {special_ones} and {extra} further entries" if extra else f" and {special_ones}"
        raise InputError(
            f"A vocabulary of {size:,} does not hold the 256 bytes{held}: "
            f"without all bytes some texts would have no encoding. Ask for at least {least:,}."
        )


def documents(texts: Iterable[str]) -> Iterator[str]:
    """The texts of a corpus, each checked as it passes.

    Raises:
        InputError: one string instead of several, something that is no string, a string that has no UTF-8 form, or no
            text at all.
    """
    if isinstance(texts, str):
        raise InputError("A corpus is several texts; give one text as a list: [text].")
    some = False
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise InputError(f"Text {i} of the corpus is {type(text).__name__}, not str: decode it first.")
        if not text.isascii():
            _check_unicode(text, i)
        some |= bool(text)
        yield text
    if not some:
        raise InputError("The corpus has no text: there is nothing to learn a vocabulary from.")


def _check_unicode(text: str, index: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"Text {index} of the corpus has half a surrogate pair ({text[error.start]!r}) at character {error.start}, "
            'which is not Unicode text. Read the file with errors="replace".'
        ) from None


def byte_level(pre_tokenizer: str | Regex) -> pre_tokenizers.PreTokenizer:
    """Cut a text into pre-tokens and write each byte of them as one character of the byte-level alphabet.

    Raises:
        UnknownNameError: no pre-tokenizer of that name.
    """
    if (
        pre_tokenizer == "gpt2"
    ):  # the library has this one built in, which is faster than its regular expression
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    if isinstance(pre_tokenizer, str):
        if pre_tokenizer not in PRE_TOKENIZERS:
            raise UnknownNameError(
                f"There is no pre-tokenizer {pre_tokenizer!r}. There are {', '.join(PRE_TOKENIZERS)}; "
                "for a regular expression of your own give tokenizers.Regex(...)."
            )
        pre_tokenizer = Regex(PRE_TOKENIZERS[pre_tokenizer])
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pre_tokenizer, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def as_fast(core: Tokenizer, **settings: object) -> PreTrainedTokenizerFast:
    """A `tokenizers` core as the class that transformers' models are used with.

    Args:
        core: the tokenizer.
        **settings: `eos_token`, `padding_side` and the like; those that are None are left out.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    # Cleaning up would remove spaces before punctuation: decoding would not give the text back.
    return PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **given)


def special(text: str) -> AddedToken:
    """A special token that takes no white space from its neighbours."""
    return AddedToken(text, special=True, normalized=False)


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: str | Path) -> Path:
    """Write a tokenizer as a folder that `AutoTokenizer.from_pretrained` loads.

    Everything is written beside the folder first and then renamed, so that a full disk or an interruption leaves what
    was there before. In a folder that exists (a model's, say) only the tokenizer's own files are replaced.

    Args:
        tokenizer: the tokenizer.
        folder: where to.

    Returns:
        The folder.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; a tokenizer is saved as a folder.")
    with whole_folder(folder, merge=True) as scratch:
        tokenizer.save_pretrained(scratch)
    return folder
