"""Teaching a language model to route: queries and the calls that answer them (Octopus v4, arXiv 2404.19296).

The authors publish no training code; loss and schedule are ours, from what the paper says: cross-entropy on the call
only, the functional token weighing more if told, descriptions of the functions in the prompt at first and then not, so
that the weights come to hold them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tokenry.tokens.errors import InputError
from tokenry.train.loop import Batch, Figures, Objective

_IGNORED = -100


@dataclass(frozen=True)
class RoutingExample:
    """A query and the call that answers it.

    Attributes:
        query: What a user asks.
        worker: Who answers.
        argument: What they are to be asked.
    """

    query: str
    worker: str
    argument: str


class CallBatches:
    """Queries with their calls, shuffled anew each time through: a function of the step, so that a run resumes exactly.

    Batches hold `input_ids`, `attention_mask` and `position_ids`, int64 [batch, length], with padding in front, and
    `labels`, int64 [batch, longest call], the calls at the end of each row (-100: not learnt).

    Args:
        examples: What to learn.
        prompt: Query -> ids before the call (`tokenry.predict.octopus_v4.tokens.CallPrompt`).
        call: Example -> ids of the call.
        batch: Examples in a batch.
        described: Another prompt, with descriptions of the functions, for the first steps.
        described_steps: How many steps those are.
        seed: Which order.

    Raises:
        InputError: If there are no examples, or a setting makes no sense.
    """

    def __init__(
        self,
        examples: Sequence[RoutingExample],
        prompt: Callable[[str], list[int]],
        call: Callable[[RoutingExample], list[int]],
        *,
        batch: int,
        described: Callable[[str], list[int]] | None = None,
        described_steps: int = 0,
        seed: int = 0,
    ) -> None:
        if not examples or batch < 1:
            raise InputError(
                f"There must be examples and a batch of at least 1, got {len(examples)}, {batch}"
            )
        if described_steps > 0 and described is None:
            raise InputError(f"{described_steps} steps want descriptions: hand in the prompt that has them.")
        self.examples, self.prompt, self.call = examples, prompt, call
        self.batch, self.described, self.described_steps, self.seed = batch, described, described_steps, seed

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        first = self.described if step < self.described_steps and self.described is not None else self.prompt
        chosen = [self.examples[place] for place in self._places(step)]
        calls = [self.call(example) for example in chosen]
        rows = [first(example.query) + call for example, call in zip(chosen, calls, strict=True)]
        ids = _right(rows, 0)
        mask = _right([[1] * len(row) for row in rows], 0)
        places = (mask.cumsum(1) - 1).clamp(min=0)
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": places,
            "labels": _right(calls, _IGNORED),
        }

    def _places(self, step: int) -> list[int]:
        epoch, at = divmod(step * self.batch, len(self.examples))
        places: list[int] = []
        while len(places) < self.batch:
            places += self._order(epoch)[at : at + self.batch - len(places)].tolist()
            epoch, at = epoch + 1, 0
        return places

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.examples))


class CallObjective(Objective):
    """Predict the call, given the query.

    Args:
        model: A causal language model of transformers' form, usually wrapped by peft
            (`tokenry.predict.octopus_v4.adapter.with_lora`).
        functional_weight: What the first token of a call counts for, where each other one counts 1.

    Raises:
        InputError: If the weight is not above 0.
    """

    def __init__(self, model: Any, *, functional_weight: float = 1.0) -> None:
        if not functional_weight > 0:
            raise InputError(f"The functional token's weight must be above 0, got {functional_weight}")
        super().__init__()
        self.model, self.functional_weight = model, functional_weight

    @property
    def lr_scale(self) -> dict[str, float]:
        """For `LoopSettings.lr_scale`: train what the model has not frozen; the loop would train everything."""
        learnt = {name: 1.0 for name, parameter in self.named_parameters() if parameter.requires_grad}
        return {"": 0.0} | learnt

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Return the weighted mean of the calls' negative log-likelihoods in nats; and how many first tokens are right.

        Only the positions that predict a call's token go through the head.
        """
        labels = batch["labels"]
        logits = self.model(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
            logits_to_keep=labels.shape[1] + 1,
            use_cache=False,
        ).logits[:, :-1]
        nats = F.cross_entropy(
            logits.transpose(1, 2).float(), labels, ignore_index=_IGNORED, reduction="none"
        )
        rows = torch.arange(len(labels), device=labels.device)
        first = (labels != _IGNORED).int().argmax(1)
        weights = (labels != _IGNORED).float()
        weights[rows, first] *= self.functional_weight
        routed = (logits[rows, first].argmax(-1) == labels[rows, first]).float().mean()
        return (nats * weights).sum() / weights.sum(), {"routed": routed.detach()}


def _right(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """Rows of different lengths in one tensor, int64 [rows, longest], each at the right end of its line."""
    tensors = [torch.tensor(row, dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill, padding_side="left")
