"""What Adaptive Computation Modules save: time against executed learners, and SmolLM2's quality against both.

One feed-forward layer of SmolLM2's size shows whether time follows what is executed. Then all such layers of the
pretrained model are dealt out to learners (``start="slices"``) and distilled (phase 1), and their gates are trained
with a budget (phase 3, the model frozen, so that it does not come to know the corpus better than it did). Phase 2 is
left out: slices of a layer are exact only together, and its labels say so for nearly every token. Measured are forced
choices and gates at several thresholds: bits per byte, multiply-adds, time of a prompt.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from benchmarks.common import interleave, write
from tokenry.data.text.corpora import load_corpus
from tokenry.models.adaptive.acm.conversion import Converted, convert
from tokenry.models.adaptive.acm.layer import ACM, AcmConfig, FixedGate, Gate, ThresholdGate
from tokenry.models.adaptive.acm.training import EndToEnd, EndToEndWeights, ModuleDistillation
from tokenry.models.load import load
from tokenry.text.measure import bits_per_byte
from tokenry.train.language import TokenBatches, pack
from tokenry.train.loop import LoopSettings, Objective, train

_ORIGINAL = "SmolLM2"
LEARNERS = 4
TOKENS = 256
CONFIG = AcmConfig(learners=LEARNERS, form="layer", start="slices", ffn_minimum=2)
DISTILLATION_STEPS, GATE_STEPS, TARGET = 30, 40, 0.75
THRESHOLDS = (0.3, 0.5, 0.7, 0.9)
CORPUS, TRAIN_BYTES, TEXTS, CHARACTERS = "debian-docs", 1_500_000, 6, 2000


def run(console: Console, rounds: int) -> None:
    """Time one layer, then train and measure SmolLM2."""
    one_layer(console, rounds)
    smollm2(console, min(rounds, 7))


# ---------------------------------------------------------------------------------------------------- one layer


class _Spread(nn.Module):
    """Choices spread evenly over the tokens: the hardest case for skipping, as every learner has other tokens."""

    def __init__(self, choices: tuple[int, ...]) -> None:
        super().__init__()
        self.choices = torch.tensor(choices)

    def forward(self, x: Tensor) -> Tensor:
        chosen = self.choices.repeat(-(-x.shape[-2] // len(self.choices)))[: x.shape[-2]]
        return nn.functional.one_hot(chosen, LEARNERS + 1).to(x.dtype).expand(*x.shape[:-1], -1)


def one_layer(console: Console, rounds: int) -> None:
    """A feed-forward layer 576 -> 1536 -> 576 on 512 tokens: forced and spread choices against the layer itself."""
    torch.manual_seed(0)
    layer = LlamaMLP(LlamaConfig(hidden_size=576, intermediate_size=1536)).eval()
    host = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"mlp": layer})])})
    acm = next(iter(convert(host, CONFIG).acms.values())).eval()
    x = torch.randn(1, 512, 576)
    gates = {f"{k} of {LEARNERS}": FixedGate(k, LEARNERS) for k in range(1, LEARNERS + 1)} | {
        "spread 0-4": _Spread((0, 1, 2, 3, 4)),
        "spread 0-1": _Spread((0, 1)),
    }
    shares = {name: float(gate(x).argmax(-1).float().mean()) / LEARNERS for name, gate in gates.items()}

    def way(gate: nn.Module) -> Callable[[], Any]:
        def once() -> Any:
            acm.gate = gate
            with torch.no_grad():
                return acm(x)

        return once

    def original() -> Any:
        with torch.no_grad():
            return layer(x)

    timed = interleave({"layer": original} | {name: way(gate) for name, gate in gates.items()}, rounds)
    rows = [
        {
            "choice": name,
            "executed": round(share, 3),
            "ms": 1e3 * timed[name].median,
            "time / layer": timed[name].over(timed["layer"]),
        }
        for name, share in shares.items()
    ]
    write(
        "acm-layer",
        rows,
        {"time / layer": "at most 0.1 above the share executed: time follows what is executed"},
        console,
    )


# ------------------------------------------------------------------------------------------------------- SmolLM2


def smollm2(console: Console, rounds: int) -> None:
    """Phases 1 and 3 on SmolLM2, short, and what each way of choosing costs and keeps."""
    model, tokenizer = load("smollm2")
    corpus = load_corpus(CORPUS, limit=TRAIN_BYTES)
    train_on, held_out = corpus.split(0.1)
    batches = TokenBatches(pack(tokenizer, train_on.documents), TOKENS, 2)
    converted = convert(model, CONFIG)
    converted.sort_neurons(batches(1_000_000 + i) for i in range(4))
    untrained = {}
    for k in range(1, LEARNERS + 1):
        with converted.forced(k):
            untrained[f"{k} of {LEARNERS}"] = round(_measured(model, tokenizer, held_out.documents), 4)
    with tempfile.TemporaryDirectory() as folder:
        _train(
            ModuleDistillation(converted, relative=True), batches, DISTILLATION_STEPS, 3e-4, folder, console
        )
        gates_only = {"model.": 0.0} | {f"model.{name}.gate.": 1.0 for name in converted.acms}
        budget = EndToEnd(converted, TARGET, EndToEndWeights(budget=1.0, entropy=0.0, diversity=0.0))
        _train(budget, batches, GATE_STEPS, 5e-3, folder, console, gates_only)
    model.eval().to(torch.bfloat16)
    ids = batches(2_000_000)["input_ids"][:1]
    # weights outside the modules, the embedding as the output head that it also is; attention scores are not counted
    rest = model.num_parameters() - sum(
        p.numel() for acm in converted.acms.values() for p in acm.parameters()
    )
    ways = _ways(converted)

    def prompt() -> Any:
        with torch.no_grad():
            return model(ids, use_cache=False, logits_to_keep=1)

    timed = interleave(dict.fromkeys(ways, prompt), rounds, warm_up=1, around=ways)
    full = rest + converted.costs.full
    rows = []
    for name, way in ways.items():
        with way(), converted.watch() as watched:
            bits = _measured(model, tokenizer, held_out.documents)
        if name == _ORIGINAL:
            learners, spent = None, float(converted.costs.full)  # these layers have no gates to watch
        else:
            spent = watched.executed(converted.costs)
            learners = (spent - converted.costs.overhead) / converted.costs.highest
        rows.append(
            {
                "choice": name,
                "learners executed": learners,
                "M multiply-adds a token": (rest + spent) / 1e6,
                "of SmolLM2's": (rest + spent) / full,
                "bits per byte": round(bits, 4),
                "before phase 1": untrained.get(name),
                "s a prompt": timed[name].median,
                "time / SmolLM2": timed[name].over(timed[_ORIGINAL]),
            }
        )
    write(
        "acm",
        rows,
        {
            "time / SmolLM2": "below 1 wherever fewer than all learners run, and falling with them",
            "bits per byte": "gates at a threshold no worse than forcing as many learners on every token",
        },
        console,
    )


def _train(
    objective: Objective,
    batches: TokenBatches,
    steps: int,
    lr: float,
    folder: str,
    console: Console,
    lr_scale: Mapping[str, float] | None = None,
) -> None:
    settings = LoopSettings(
        steps=steps, lr=lr, warmup=4, weight_decay=0.0, checkpoint_every=steps, lr_scale=lr_scale or {}
    )
    name = type(objective).__name__
    train(objective, batches, settings, Path(folder) / name, title=name, workers=0, console=console)


def _ways(converted: Converted) -> Mapping[str, Callable[[], AbstractContextManager[Any]]]:
    """The model as it came, every forced number of learners, and gates at thresholds."""

    def at(threshold: float, name: str, acm: ACM) -> ThresholdGate:
        assert isinstance(acm.gate, Gate)
        return ThresholdGate(acm.gate, threshold)

    return (
        {_ORIGINAL: converted.base}
        | {f"{k} of {LEARNERS}": partial(converted.forced, k) for k in range(LEARNERS, 0, -1)}
        | {f"gates, {t}": partial(converted.with_gates, partial(at, t)) for t in THRESHOLDS}
        | {"gates, likeliest": nullcontext}
    )


def _measured(model: Any, tokenizer: Any, documents: Any) -> float:
    return bits_per_byte(model, tokenizer, [text[:CHARACTERS] for text in documents[:TEXTS]], window=TOKENS)
