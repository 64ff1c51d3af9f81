"""FLASH: decoding with several drafters in turns, each with a clock."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from reproductions.predict.flash_host import answer_ids, ask_to_describe
from tokenry.data.scenes.scenes import Scene
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.tree import Draft


@dataclass(eq=False)
class TimedProposer:
    """A proposer with a clock."""

    inner: Proposer
    hidden: bool = True
    seconds: float = 0.0

    def begin(self, prompts: Sequence[Sequence[int]], hidden: Any) -> None:
        """See `Proposer.begin`."""
        self._timed(self.inner.begin, prompts, hidden)

    def propose(self, row: int, text: Sequence[int], limit: int) -> Draft:
        """See `Proposer.propose`."""
        return self._timed(self.inner.propose, row, text, limit)

    def learn(self, row: int, verified: Verified) -> None:
        """See `Proposer.learn`."""
        self._timed(self.inner.learn, row, verified)

    def _timed(self, do: Any, *what: Any) -> Any:
        started = time.process_time()
        found = do(*what)
        self.seconds += time.process_time() - started
        return found


@dataclass
class DraftingArm:
    """What one way of drafting took, over all pictures."""

    how: Speculation
    clock: TimedProposer
    tokens: int = 0
    steps: int = 0
    texts: int = 0
    different: int = 0
    right: float = 0.0
    seconds: float = 0.0
    greedy_seconds: float = 0.0

    @property
    def tau(self) -> float:
        """Acceptance length: tokens a pass, the first token of a text aside, which needs none."""
        return (self.tokens - self.texts) / self.steps

    @property
    def cost(self) -> float:
        """Milliseconds of the drafter per token."""
        return 1000 * self.clock.seconds / (self.tokens - self.texts)

    @property
    def length(self) -> float:
        """Tokens of a description."""
        return self.tokens / self.texts

    @property
    def speed(self) -> float:
        """Greedy decoding's time over this one's, the pass over the prompt and the picture included."""
        return self.greedy_seconds / self.seconds


def decode_in_turns(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scene: Scene,
    arms: Mapping[str, DraftingArm],
    longest: int,
    turn: int,
) -> None:
    """Describe a picture greedily and with every drafter; who begins changes from picture to picture."""
    asked: dict[str, Any] = dict(ask_to_describe(processor, [scene]), max_new_tokens=longest, do_sample=False)
    started = time.process_time()
    expected: Tensor = model.generate(**asked)
    greedy = time.process_time() - started
    new = expected[0, asked["input_ids"].shape[1] :].tolist()
    right = float(new == answer_ids(scene))
    names = list(arms)
    for name in (names[(i + turn) % len(names)] for i in range(len(names))):
        arm = arms[name]
        started = time.process_time()
        found = model.generate(**asked, custom_generate=arm.how)
        arm.how.stats.raise_if_interrupted()
        arm.seconds += time.process_time() - started
        arm.greedy_seconds += greedy
        arm.different += not torch.equal(found, expected)
        arm.right += (right - arm.right) / (arm.texts + 1)
        arm.tokens += arm.how.stats.tokens
        arm.steps += arm.how.stats.steps
        arm.texts += 1
