"""What a transplanting method is: a frozen dataclass that makes the rows of a new vocabulary from the old one's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from tokenry.text.string_vectors import AuxEmbedder
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.tokens.errors import InputError


@dataclass(frozen=True, eq=False)
class Donor:
    """The embedding rows of a model that already uses the target tokenizer.

    Attributes:
        input: rows of its input embedding, by target id; vocabularies may be padded at the end.
        output: rows of its head; None where it is tied or has none.
    """

    input: Float[Tensor, "target width"]
    output: Float[Tensor, "target width"] | None = None


@dataclass(frozen=True, eq=False)
class Context:
    """What a method may use besides the plan and the old rows.

    Attributes:
        vectors: unit vectors of strings (TokenAdapt's global part); MiniLM's if a method needs them and none are given.
        texts: text in the target's language, for the methods that count (FOCUS, WECHSEL, TransTokenizer).
        source_texts: text in the source's language; empty where that is the same language (`texts` serves for both).
        dictionary: (source word, target word) pairs, to align two languages; empty: the words that they share.
        parallel: (source sentence, target sentence) pairs; empty: `texts` is its own translation.
        bias: bias of the old head, one number per source id.
        donor: rows of a model that owns the target tokenizer (OMP).
        seed: for everything that is drawn.
    """

    vectors: AuxEmbedder | None = None
    texts: Sequence[str] = ()
    source_texts: Sequence[str] = ()
    dictionary: Sequence[tuple[str, str]] = ()
    parallel: Sequence[tuple[str, str]] = ()
    bias: Float[Tensor, " source"] | None = None
    donor: Donor | None = None
    seed: int = 0

    def need_texts(self, method: str) -> Sequence[str]:
        """The texts.

        Raises:
            InputError: there are none.
        """
        if not any(text.strip() for text in self.texts):
            raise InputError(
                f"{method} counts tokens in text of the new vocabulary's language and was given none: pass texts= "
                "(on the command line: --corpus)."
            )
        return self.texts


@dataclass(frozen=True, eq=False)
class Rows:
    """A new vocabulary's rows.

    Attributes:
        input: the input embedding, one row per target id.
        output: the head; None where it is tied to the input, or the model has none.
        bias: the head's bias; None where it has none.
        report: what the method did, as JSON values.
    """

    input: Float[Tensor, "target width"]
    output: Float[Tensor, "target out_width"] | None
    bias: Float[Tensor, " target"] | None
    report: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Mixture:
    """Rows as weighted sums of source rows: a sparse matrix with one row per unique token, stored row by row.

    Attributes:
        offsets: where each row's entries begin, and the end of the last.
        ids: source ids.
        weights: their weights. A row without entries is unset.
    """

    offsets: Int[Tensor, " rows_and_end"]
    ids: Int[Tensor, " entries"]
    weights: Float[Tensor, " entries"]

    @property
    def counts(self) -> Int[Tensor, " rows"]:
        """Entries per row."""
        return self.offsets.diff()

    @property
    def unset(self) -> Int[Tensor, " unset"]:
        """Rows without entries."""
        return torch.nonzero(self.counts == 0).flatten()

    def __call__(self, rows: Float[Tensor, "source width"]) -> Float[Tensor, "rows width"]:
        """The weighted sums; zero for unset rows."""
        if not len(self.ids):  # embedding_bag refuses a batch without any entry
            return rows.new_zeros(len(self.offsets) - 1, rows.shape[1])
        ids, offsets, weights = (x.to(rows.device) for x in (self.ids, self.offsets, self.weights))
        return F.embedding_bag(ids, rows, offsets[:-1], mode="sum", per_sample_weights=weights.to(rows.dtype))

    @classmethod
    def empty(cls, n: int) -> Mixture:
        """All n rows unset."""
        none = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(n + 1, dtype=torch.long), none, torch.zeros(0))

    @classmethod
    def of(
        cls,
        row: Int[Tensor, " entries"],
        ids: Int[Tensor, " entries"],
        weights: Float[Tensor, " entries"],
        n: int,
    ) -> Mixture:
        """From (row, source id, weight) entries in any order."""
        order = torch.argsort(row, stable=True)
        offsets = torch.zeros(n + 1, dtype=torch.long)
        torch.cumsum(torch.bincount(row, minlength=n), 0, out=offsets[1:])
        return cls(offsets, ids[order], weights[order].float())


class Mixtures(NamedTuple):
    """The mixture for the input rows and that for the head's rows; mostly the same one."""

    input: Mixture
    output: Mixture


@dataclass(frozen=True, kw_only=True)
class Transplant(ABC):
    """A method: its fields are its hyperparameters, with the paper's defaults. It holds no state and is safe to share.

    Rows of special tokens are copied, bit for bit, and so are those of shared tokens unless the method says otherwise
    (ZeTT predicts them); a method makes the others.
    """

    slug: ClassVar[str]
    """Name by which it is called."""

    def __call__(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None = None,
        context: Context | None = None,
    ) -> Rows:
        """Make the rows of the target vocabulary.

        Args:
            plan: how the vocabularies relate.
            input_rows: the model's input embedding, at least one row per ordinary token of the source.
            output_rows: its head; None where that is tied to the input, or missing.
            context: what else a method may use.

        Returns:
            Rows of the same dtype, one per target id.

        Raises:
            InputError: fewer rows than the source vocabulary has ordinary tokens; or the method lacks something in the
                context.
        """
        context = Context() if context is None else context
        check_rows(plan, len(input_rows))
        with torch.no_grad():
            made = self.make(plan, input_rows.float(), _float(output_rows), context)
            return Rows(
                _filled(plan, input_rows, made.input),
                None
                if output_rows is None or made.output is None
                else _filled(plan, output_rows, made.output),
                None
                if context.bias is None or made.bias is None
                else _filled(plan, context.bias[:, None], made.bias[:, None])[:, 0],
                {"method": self.slug} | plan.describe() | dict(made.report),
            )

    @abstractmethod
    def make(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Rows:
        """The method itself, in float32: rows for ``plan.unique`` only, in that order."""


@dataclass(frozen=True, kw_only=True)
class Mixing(Transplant):
    """The common case: every new row is a weighted sum of old rows. A paper is one method, `mix`."""

    @abstractmethod
    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixture | Mixtures:
        """Which old rows make each of ``plan.unique``, for the input and for the head."""

    def make(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Rows:
        """Mix; rows that could not be mixed are drawn from the normal distribution of the old rows."""
        mixed = self.mix(plan, input_rows, output_rows, context)
        mixtures = mixed if isinstance(mixed, Mixtures) else Mixtures(mixed, mixed)
        generator = torch.Generator().manual_seed(context.seed)
        made = _mixed(mixtures.input, input_rows, generator, self.draw)
        head = None if output_rows is None else _mixed(mixtures.output, output_rows, generator, self.draw)
        bias = None
        if context.bias is not None:
            bias = _mixed(mixtures.output, context.bias.float()[:, None], generator, self.draw)[:, 0]
        report: dict[str, Any] = {"rows drawn at random": len(mixtures.input.unset)}
        if len(plan.unique):
            report["old rows per new row"] = round(len(mixtures.input.ids) / len(plan.unique), 2)
        return Rows(made, head, bias, report)

    def draw(
        self, rows: Float[Tensor, "source width"], n: int, generator: torch.Generator
    ) -> Float[Tensor, "n width"]:
        """Rows for tokens that nothing is known of: N(mean, std) of all numbers of the matrix."""
        return normal_rows(rows, n, generator)


def is_tied(model: PreTrainedModel) -> bool:
    """Whether a model's head is its input embedding; models without a head count as tied."""
    head = model.get_output_embeddings()
    return head is None or head.weight is model.get_input_embeddings().weight


def check_rows(plan: TransplantPlan, rows: int) -> None:
    """See that a model has the rows that its tokenizer's tokens need.

    Raises:
        InputError: it has not.
    """
    if rows < plan.least_rows:
        raise InputError(
            f"The model has {rows:,} embedding rows, but its tokenizer has ordinary tokens up to id "
            f"{plan.least_rows - 1:,}: that is not this model's tokenizer."
        )


def normal_rows(
    rows: Float[Tensor, "source width"], n: int, generator: torch.Generator, *, by_dimension: bool = False
) -> Float[Tensor, "n width"]:
    """Independent normal numbers with the mean and deviation of a matrix, or of each of its columns."""
    noise = torch.randn(n, rows.shape[1], generator=generator).to(rows.device)
    if by_dimension:
        return rows.mean(0) + noise * rows.std(0, correction=0)
    return rows.mean() + noise * rows.std(correction=0)


def _mixed(mixture: Mixture, rows: Tensor, generator: torch.Generator, draw: Any) -> Tensor:
    out = mixture(rows)
    unset = mixture.unset
    if len(unset):
        out[unset] = draw(rows, len(unset), generator)
    return out


def _float(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else rows.float()


def _filled(plan: TransplantPlan, old: Tensor, made: Tensor) -> Tensor:
    """The target's matrix: copied rows, made rows, and the mean row for ids that no text produces."""
    new = old.new_empty(plan.target.size, old.shape[1])
    copied = torch.from_numpy(plan.copied)
    new[copied[:, 1]] = old[copied[:, 0]]
    new[torch.from_numpy(plan.unique)] = made.to(old.dtype)
    new[torch.from_numpy(plan.idle)] = old[: plan.source.size].float().mean(0).to(old.dtype)
    return new
