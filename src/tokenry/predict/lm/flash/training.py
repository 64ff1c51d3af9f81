"""Training FLASH's drafters on what a frozen vision-language model answers (arXiv 2505.12728)."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tokenry.hosts.upstream import placeholder_of
from tokenry.predict.lm.flash.drafter import Drafter, visual_span
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder
from tokenry.train.loop import Batch, Figures, LoopSettings, Objective

__all__ = ["FlashObjective", "LessonBatches", "Lessons", "paper_settings", "record"]


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a model answered, and its last hidden states on the way; rows are padded on the right.

    Attributes:
        ids: prompt, answer, padding.
        hidden: what entered the output layer at each token, the last one of a row excepted.
        starts: where the answer begins.
        lengths: tokens of prompt and answer, the end of the answer included.
    """

    ids: Int[Tensor, "rows s_and_1"]
    hidden: Float[Tensor, "rows s d"]
    starts: Int[Tensor, " rows"]
    lengths: Int[Tensor, " rows"]

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def join(cls, parts: Iterable[Lessons]) -> Self:
        """Several as one."""
        parts = list(parts)
        if not parts:
            raise InputError("There are no lessons to join.")
        longest = max(part.ids.shape[1] for part in parts)
        return cls(
            torch.cat([F.pad(part.ids, (0, longest - part.ids.shape[1])) for part in parts]),
            torch.cat([F.pad(part.hidden, (0, 0, 0, longest - part.ids.shape[1])) for part in parts]),
            torch.cat([part.starts for part in parts]),
            torch.cat([part.lengths for part in parts]),
        )

    def save(self, folder: str | Path) -> Path:
        """Write them as a folder, whole or not at all."""
        with whole_folder(Path(folder)) as scratch:
            tensors = {"ids": self.ids, "hidden": self.hidden, "starts": self.starts, "lengths": self.lengths}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, scratch / _FILE)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: the folder holds no lessons, or damaged ones.
        """
        try:
            return cls(**load_file(Path(folder) / _FILE))
        except (OSError, TypeError, SafetensorError) as error:
            raise InputError(f"{folder} holds no lessons that can be read ({error}).") from error


_FILE = "lessons.safetensors"


@torch.no_grad()
def record(
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    *,
    max_new_tokens: int = 128,
    dtype: torch.dtype = torch.bfloat16,
) -> Lessons:
    """Let a model answer a batch greedily, and keep its hidden states.

    Args:
        model: any causal language model of transformers, with or without pictures.
        inputs: of `generate`; prompts of different lengths are padded on the left.
        max_new_tokens: longest answer.
        dtype: in which the states are kept.

    Raises:
        InputError: the model reads fewer positions than the prompt has (a method that reduces tokens is attached).
    """
    heard: list[Tensor] = []

    def listen(module: nn.Module, args: Any, output: Any) -> None:
        heard.append(output[0].to("cpu", dtype))

    handle = cast(nn.Module, model.get_decoder()).register_forward_hook(listen)
    try:
        ids = cast(Any, model).generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False).cpu()
    finally:
        handle.remove()
    hidden = torch.cat(heard, 1)  # one fewer than tokens: nothing follows the last one
    if hidden.shape[1] != ids.shape[1] - 1:
        raise InputError(
            f"The model has {hidden.shape[1]} hidden states for {ids.shape[1]} tokens: it is to read the whole prompt, "
            "with as many image tokens as the picture has positions."
        )
    width = inputs["input_ids"].shape[1]
    mask = inputs.get("attention_mask")
    padding = torch.zeros(len(ids), dtype=torch.long) if mask is None else width - mask.sum(1).cpu()
    order = (torch.arange(ids.shape[1]) + padding[:, None]).clamp(max=ids.shape[1] - 1)
    return Lessons(
        ids.gather(1, order),
        hidden.gather(1, order[:, :-1].clamp(max=hidden.shape[1] - 1)[..., None].expand_as(hidden)),
        width - padding,
        _ends(ids[:, width:], model.generation_config) + width - padding,
    )


def _ends(answers: Int[Tensor, "rows t"], config: Any) -> Int[Tensor, " rows"]:
    """Tokens of each answer up to its end, which counts."""
    ends = config.eos_token_id
    over = torch.isin(answers, torch.tensor([] if ends is None else ends, dtype=torch.long).reshape(-1))
    return torch.where(over.any(1), over.int().argmax(1) + 1, answers.shape[1])


class LessonBatches:
    """Rows of lessons in random order, all of them before any again: a function of the step.

    Args:
        lessons: where from.
        size: rows in a batch.
        seed: which order.

    Raises:
        InputError: fewer lessons than rows in a batch.
    """

    def __init__(self, lessons: Lessons, size: int, seed: int = 0) -> None:
        if not 1 <= size <= len(lessons):
            raise InputError(f"{len(lessons)} lessons cannot fill batches of {size} rows.")
        self.lessons, self.size, self.seed = lessons, size, seed

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        per_round = len(self.lessons) // self.size
        round_, place = divmod(step, per_round)
        order = np.random.default_rng((self.seed, round_)).permutation(len(self.lessons))
        rows = torch.from_numpy(order[place * self.size : (place + 1) * self.size])
        longest = int(self.lessons.lengths[rows].max())
        return {
            "ids": self.lessons.ids[rows, :longest],
            "hidden": self.lessons.hidden[rows, : longest - 1].float(),
            "starts": self.lessons.starts[rows],
            "lengths": self.lessons.lengths[rows],
        }


class FlashObjective(Objective):
    """Guess the hidden states of a frozen model ahead, and through them its words.

    At every position j from which something of the answer is written, offset i = 0..k-1 of the drafter guesses the
    hidden state at j + 1 + i: smooth L1 between the two, and cross-entropy between what the model's output layer makes
    of them, both averaged over positions and offsets. Offsets that reach behind the answer are left out (in published
    code they are padding that must not count). Inputs are blurred with uniform noise, (U - 0.5) * noise * 512 / length.

    Works for `FlashDrafter` and, with k = 1, for `ChainDrafter`. Batches are those of `LessonBatches`; their pictures
    must lie at the same place in all rows, as they do with one template and one size of picture.

    Args:
        drafter: what is trained.
        model: whose embeddings and output layer are used; they do not change.
        image_token: id of visual positions; by default the one that the model's configuration names.
        regression: weight of the smooth L1.
        distillation: weight of the cross-entropy.
        noise: width of the noise at a length of 512; 0 for none.
    """

    embedding: nn.Embedding
    head: nn.Linear

    def __init__(
        self,
        drafter: Drafter,
        model: PreTrainedModel,
        image_token: int | None = None,
        *,
        regression: float = 1.0,
        distillation: float = 0.1,
        noise: float = 0.2,
    ) -> None:
        super().__init__()
        self.drafter = drafter
        self.image_token = placeholder_of(model.config, "image") if image_token is None else image_token
        self.regression, self.distillation, self.noise = regression, distillation, noise
        # Copies, which go where the drafter goes: the model may stay where it is, and as it is.
        self.frozen(
            embedding=copy.deepcopy(cast(nn.Module, model.get_input_embeddings())),
            head=copy.deepcopy(cast(nn.Module, model.get_output_embeddings())),
        )

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The loss, its parts, and how often the nearest and the farthest guess name the model's own word."""
        ids, hidden = batch["ids"], batch["hidden"]
        span = self._span(ids, batch["starts"])
        blurred = hidden
        if self.training and self.noise:
            blurred = hidden + (torch.rand_like(hidden) - 0.5) * (self.noise * 512 / hidden.shape[1])
        following = F.embedding(ids[:, span[1] + 1 :], self.embedding.weight)
        guessed = self.drafter(blurred, following, span)
        target, counts = _targets(hidden, span[1], self.drafter.offsets, batch["starts"], batch["lengths"])
        guess, truth = guessed[counts].float(), target[counts]
        words, right = self._words(guess), self._words(truth)
        # Means by hand: a batch of answers without a second word has nothing to guess.
        regression = F.smooth_l1_loss(guess, truth, reduction="sum") / max(guess.numel(), 1)
        distillation = F.cross_entropy(words, right.softmax(-1), reduction="sum") / max(len(guess), 1)
        agree = words.argmax(-1) == right.argmax(-1)
        offset = torch.arange(counts.shape[2], device=agree.device).expand_as(counts)[counts]
        return self.regression * regression + self.distillation * distillation, {
            "regression": regression,
            "distillation": distillation,
            "nearest": _mean(agree, offset == 0),
            "farthest": _mean(agree, offset == self.drafter.offsets - 1),
        }

    def _words(self, states: Float[Tensor, "m d"]) -> Float[Tensor, "m v"]:
        return F.linear(states.to(self.head.weight.dtype), self.head.weight, self.head.bias).float()

    def _span(self, ids: Int[Tensor, "b s"], starts: Int[Tensor, " b"]) -> tuple[int, int]:
        shown = ids == (-1 if self.image_token is None else self.image_token)
        if not bool((shown == shown[:1]).all()):
            raise InputError(
                "The pictures of a batch lie at different places: use one template and one size of picture, or sort "
                "the lessons into batches by where their pictures lie."
            )
        return visual_span(ids[0, : int(starts[0])].tolist(), self.image_token)


