"""Training on after a transplant: first the new rows with the body frozen, then everything (ReTok's two phases)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.train.language import CausalLanguageModel, TokenBatches, pack
from tokenry.train.optimisers import EVERYTHING
from tokenry.train.phases import Phase, train_phases
from tokenry.train.processes import once
from tokenry.train.resuming import claim, fingerprint, vocabulary_fingerprint
from tokenry.train.settings import LoopSettings


@dataclass(frozen=True, kw_only=True)
class ContinueSettings:
    """How a transplanted model is trained on.

    Attributes:
        steps: optimiser steps of both phases together.
        embedding_share: share of them in which only the embedding and the head are trained.
        lr: peak learning rate of the first phase.
        body_lr: that of the second, in which everything is trained.
        batch, length: sequences in a batch, and their tokens.
        precision: "bf16" or "no".
        checkpoint_every: steps between checkpoints; there is also one a minute.
        seed: of the batches.
    """

    steps: int
    embedding_share: float = 0.5
    lr: float = 1e-3
    body_lr: float = 1e-4
    batch: int = 8
    length: int = 256
    precision: str = "bf16"
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.embedding_share <= 1:
            raise InputError(
                f"Steps must be at least 1 and embedding_share lie between 0 and 1, got {self.steps}, "
                f"{self.embedding_share}."
            )
        if self.batch < 1 or self.length < 2:
            raise InputError(
                f"Batch must be at least 1 and length at least 2, got {self.batch}, {self.length}."
            )

    def phases(self, rows: Sequence[str]) -> list[Phase]:
        """The phases that have steps.

        Args:
            rows: names of the parameters that learn in the first.
        """
        first = round(self.steps * self.embedding_share)
        plan = {
            "embeddings": (first, self.lr, tuple(rows)),
            "everything": (self.steps - first, self.body_lr, EVERYTHING),
        }
        return [
            Phase(
                name=name,
                learn=learn,
                loop=LoopSettings(
                    steps=steps,
                    lr=lr,
                    warmup=max(1, min(100, steps // 10)),
                    weight_decay=0.0,  # rows that a batch does not touch must not shrink
                    precision=self.precision,
                    checkpoint_every=self.checkpoint_every,
                    seed=self.seed,
                ),
            )
            for name, (steps, lr, learn) in plan.items()
            if steps
        ]


def continue_training(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: ContinueSettings,
    folder: Path,
    *,
    origin: str = "",
    console: Console | None = None,
) -> PreTrainedModel:
    """Train a transplanted language model on text, in place.

    A killed run goes on where its last checkpoint in `folder` left it, one that was interrupted where it stood.

    Args:
        model: a causal language model in its new vocabulary.
        tokenizer: the new tokenizer.
        texts: documents.
        settings: how long, and how.
        folder: for checkpoints.
        origin: what the model was made from and how; a run that began from another origin is not taken up.
        console: where progress is shown.

    Returns:
        The model, in evaluation mode, on the CPU.

    Raises:
        UnsupportedError: a model that does not predict next tokens.
        InputError: less text than one sequence, or checkpoints of a run that was started with something else.
    """
    if not model.can_generate():
        raise UnsupportedError(
            f"{type(model).__name__} is not a causal language model, and training on predicts next tokens."
        )
    ids = pack(tokenizer, texts)
    identity = {
        "origin": origin,
        "settings": {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"},
        "text": fingerprint(texts),
        "vocabulary": vocabulary_fingerprint(tokenizer),
    }
    once(lambda: claim(folder / "run.json", identity), settings.precision)
    objective = CausalLanguageModel(model)
    phases = settings.phases(_rows(objective, model))

    def batches(phase: Phase) -> TokenBatches:
        return TokenBatches(ids, settings.length, settings.batch, settings.seed + phases.index(phase))

    train_phases(objective, phases, batches, folder, workers=0, console=console)
    return model.to("cpu").eval()


def _rows(objective: CausalLanguageModel, model: PreTrainedModel) -> list[str]:
    """Names of the parameters of the embedding and the head; a tied head is the embedding."""
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    trained = {id(p) for table in tables if table is not None for p in table.parameters()}
    return [name for name, p in objective.named_parameters() if id(p) in trained]
