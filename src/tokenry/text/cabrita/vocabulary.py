"""Extending a model's vocabulary with another language's pieces, so that its texts take fewer tokens."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tokenry.text.training import documents, train_core
from tokenry.text.vocabulary import ByteVocab, load_tokenizer
from tokenry.tokens.errors import InputError, UnsupportedError

_PASSES: Final = 4  # over pieces that cannot be put together yet; later ones open the way for earlier ones

Pair = tuple[str, str]


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer.

    Attributes:
        tokenizer: The tokenizer; every old id means what it meant.
        first_id: Id of the first new piece; the others follow without a gap.
        pieces: The new pieces as the vocabulary writes them ("Ġinformação"), by id.
        left_out: Pieces that were passed over because they could never have been used (`append_after` only).
    """

    tokenizer: Any
    first_id: int
    pieces: tuple[str, ...]
    left_out: int


@dataclass(frozen=True)
class Pieces:
    """What a vocabulary trained on the new language holds, in the order of its training.

    Attributes:
        characters: Single characters of the text, sorted.
        merges: Pairs of pieces, each of which makes the piece of that rank.
    """

    characters: tuple[str, ...]
    merges: tuple[Pair, ...]


def extend_tokenizer(
    base: Any,
    texts: Iterable[str],
    size: int,
    *,
    append_after: bool = False,
    trained: int | None = None,
    min_frequency: int = 2,
) -> Extension:
    """Extend a BPE tokenizer by the pieces of another language, as Cabrita does.

    *Cabrita: closing the gap for foreign languages*, arXiv 2308.11878. A vocabulary is trained on text of the new
    language, and its pieces that the base lacks are appended in the order of their rank, each with the score that it
    has there.

    **What a score is.** In SentencePiece a piece's score is minus its rank, and of all neighbours in a text those whose
    union has the best score are merged first. A `tokenizers` BPE has an ordered list of merges instead; it does the
    same if the merges are ordered by the rank of the piece that they make and hold, for each piece, every way of
    putting it together from two others. That is how the list is built here. New pieces thus interleave with the base's:
    rank 100 of the new language comes right after rank 100 of the base, and the segmentation of the base's own language
    changes where a new piece gets hold of letters first.

    **`append_after`** puts all new merges behind all old ones instead. A text is then first cut as the base cuts it,
    and only whole base tokens are joined: a text in which no new piece applies is encoded as before, and no text gets
    longer. A new piece that cannot be put together from what the base makes of it is of no use then, and left out.

    Args:
        base: A fast BPE tokenizer, byte-level or of SentencePiece's form.
        texts: The new language.
        size: Ids of the extended vocabulary, at most (Cabrita: 52,000 from 32,000).
        append_after: Rank new pieces behind all old ones.
        trained: Size of the vocabulary that is trained on `texts`; by default twice the number of new pieces, plus its
            alphabet (about half of the pieces are usually in the base already).
        min_frequency: Pairs that occur less often are not learnt.

    Returns:
        The tokenizer, with special tokens, chat template and all else as the base has it.

    Raises:
        InputError: If the size leaves no room, or there is no text, or it has no piece that the base lacks.
        UnsupportedError: If the base is not a BPE tokenizer.
    """
    spec = _bpe(base)
    vocabulary: dict[str, int] = spec["model"]["vocab"]
    # Tokens that were added behind the model's own are written into its vocabulary: their ids must stay theirs.
    vocabulary.update({entry["content"]: entry["id"] for entry in spec["added_tokens"] or ()})
    first_id = max(vocabulary.values()) + 1
    room = size - first_id
    if room < 1:
        raise InputError(f"The tokenizer has {first_id:,} ids already; the size must be larger, got {size:,}")
    found = train_pieces(base, texts, 2 * room + 256 if trained is None else trained, min_frequency)
    old: list[Pair] = [_pair(merge) for merge in spec["model"]["merges"]]
    # A character that is a byte piece already ("<0x3B>" for ";") would be a second token of the same bytes.
    characters = [
        char
        for char in found.characters
        if char not in vocabulary and not (char.isascii() and f"<0x{ord(char):02X}>" in vocabulary)
    ][:room]
    known = {**vocabulary, **dict.fromkeys(characters, -1)}
    if append_after:
        chosen, merges, left_out = _appended(known, old, found.merges, room - len(characters))
    else:
        chosen, merges = _interleaved(known, old, found.merges, room - len(characters))
        left_out = 0
    pieces = (*characters, *chosen)
    if not pieces:
        raise InputError(
            "The text has no piece that the tokenizer lacks: there is nothing to extend it with."
        )
    vocabulary.update({piece: first_id + index for index, piece in enumerate(pieces)})
    spec["model"]["merges"] = [list(pair) for pair in merges]
    return Extension(_rebuilt(base, spec), first_id, pieces, left_out)


