"""CuBERT: pre-training on lines of source code, and pointing at a misused variable and at what repairs it.

*Learning and Evaluating Contextual Embedding of Source Code*, arXiv 2001.00059. The tokenizer is
`tokenry.text.cubert.tokenizer`, the tasks are `tokenry.data.text.code_tasks`; tasks with one label a function are
fine-tuned with `tokenry.train.classification.TextClassification`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import BertForPreTraining, PreTrainedTokenizerBase

from tokenry.data.text.code_tasks import CodeExample, Misuse
from tokenry.text.cubert.tokenizer import ERROR, NEWLINE, CodeTokenizer
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective
from tokenry.train.masked_lm import BertMasking, as_batch, hidden_states
from tokenry.train.masking import IGNORE
from tokenry.train.objectives import Ingredients, Job, Pretraining
from tokenry.train.rows import EncodedRows, SpecialIds, rows_of, shuffled

_LEAST_PROBABILITY = 1e-10  # of the published code, before logarithms

# ------------------------------------------------------------------------------------------------ pre-training


def code_lines(tokenizer: CodeTokenizer, source: str) -> list[np.ndarray]:
    """Sub-word ids of every logical line of a source file, its line end included; none if the lexer refuses it."""
    encoded = tokenizer.encode(source)
    if encoded.tokens[0].text == ERROR:
        return []
    ends = [
        encoded.starts[place + 1] for place, token in enumerate(encoded.tokens[:-1]) if token.text == NEWLINE
    ]
    return [line for line in np.split(np.asarray(encoded.ids, dtype=np.int64), ends) if len(line)]


def pack_lines(
    tokenizer: CodeTokenizer,
    sources: Iterable[str],
    length: int,
    ids: SpecialIds,
    *,
    seed: int = 0,
    random_next: float = 0.5,
) -> EncodedRows:
    """Pairs of blocks of lines, as BERT makes them of sentences.

    Args:
        tokenizer: for source code.
        sources: Python files; those that the lexer refuses are left out.
        length: of a row, special tokens included.
        ids: of the tokenizer.
        seed: of where blocks are cut.
        random_next: share of rows whose second block is from another file.

    Returns:
        Rows labelled 0 where the second block goes on from the first, 1 where it is from another file.

    Raises:
        InputError: fewer than two files can be read.
    """
    files = [lines for source in sources if (lines := code_lines(tokenizer, source))]
    if len(files) < 2:
        raise InputError(
            f"Predicting whether blocks of code follow each other takes at least two files that the lexer can read, "
            f"there are {len(files)}"
        )
    rng = np.random.default_rng(seed)
    pairs: list[list[np.ndarray]] = []
    labels: list[int] = []
    for number, lines in enumerate(files):
        at = 0
        while at < len(lines):
            end = _filled(lines, at, length - 3)
            cut = at + (int(rng.integers(1, end - at)) if end - at > 1 else 1)
            first = np.concatenate(lines[at:cut])
            foreign = end - at == 1 or rng.random() < random_next
            if foreign:  # the lines behind the cut are used by the next pair
                other = files[(number + 1 + int(rng.integers(len(files) - 1))) % len(files)]
                start = int(rng.integers(len(other)))
                stop = _filled(other, start, max(1, length - 3 - len(first)))
                second, at = np.concatenate(other[start:stop]), cut
            else:
                second, at = np.concatenate(lines[cut:end]), end
            pairs.append([first, second])
            labels.append(int(foreign))
    rows = rows_of(pairs, length, ids)
    return EncodedRows(rows.ids, rows.mask, rows.types, torch.tensor(labels))


def _filled(lines: Sequence[np.ndarray], start: int, room: int) -> int:
    """The end of the least run of lines from ``start`` that fills a row, or the end of the file."""
    size, end = 0, start
    while end < len(lines) and size < room:
        size += len(lines[end])
        end += 1
    return end


@dataclass(frozen=True)
class LineMasking:
    """Rows of `pack_lines` -> batch of BERT's two tasks.

    Attributes:
        masking: of the tokens.
    """

    masking: BertMasking

    def __call__(self, rows: EncodedRows, generator: torch.Generator) -> Batch:
        """What masked language modelling needs, and ``random_next``."""
        if rows.labels is None:
            raise InputError(
                "These rows do not say whether their blocks follow each other: make them with pack_lines."
            )
        return self.masking(rows, generator) | {"random_next": rows.labels}


class LinePretraining(Pretraining):
    """CuBERT's pre-training (arXiv 2001.00059): masked language modelling, and whether one block follows another.

    Rows are lines of code as `CodeTokenizer` cuts them, packed by `pack_lines` and masked by `LineMasking`.

    Args:
        model: an encoder with both of BERT's heads.
    """

    @classmethod
    def train_tokenizer(cls, texts: Sequence[str], **options: Any) -> PreTrainedTokenizerBase:
        """Sub-words of the lexer's tokens."""
        return CodeTokenizer.train(texts, **options).subwords

    @classmethod
    def job(cls, given: Ingredients, texts: Sequence[str], tokenizer: Any) -> Job:
        """Pre-training from a recipe, on Python files; `settings` are those of `BertMasking`."""
        ids = SpecialIds.of(tokenizer)
        rows = pack_lines(CodeTokenizer(tokenizer), texts, given.length, ids, seed=given.seed)
        model = BertForPreTraining(given.bert_config(tokenizer))
        masking = LineMasking(BertMasking(ids, **given.settings))
        return Job(cls(model), given.batches(rows, masking), model)

    def __init__(self, model: BertForPreTraining) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The sum of both losses; figures: each, and the share of pairs told rightly."""
        made = self.model.bert(
            batch["masked_ids"],
            attention_mask=batch["attention_mask"],
            token_type_ids=batch["token_type_ids"],
        )
        asked = batch["labels"] != IGNORE
        target = batch["labels"][asked]
        logits = self.model.cls.predictions(made.last_hidden_state[asked]).float()
        masked = F.cross_entropy(logits, target, reduction="sum") / max(1, len(target))
        follows = self.model.cls.seq_relationship(made.pooler_output).float()
        pairs = F.cross_entropy(follows, batch["random_next"])
        right = (follows.argmax(-1) == batch["random_next"]).float().mean()
        return masked + pairs, {"masked": masked, "pairs": pairs, "pairs right": right}


def code_rows(
    tokenizer: CodeTokenizer, examples: Sequence[CodeExample], length: int, ids: SpecialIds
) -> EncodedRows:
    """Functions to classify, with their labels; a docstring is the second segment, quoted again."""
    if not examples:
        raise InputError("There are no examples of this task.")
    segments = []
    for example in examples:
        codes = [example.code] if example.second is None else [example.code, repr(example.second)]
        segments.append([np.asarray(tokenizer.encode(code).ids, dtype=np.int64) for code in codes])
    rows = rows_of(segments, length, ids)
    return EncodedRows(rows.ids, rows.mask, rows.types, torch.tensor([example.label for example in examples]))


# ------------------------------------------------------------------------------------------ variable misuse


def misuse_rows(
    tokenizer: CodeTokenizer, examples: Iterable[Misuse], length: int, ids: SpecialIds
) -> tuple[Batch, int]:
    """Functions in which a variable may be misused, as tensors for `MisusePointer`.

    A position is the first sub-word of a variable; position 0, [CLS], says that there is no bug. Functions whose bug,
    or every repair of it, lies behind the end of the row or inside an f-string (one token) are left out.

    Args:
        tokenizer: for source code.
        examples: from `tokenry.data.text.code_tasks.variable_misuse`.
        length: of a row, special tokens included.
        ids: of the tokenizer.

    Returns:
        ``input_ids``, ``attention_mask``, ``token_type_ids``, ``candidates`` and ``repairs`` (bool) [b, n], ``error``
        [b]; and how many functions were left out.

    Raises:
        InputError: none is left.
    """
    texts: list[list[np.ndarray]] = []
    candidates: list[list[int]] = []
    repairs: list[list[int]] = []
    errors: list[int] = []
    left_out = 0
    for example in examples:
        encoded = tokenizer.encode(example.code)
        where = {
            (token.line, token.column): 1 + start
            for token, start in zip(encoded.tokens, encoded.starts, strict=True)
        }
        # A variable inside an f-string, which is one token, cannot be pointed at.
        fitting = [p for place in example.variables if (p := where.get(place, length)) < length - 1]
        mending = [p for place in example.repairs if (p := where.get(place, length)) < length - 1]
        error = 0 if example.place is None else where.get(example.place, length)
        if error >= length - 1 or (error and not mending):
            left_out += 1
            continue
        texts.append([np.asarray(encoded.ids, dtype=np.int64)])
        candidates.append([0, *fitting])
        repairs.append(mending)
        errors.append(error)
    if not texts:
        raise InputError(
            f"None of the functions fits into {length} tokens with its bug and a repair: use longer rows."
        )
    rows = rows_of(texts, length, ids)
    batch = as_batch(rows) | {
        "candidates": _marked(candidates, length),
        "repairs": _marked(repairs, length),
        "error": torch.tensor(errors),
    }
    return batch, left_out


def _marked(places: Sequence[Sequence[int]], length: int) -> Bool[Tensor, "b n"]:
    marks = torch.zeros(len(places), length, dtype=torch.bool)
    for row, found in enumerate(places):
        marks[row, list(found)] = True
    return marks


def pointer_probabilities(
    logits: Float[Tensor, "b n"], candidates: Bool[Tensor, "b n"], *, as_coded: bool = False
) -> Float[Tensor, "b n"]:
    """Softmax over the candidates of each row.

    Args:
        logits: one a position.
        candidates: positions that may be pointed at.
        as_coded: multiply the logits of other positions by 0 instead of leaving them out, as the published code does:
            they then keep some of the probability.
    """
    masked = logits * candidates if as_coded else logits.masked_fill(~candidates, -torch.inf)
    return masked.softmax(-1)


class MisusePointer(Objective):
    """Point at the misused variable, and at where the right one stands; [CLS] means that there is no bug.

    ``M = tanh(Y W_y + cls W_h)`` over the encoder's outputs Y, ``logits = M w`` with one column for the place of the
    bug and one for its repair. The loss is that of the place, and for a function with a bug that of the repair.

    Args:
        encoder: BERT without a head.
        sum_of_logs: of several right repairs, ask for each (minus the sum of the logarithms, as coded) instead of for
            any (minus the logarithm of the sum).
        as_coded: see `pointer_probabilities`.
    """

    def __init__(self, encoder: Any, *, sum_of_logs: bool = False, as_coded: bool = False) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder = encoder
        self.sum_of_logs, self.as_coded = sum_of_logs, as_coded
        self.token = nn.Linear(width, width, bias=False)
        self.whole = nn.Linear(width, width, bias=False)
        self.heads = nn.Linear(width, 2, bias=False)
        for layer in (self.token, self.whole, self.heads):
            nn.init.normal_(layer.weight, std=0.02)

    def probabilities(self, batch: Batch) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b n"]]:
        """Where the bug is, and where the repair: one probability a position each."""
        hidden = hidden_states(self.encoder, batch["input_ids"], batch)
        mixed = torch.tanh(self.token(hidden) + self.whole(hidden[:, :1]))
        place, repair = self.heads(mixed).float().unbind(-1)
        candidates = batch["candidates"][:, : place.shape[1]]
        return (
            pointer_probabilities(place, candidates, as_coded=self.as_coded),
            pointer_probabilities(repair, candidates, as_coded=self.as_coded),
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, and the share of functions whose place (or absence) of a bug is right."""
        place, repair = self.probabilities(batch)
        located = -place.gather(1, batch["error"][:, None]).clamp(min=_LEAST_PROBABILITY).log().mean()
        buggy = batch["error"] > 0
        if self.sum_of_logs:
            each = repair.clamp(min=_LEAST_PROBABILITY).log()
            mended = -(each * batch["repairs"]).sum(1)
        else:
            mended = -(repair * batch["repairs"]).sum(1).clamp(min=_LEAST_PROBABILITY).log()
        repaired = (mended * buggy).mean()
        right = (place.argmax(1) == batch["error"]).float().mean()
        return located + repaired, {"place": located, "repair": repaired, "right": right}

    @torch.no_grad()
    def metrics(self, batch: Batch, size: int = 64) -> dict[str, float]:
        """The published metrics, in percent, over tensors of `misuse_rows`.

        ``true positives``: functions without a bug that are said to have none. Of those with one, ``classification``:
        said to have one; ``localisation``: at its place; ``repair``: the repair is right; ``joint``: both are.
        """
        self.eval()
        parts = torch.arange(len(batch["error"])).split(size)
        found = [self.probabilities({name: x[part] for name, x in batch.items()}) for part in parts]
        place, repair = (torch.cat([pair[i].argmax(1) for pair in found]) for i in (0, 1))
        buggy, located = batch["error"] > 0, place == batch["error"]
        mended = batch["repairs"].gather(1, repair[:, None])[:, 0]
        shares = {
            "true positives": (place == 0)[~buggy],
            "classification": (place > 0)[buggy],
            "localisation": located[buggy],
            "repair": mended[buggy],
            "joint": (located & mended)[buggy],
        }
        return {name: 100 * float(hits.float().mean()) for name, hits in shares.items()}


@dataclass(frozen=True)
class ShuffledBatches:
    """Step -> rows of a set of tensors, in a new order every epoch.

    Attributes:
        tensors: all rows.
        size: rows a batch.
        seed: of the order.
    """

    tensors: Batch
    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.size <= len(self):
            raise InputError(f"A batch of {self.size} rows cannot be drawn from {len(self)}")

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __call__(self, step: int) -> Batch:
        index = shuffled(len(self), self.size, step, self.seed)
        return {name: tensor[index] for name, tensor in self.tensors.items()}


def labelled(rows: EncodedRows) -> Batch:
    """Rows and their labels under the names `TextClassification` reads."""
    if rows.labels is None:
        raise InputError("These rows have no labels.")
    return as_batch(rows) | {"labels": rows.labels}
