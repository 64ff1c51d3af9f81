"""Training and measuring prompt tokens for Parallel Prompt Decoding (arXiv 2405.18628)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.predict.lm.ppd.prompts import PromptTokens, Teacher, look_ahead
from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, LoopSettings, Objective


class PromptTokenDistillation(Objective):
    """Teach prompt tokens what a frozen model would say later: L = mean over i of 0.8^(i-1) KL(model || prompt i).

    Batches hold `input_ids`, int64 [batch, length], and `points`, int64 [batch, q]: the lengths of the contexts behind
    which prompt tokens stand (`TruncatedTexts`). The paper truncates a text at one random point; here one pass serves
    many points, whose chains do not see each other.

    Source: Hardware-Aware Parallel Prompt Decoding, arXiv 2405.18628. The model is frozen: neither trained nor
    checkpointed.

    Args:
        model: the causal language model that will decode; load it in bfloat16 to be fast.
        prompts: what is trained.
        teacher: "greedy" as in the paper, or "text": see `tokenry.predict.lm.ppd.prompts.look_ahead`.
        decay: weight of each prompt in units of the one before it.
    """

    model: Any

    def __init__(
        self, model: Any, prompts: PromptTokens, teacher: Teacher = "greedy", decay: float = 0.8
    ) -> None:
        super().__init__()
        self.prompts, self.teacher, self.decay = prompts, teacher, decay
        self.frozen(model=model)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the loss in nats, and how often the first guess of each prompt is the likeliest token."""
        found = look_ahead(self.model, self.prompts, batch["input_ids"], batch["points"], self.teacher)
        truth, guess = (logits.float().log_softmax(-1) for logits in (found.teacher, found.guesses))
        divergence = (truth.exp() * (truth - guess)).sum(-1).mean((0, 1))
        weights = self.decay ** torch.arange(len(divergence), device=divergence.device)
        right = (found.guesses.argmax(-1) == found.target).float().mean((0, 1))
        figures = {f"right_{i}": share for i, share in enumerate(right, 1)}
        return (weights * divergence).mean(), figures


class WholeTexts:
    """Random texts of equal length, such as a model's own answers: a function of the step.

    Args:
        ids: the texts.
        batch: texts in a batch.
        seed: which.
    """

    def __init__(self, ids: Int[Tensor, "k t"], batch: int, seed: int = 0) -> None:
        self.ids, self.batch, self.seed = ids, batch, seed

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        return {"input_ids": self.ids[torch.randint(len(self.ids), (self.batch,), generator=generator)]}


class TruncatedTexts:
    """Batches of texts, and points at which they are cut: a function of the step.

    The points of a batch are the same for all its rows.

    Args:
        texts: step -> batch: `WholeTexts`, or `tokenry.train.language.TokenBatches` for random stretches.
        points: points in each text.
        least: shortest context.
        ahead: tokens that stay behind the last point; prompt tokens and one more, for the teacher "text".
        seed: which points.
    """

    def __init__(
        self, texts: Callable[[int], Batch], points: int, least: int = 8, ahead: int = 0, seed: int = 0
    ) -> None:
        self.texts, self.points, self.least, self.ahead, self.seed = texts, points, least, ahead, seed

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step.

        Raises:
            InputError: if its texts are too short for the points.
        """
        ids = self.texts(step)["input_ids"]
        room = ids.shape[1] - self.ahead - self.least + 1
        if not 1 <= self.points <= room or self.least < 1:
            raise InputError(
                f"{self.points} points do not fit into {ids.shape[1]} tokens of which the first {self.least} and the "
                f"last {self.ahead} stay whole."
            )
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + 1)
        chosen = self.least + torch.randperm(room, generator=generator)[: self.points].sort().values
        return {"input_ids": ids, "points": chosen.expand(len(ids), -1)}


def prompt_settings(steps: int, lr: float = 1e-2, seed: int = 0) -> LoopSettings:
    """The paper's schedule: AdamW at 1e-2, cosine to zero, no weight decay.

    Args:
        steps: optimiser steps.
        lr: peak learning rate.
        seed: of the loop.
    """
    return LoopSettings(
        steps=steps,
        lr=lr,
        warmup=max(1, steps // 50),
        final=0.0,
        weight_decay=0.0,
        betas=(0.9, 0.999),
        precision="no",  # the model's own type decides: nothing else computes
        checkpoint_every=max(1, steps // 4),
        seed=seed,
    )


@torch.no_grad()
def guess_ranks(
    model: Any,
    prompts: PromptTokens,
    texts: Sequence[Sequence[int]],
    first: int | Sequence[int] = 1,
    teacher: Teacher = "greedy",
    points: int = 64,
) -> Iterator[Int[np.ndarray, "p m"]]:
    """How many guesses of each prompt token are thought likelier than the token that comes, at every point of a text.

    Args:
        model: the causal language model.
        prompts: for it.
        texts: token ids.
        first: shortest context that counts, of all texts or of each; such as the length of a prompt, when the rest is
            what the model has written.
        teacher: which token comes: see `tokenry.predict.lm.ppd.prompts.look_ahead`. For what the model itself has
            written both are the same but for rounding, and "text" is faster.
        points: points asked about in one pass (memory).

    Yields:
        For each text the ranks, from 0, at the points from `first` on.

    Raises:
        InputError: a text that is too short.
    """
    starts = [first] * len(texts) if isinstance(first, int) else list(first)
    device = model.get_input_embeddings().weight.device
    for text, start in zip(texts, starts, strict=True):
        end = len(text) + 1 if teacher == "greedy" else len(text) - prompts.count
        if not 1 <= start < end:
            raise InputError(
                f"No point of a text of {len(text)} tokens lies behind the first {start} and {prompts.count + 1} "
                "before its end."
            )
        ids = torch.tensor([list(text)], device=device)
        found = []
        for asked in torch.arange(start, end, device=device).split(points):
            outlook = look_ahead(model, prompts, ids, asked[None], teacher)
            own = outlook.guesses.gather(-1, outlook.target[..., None])
            found.append((outlook.guesses > own).sum(-1)[0])
        yield torch.cat(found).cpu().numpy()


def acceptance_table(
    model: Any,
    prompts: PromptTokens,
    texts: Sequence[Sequence[int]],
    guesses: int = 10,
    first: int | Sequence[int] = 1,
    teacher: Teacher = "greedy",
) -> Float[np.ndarray, "m k"]:
    """``[i, r]``: how often the token i + 2 ahead of a context (i from 0) is exactly guess r of prompt i + 1.

    Measure it on texts that the prompt tokens were not trained on, best on what the model writes itself: that is what
    decoding meets.

    Args:
        model, prompts, texts, first, teacher: see `guess_ranks`.
        guesses: how many guesses count.

    Raises:
        InputError: no texts, or one that is too short.
    """
    ranks = list(guess_ranks(model, prompts, texts, first, teacher))
    if not ranks:
        raise InputError("There is no text to measure on.")
    return np.stack([(np.concatenate(ranks) == rank).mean(0) for rank in range(guesses)], 1)