def train_pieces(base: Any, texts: Iterable[str], size: int, min_frequency: int = 2) -> Pieces:
    """Train a BPE vocabulary on text, cut and written as a base tokenizer cuts and writes it.

    Every character of the text is in it (SentencePiece's coverage 1.0). No piece spans a word's beginning.

    Args:
        base: The tokenizer whose conventions are used.
        texts: Documents.
        size: Entries of the vocabulary, characters included.
        min_frequency: Pairs that occur less often are not learnt.

    Raises:
        InputError: If there is no text.
        UnsupportedError: If the base is not a BPE tokenizer.
    """
    _bpe(base)
    core = Tokenizer(models.BPE())
    byte_level = ByteVocab.from_tokenizer(base).kind == "byte-level"
    if base.backend_tokenizer.normalizer is not None:
        core.normalizer = base.backend_tokenizer.normalizer
    if base.backend_tokenizer.pre_tokenizer is not None:
        core.pre_tokenizer = base.backend_tokenizer.pre_tokenizer
    elif not byte_level:  # Llama's form: the normaliser writes "▁", and nothing cuts; its training did
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=min_frequency, show_progress=False)
    train_core(core, documents(texts), trainer)
    model = json.loads(core.to_str())["model"]
    characters = sorted(piece for piece in model["vocab"] if len(piece) == 1)
    return Pieces(tuple(characters), tuple(_pair(merge) for merge in model["merges"]))


def _interleaved(
    known: Mapping[str, int], old: Sequence[Pair], trained: Sequence[Pair], room: int
) -> tuple[list[str], list[Pair]]:
    """Order all merges by the rank of the piece they make, that of the old vocabulary first where ranks are equal."""
    new: dict[str, int] = {}  # piece -> rank
    for rank, (left, right) in enumerate(trained):
        if len(new) == room:
            break
        if (piece := left + right) not in known and _spelled(piece, known):
            new.setdefault(piece, rank)
    everything = known.keys() | new.keys()
    ordered: list[tuple[int, bool, Pair]] = []
    for rank, (left, right) in enumerate(old):
        ordered.append((rank, False, (left, right)))
        ordered += [
            (rank, False, pair)
            for pair in _splits(left + right, everything)
            if pair != (left, right) and (pair[0] in new or pair[1] in new)
        ]
    for piece, rank in new.items():
        own = trained[rank]
        ordered.append((rank, True, own))
        ordered += [(rank, True, pair) for pair in _splits(piece, everything) if pair != own]
    ordered.sort(key=lambda entry: entry[:2])  # stable: within a piece, the trained merge stays first
    return list(new), list(dict.fromkeys(pair for _, _, pair in ordered))


def _appended(
    known: Mapping[str, int], old: Sequence[Pair], trained: Sequence[Pair], room: int
) -> tuple[list[str], list[Pair], int]:
    """Give each new piece one merge behind all others: of the two tokens into which it falls without it."""
    base = models.BPE(vocab={piece: index for index, piece in enumerate(known)}, merges=list(old))
    wanted = dict.fromkeys(left + right for left, right in trained)
    waiting = {
        piece: [token.value for token in base.tokenize(piece)]
        for piece in wanted
        if piece not in known and _spelled(piece, known)
    }
    ranks: dict[Pair, int] = {}
    chosen: list[str] = []
    for _ in range(_PASSES):
        before = len(chosen)
        for piece in list(waiting):
            if len(chosen) == room:
                break
            parts = waiting[piece] = _merged(waiting[piece], ranks)
            if len(parts) == 2:
                ranks[parts[0], parts[1]] = len(ranks)
                chosen.append(piece)
                del waiting[piece]
        if len(chosen) in (before, room):
            break
    return chosen, [*old, *ranks], len(waiting) if len(chosen) < room else 0


def _merged(parts: list[str], ranks: Mapping[Pair, int]) -> list[str]:
    """Apply merges to a sequence, the lowest rank first, the leftmost of equal ones first."""
    parts = list(parts)
    while len(parts) > 1:
        rank, at = min((ranks.get((parts[i], parts[i + 1]), len(ranks)), i) for i in range(len(parts) - 1))
        if rank == len(ranks):
            break
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


def _spelled(piece: str, known: Mapping[str, int]) -> bool:
    """Whether every character of a piece is in the vocabulary: merges start from them."""
    return all(char in known for char in piece)


def _splits(piece: str, vocabulary: Iterable[str]) -> Iterator[Pair]:
    known = vocabulary if isinstance(vocabulary, set | frozenset) else set(vocabulary)
    for cut in range(1, len(piece)):
        if piece[:cut] in known and piece[cut:] in known:
            yield piece[:cut], piece[cut:]


def _bpe(base: Any) -> dict[str, Any]:
    backend = getattr(base, "backend_tokenizer", None)
    spec: dict[str, Any] = {} if backend is None else json.loads(backend.to_str())
    if spec.get("model", {}).get("type") != "BPE":
        kind = spec.get("model", {}).get("type", "without a `tokenizers` backend")
        raise UnsupportedError(
            f"The tokenizer is {kind}; only a BPE vocabulary has merges that it can be extended by. "
            "`tokenry vocab transplant` moves the model to a vocabulary of any kind."
        )
    return spec


def _pair(merge: Sequence[str] | str) -> Pair:
    """Old files write a merge as "a b", newer ones as ["a", "b"]."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right


def _rebuilt(base: Any, spec: Mapping[str, Any]) -> Any:
    """Make a tokenizer that differs from the base in its `tokenizer.json` only."""
    with tempfile.TemporaryDirectory() as folder:
        base.save_pretrained(folder)
        Path(folder, "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
        tokenizer = load_tokenizer(folder)
    tokenizer.name_or_path = base.name_or_path
    return tokenizer
