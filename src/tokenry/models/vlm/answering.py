"""Learning to answer questions that are packed behind a picture, on all of its tokens and on some.

What vision-language models of this room have in common while they are trained: every picture is read once and all
questions about it stand behind it, each blind to the others; in some of the steps a part of the visual tokens is taken
away, on the way in or at a layer, and positions are counted otherwise. A model that has only met full grids answers
worse on fewer tokens for no other reason than that it never saw any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenry.hosts.masks import additive
from tokenry.hosts.shortening import shortened
from tokenry.tokens import InputError
from tokenry.train.objective import Batch

IGNORE: Final = -100
"""Target of a token that is not to be predicted."""
PREFIX: Final = -2
"""Owner of tokens that every question sees."""


def packed_mask(segment: Int[Tensor, "b t"], prefix: int) -> Bool[Tensor, "b 1 s s"]:
    """Who may look at whom when questions are packed behind a shared prefix: causal, and not across questions."""
    batch, length = segment.shape
    shared = segment.new_full((batch, prefix), PREFIX)
    owner = torch.cat([shared, segment], dim=1)
    same = owner[:, :, None] == owner[:, None, :]
    visible = same | (owner[:, None, :] == PREFIX)
    causal = torch.ones(prefix + length, prefix + length, dtype=torch.bool, device=segment.device).tril()
    return (visible & causal)[:, None]


@dataclass(frozen=True)
class Shortening:
    """How much of what is seen is taken away in training.

    Attributes:
        steps: share of the steps in which tokens are missing or positions are counted otherwise.
        least, most: smallest and largest share of the visual tokens that stays; it is drawn evenly in between.
        favour: share of those steps in which what shows something stays before what does not.
        inside: share of those steps in which they go at a layer of the decoder, and not on the way in.
        late: share of the decoder behind which all visual tokens may go.
    """

    steps: float = 0.5
    least: float = 0.1
    most: float = 1.0
    favour: float = 0.5
    inside: float = 0.5
    late: float = 0.75

    def __post_init__(self) -> None:
        for name in ("steps", "least", "most", "favour", "inside", "late"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name} is a share between 0 and 1, got {getattr(self, name)}.")
        if self.least > self.most:
            raise InputError(
                f"The share at least ({self.least}) is more than at most ({self.most}): exchange them."
            )


@dataclass(frozen=True, eq=False)
class Seen:
    """What of a picture's tokens a step is to see.

    Attributes:
        index: which of the visual tokens go into the decoder, in their order.
        positions: of those, counted from 0; on each axis where a model has several (multi-axis RoPE).
        text: position at which the text behind them begins, in all rows or in each.
        cut: the decoder layer from which on only some of them stay; None where all do.
        stay: which of `index` these are.
    """

    index: Int[Tensor, "b k"]
    positions: Int[Tensor, "*axes b k"]
    text: int | Int[Tensor, "b 1"]
    cut: int | None = None
    stay: Int[Tensor, "b m"] | None = None


Counting: TypeAlias = Callable[
    [Int[Tensor, "b k"], int, float, torch.Generator | None],
    tuple[Int[Tensor, "*axes b k"], int | Int[Tensor, "b 1"]],
]
"""How positions are counted: which of how many visual tokens are seen, a chance in [0, 1) and a generator -> positions,
and where the text begins. At chance 0 they stay what they are when all are seen."""


def in_a_row(
    index: Int[Tensor, "b k"], n: int, chance: float, generator: torch.Generator | None
) -> tuple[Int[Tensor, "b k"], int]:
    """Positions as the full grid counts them, without gaps, or with gaps of any width; and where the text begins."""
    batch, kept = index.shape
    if chance < 0.4:
        return index, n
    if chance < 0.7:
        return torch.arange(kept).expand(batch, -1), kept
    gaps = torch.randint(1, 2 + n // kept, (batch, kept), generator=generator)
    positions = gaps.cumsum(1) - 1
    return positions, int(positions.max()) + 1


def whole(batch: int, tokens: int, counted: Counting = in_a_row) -> Seen:
    """All tokens, as they stand."""
    index = torch.arange(tokens).expand(batch, -1)
    return Seen(index, *counted(index, tokens, 0.0, None))


def drawn(
    shown: Bool[Tensor, "b n"],
    layers: int,
    rule: Shortening,
    generator: torch.Generator,
    counted: Counting = in_a_row,
) -> Seen:
    """Draw what a step sees, the same number of tokens in every row.

    Args:
        shown: which visual tokens show something.
        layers: of the decoder.
        rule: how much is taken away.
        generator: of the step.
        counted: how positions are counted.
    """

    def chance() -> float:
        return float(torch.rand((), generator=generator))

    batch, n = shown.shape
    if chance() >= rule.steps:
        return whole(batch, n, counted)
    rank = torch.rand(batch, n, generator=generator)
    if chance() < rule.favour:
        rank = rank + shown.cpu()
    keep = max(1, round(n * (rule.least + (rule.most - rule.least) * chance())))
    if chance() >= rule.inside:  # on the way in
        index = rank.topk(keep, dim=1).indices.sort(1).values
        return Seen(index, *counted(index, n, chance(), generator))
    cut = 1 + int(chance() * (layers - 1))
    if cut >= rule.late * layers and chance() < 0.5:
        keep = 0
    stay = rank.topk(keep, dim=1).indices.sort(1).values
    return replace(whole(batch, n, counted), cut=cut, stay=stay)


def gathered(x: Tensor, index: Int[Tensor, "b k"]) -> Tensor:
    """Rows of each item, by index."""
    return x[torch.arange(len(x), device=x.device)[:, None], index.to(x.device)]


@dataclass(frozen=True, eq=False)
class Read:
    """What a decoder made of a picture and the questions behind it.

    Attributes:
        questions: last hidden states of the questions' tokens.
        visual: those of the visual tokens that stayed to the end.
        left: which of the picture's tokens these are.
    """

    questions: Float[Tensor, "b t d"]
    visual: Float[Tensor, "b m d"]
    left: Int[Tensor, "b m"]


def read(
    decoder: nn.Module,
    layers: nn.ModuleList,
    before: Int[Tensor, " p"],
    visual: Float[Tensor, "b n d"],
    batch: Batch,
    seen: Seen,
) -> Read:
    """Run a decoder over the tokens before a picture, the picture, and the questions packed behind it.

    Args:
        decoder: a language model without its head; takes embeddings, a 4-D additive mask and position ids.
        layers: its layers.
        before: ids of the tokens in front of the picture.
        visual: what the projector made of the picture.
        batch: `packed` questions: ``ids``, ``positions`` (from 0 in each question) and ``segment``.
        seen: which tokens take part.
    """
    rows, first = len(visual), len(before)
    device, kept = visual.device, seen.index.shape[1]
    text = decoder.get_input_embeddings()(batch["ids"])  # type: ignore[operator]
    start = decoder.get_input_embeddings()(before.to(device))  # type: ignore[operator]
    picture = gathered(visual, seen.index).to(text.dtype)
    embeddings = torch.cat([start.expand(rows, -1, -1), picture, text], dim=1)
    prefix = first + kept
    mask = additive(packed_mask(batch["segment"], prefix), text.dtype)
    head = torch.arange(first, device=device).expand(rows, -1)
    begin = seen.text.to(device) if isinstance(seen.text, Tensor) else seen.text
    axes = seen.positions.shape[:-2]
    places = [head, first + seen.positions.to(device), first + begin + batch["positions"]]
    cut: Any = nullcontext()
    left = seen.index
    if seen.cut is not None and seen.stay is not None:
        tail = prefix + torch.arange(batch["ids"].shape[1], device=device)
        stay = torch.cat([head, first + seen.stay.to(device), tail.expand(rows, -1)], dim=1)
        cut, left = shortened(layers, seen.cut, stay), gathered(seen.index, seen.stay)
    with cut:
        hidden = decoder(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=torch.cat([one.expand(*axes, rows, -1) for one in places], dim=-1),
            use_cache=False,
        ).last_hidden_state
    end = first + left.shape[1]
    return Read(hidden[:, end:], hidden[:, first:end], left)


def answer_loss(
    head: nn.Module, found: Read, target: Int[Tensor, "b t"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Cross-entropy of the answers' tokens, and the share of them that is most likely."""
    asked = target != IGNORE
    # Selected first: a head on every token of every question would cost more than some layers.
    logits = head(found.questions[asked]).float()
    wanted = target[asked]
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean()


