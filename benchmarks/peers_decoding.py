"""Faster decoding with other people's packages: run by an interpreter that has them, which need not be tokenry's.

``PYTHON peers_decoding.py < job.json > result.json``. Reads {"folder", "prompts": [[token ids]], "eos", "new_tokens",
"rounds", "ways": [names] or null}; writes {"versions", "left_out": {way: reason}, "runs": [{"prompt", "round", "way",
"seconds", "ids"}]}. Every prompt is decoded in every way in turn, greedily, on one thread and in bfloat16, "greedy"
(transformers' own loop) among them, so that ratios to it compare with ratios measured elsewhere.

What needs no training and no second model is taken, each package at the best of the settings that were tried on this
model; drafters that learn keep what they have learned for the length of a round. An environment with them:
``pip install torch transformers flashspec economize loguru onnxruntime`` and ``pip install --no-deps
--ignore-requires-python dejavuu`` (which declares Python 3.13, and runs on 3.11).
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tokenry.hosts.checkpoints import Checkpoint

PACKAGES = ("flashspec", "economize", "dejavuu", "torch", "transformers")

Decode = Callable[[list[int]], Sequence[int]]
"""Prompt -> new tokens."""


class Job:
    """What is asked for, and the ways of doing it.

    Args:
        asked: the job as it was read.
    """

    def __init__(self, asked: dict[str, Any]) -> None:
        self.folder, self.eos, self.new_tokens = asked["folder"], asked["eos"], asked["new_tokens"]
        self.prompts, self.rounds = asked["prompts"], asked["rounds"]
        self.left_out: dict[str, str] = {}
        known = {
            "greedy": self.greedy,
            "flashspec prompt lookup": lambda: self.flashspec(6),
            "economize prompt lookup": lambda: self.economize(8, "earliest"),
            "dejavuu prompt lookup": lambda: self.dejavuu("pld", 8),
            "dejavuu token recycling": lambda: self.dejavuu("token_recycling", 16, 4),
            "dejavuu suffixes+recycling": lambda: self.dejavuu("suffix_recycle_merge", 8),
        }
        self.known = {**known, **{name: self.tried(name) for name in asked["ways"] or () if ":" in name}}
        self.wanted = ["greedy", *(name for name in asked["ways"] or known if name != "greedy")]

    def tried(self, name: str) -> Callable[[], Callable[[], Decode]]:
        """Another setting of a package, as PACKAGE:ARGUMENT:..., to look for its best one."""
        package, *given = name.split(":")
        values = [int(value) if value.isdigit() else value for value in given]
        return lambda: getattr(self, package)(*values)

    def model(self) -> Any:
        """A model of its own for every way: some packages change it."""
        return Checkpoint(str(self.folder)).model(AutoModelForCausalLM, dtype=torch.bfloat16)

    def greedy(self) -> Callable[[], Decode]:
        """transformers' own greedy decoding."""
        model = self.model()

        def decode(prompt: list[int]) -> list[int]:
            ids = torch.tensor([prompt])
            made = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self.new_tokens,
                do_sample=False,
                eos_token_id=self.eos,
                pad_token_id=self.eos[0],
            )
            return list(made[0, len(prompt) :].tolist())

        return lambda: decode

    def flashspec(self, gamma: int) -> Callable[[], Decode]:
        """Prompt lookup: its drafters that run a model need a smaller one of the same vocabulary."""
        from flashspec import BanditConfig, FlashSpecConfig, SamplingConfig, SpeculativeEngine
        from flashspec.engine import NgramDrafter, TargetModel

        cpu = torch.device("cpu")
        target = TargetModel(self.folder, cpu, torch.bfloat16, model=self.model())
        config = FlashSpecConfig(
            device="cpu",
            drafter_strategy="bandit",
            bandit=BanditConfig(n_arms=1),
            sampling=SamplingConfig(temperature=0.0, gamma=gamma),
        )
        engine = SpeculativeEngine(config, [NgramDrafter()], target)

        def decode(prompt: list[int]) -> list[int]:
            made = engine.generate(
                torch.tensor([prompt]), max_new_tokens=self.new_tokens, eos_token_ids=self.eos
            )
            return list(made.output_ids[0, : made.n_tokens_generated].tolist())

        return lambda: decode

    def economize(self, cycle: int, match: str = "latest", skip: int = 0) -> Callable[[], Decode]:
        """Prompt lookup; with `skip`, the model without so many layers drafts where nothing is found."""
        import economize
        from economize.techniques.hybrid import HybridConfig
        from economize.techniques.layer_skip import LayerSkipConfig
        from economize.techniques.lookup import LookupConfig

        fallback = LayerSkipConfig(num_skip=skip, search="uniform") if skip else None
        technique = HybridConfig(fallback=fallback, match=match) if fallback else LookupConfig(match=match)
        model = economize.apply(self.model(), technique, decoding=economize.DecodeConfig(cycle_length=cycle))

        def decode(prompt: list[int]) -> list[int]:
            made = model.decode(torch.tensor(prompt), self.new_tokens, stop=self.eos)
            tokens = made.tokens
            return list(tokens.tolist() if torch.is_tensor(tokens) else tokens)

        return lambda: decode

    def dejavuu(self, method: str, budget: int, width: int = 2) -> Callable[[], Decode]:
        """Trees of guesses; on sdpa (its default, eager, is slower), without hidden states, which these do not need."""
        from dejavuu.core.engine import generate
        from dejavuu.decoders.hf import HFBackend
        from dejavuu.drafters import make_drafter

        backend = HFBackend(
            self.folder, device="cpu", dtype="bfloat16", attn_implementation="sdpa", emit_hidden=False
        )

        def fresh() -> Decode:
            drafter = make_drafter(method)

            def decode(prompt: list[int]) -> list[int]:
                made = generate(
                    backend, prompt, self.new_tokens, drafter, budget, self.eos[0], tree=True, width=width
                )
                return list(made.tokens)

            return decode

        return fresh

    def run(self) -> dict[str, Any]:
        """Decode every prompt in every way, in turn."""
        ways: dict[str, Callable[[], Decode]] = {}
        for name in self.wanted:
            try:
                ways[name] = self.known[name]()
                ways[name]()(self.prompts[0][:8])  # nothing of what happens only once counts
            except Exception as error:  # somebody else's package: whatever it raises is the reason
                ways.pop(name, None)
                self.left_out[name] = f"{type(error).__name__}: {error}"[:300]
        runs = []
        for round_ in range(self.rounds):
            decoders = {name: fresh() for name, fresh in ways.items()}
            for number, prompt in enumerate(self.prompts):
                order = list(decoders) if (round_ + number) % 2 == 0 else list(reversed(decoders))
                for name in order:
                    started = time.process_time()
                    ids = decoders[name](prompt)
                    seconds = time.process_time() - started
                    runs.append(
                        {"prompt": number, "round": round_, "way": name, "seconds": seconds, "ids": list(ids)}
                    )
        return {"versions": _versions(), "left_out": self.left_out, "runs": runs}


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump(Job(json.load(sys.stdin)).run(), sys.stdout)