def _targets(
    hidden: Float[Tensor, "b s d"],
    end: int,
    offsets: int,
    starts: Int[Tensor, " b"],
    lengths: Int[Tensor, " b"],
) -> tuple[Float[Tensor, "b t k d"], Bool[Tensor, "b t k"]]:
    """What each guess behind the picture should be, and which guesses there are to make."""
    s = hidden.shape[1]
    at = torch.arange(end, s, device=hidden.device)
    ahead = at[:, None] + 1 + torch.arange(offsets, device=hidden.device)
    # From the prompt's last token on; the last state that matters is the one from which the last token was written.
    counts = (at[:, None] >= starts[:, None, None] - 1) & (ahead <= lengths[:, None, None] - 2)
    return hidden[:, ahead.clamp(max=s - 1)], counts


def _mean(values: Bool[Tensor, " m"], where: Bool[Tensor, " m"]) -> Float[Tensor, ""]:
    return (values & where).sum() / where.sum().clamp(min=1)


def paper_settings(steps: int = 800_000, **changed: Any) -> LoopSettings:
    """How the paper trains: AdamW (0.9, 0.95) at 3e-5 after a linear warm-up of 2,000 steps in 800,000.

    The authors clip each gradient at 0.5; the loop clips their norm, at the same value here.

    Args:
        steps: of the optimiser; the warm-up keeps its share.
        changed: other settings.
    """
    warmup = max(1, round(steps * 2_000 / 800_000))
    published = LoopSettings(steps=steps, lr=3e-5, warmup=warmup, betas=(0.9, 0.95), clip=0.5)
    return replace(published, **changed)