def naming_loss(
    head: nn.Module, found: Read, names: Int[Tensor, "b n"], limit: int = 512
) -> Float[Tensor, ""]:
    """Cross-entropy of saying, where a visual token stands, the first token of the name of what it shows.

    It goes through the whole decoder. A similarity of visual tokens with word embeddings, on which methods select, is
    not asked for.

    Args:
        head: the language model's.
        found: what it made of the picture.
        names: id of a name's first token for each visual token; `IGNORE` where nothing is shown.
        limit: visual tokens that are looked at, of the whole batch.
    """
    target = gathered(names, found.left)
    shown = (target != IGNORE).nonzero()
    shown = shown[:: max(1, -(-len(shown) // limit))]
    if not len(shown):
        return found.visual.sum() * 0.0
    rows, columns = shown.unbind(1)
    return F.cross_entropy(head(found.visual[rows, columns]).float(), target[rows, columns])


@torch.no_grad()
def exactly_answered(
    head: nn.Module, found: Read, batch: Batch, kinds: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """Kind -> (answered exactly, asked).

    Under teacher forcing the greedy answer equals the reference exactly where every one of its tokens, the end
    included, is the most likely one.

    Args:
        head: the language model's.
        found: what it made of picture and questions.
        batch: with ``target``, ``segment`` and ``kind`` (which of `kinds`).
        kinds: names of the kinds of questions.
    """
    asked = batch["target"] != IGNORE
    wrong = torch.zeros_like(asked)
    wrong[asked] = head(found.questions[asked]).argmax(-1) != batch["target"][asked]
    score: dict[str, tuple[int, int]] = {}
    for row in range(len(wrong)):
        segment = batch["segment"][row]
        for number in range(int(segment.max()) + 1):
            here = segment == number
            kind = kinds[int(batch["kind"][row][here][0])]
            right, total = score.get(kind, (0, 0))
            score[kind] = (right + int(not wrong[row][here].any()), total + 1)
    return score


def packed(questions: Sequence[Sequence[tuple[int, Sequence[int], Sequence[int]]]], end: int) -> Batch:
    """Questions packed behind each picture of a batch.

    Args:
        questions: of each picture: number of the kind, ids of the question, ids of the answer.
        end: the token that ends an answer.

    Returns:
        ``ids``, ``positions``, ``segment`` (which question; -1 padding), ``target`` (next token of an answer, else
        `IGNORE`) and ``kind``, all [pictures, length].
    """
    rows: list[dict[str, list[int]]] = []
    for of_picture in questions:
        row: dict[str, list[int]] = {"ids": [], "positions": [], "segment": [], "target": [], "kind": []}
        for number, (kind, asked, answer) in enumerate(of_picture):
            length = len(asked) + len(answer)
            row["ids"] += [*asked, *answer]
            row["positions"] += range(length)
            row["segment"] += [number] * length
            row["target"] += [IGNORE] * (len(asked) - 1) + [*answer, end]
            row["kind"] += [kind] * length
        rows.append(row)
    fill = {"ids": 0, "positions": 0, "segment": -1, "target": IGNORE, "kind": -1}
    width = max(len(row["ids"]) for row in rows)
    return {
        key: torch.tensor([row[key] + [value] * (width - len(row[key])) for row in rows])
        for key, value in fill.items()
    }


@contextmanager
def listening(module: nn.Module, note: Callable[[Any], None]) -> Iterator[None]:
    """Inside, what a module returns is noted."""
    handle = module.register_forward_hook(lambda _module, _args, output: note(output))
    try:
        yield
    finally:
        handle.remove()
