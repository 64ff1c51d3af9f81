"""SmolLM2 with a small feed-forward layer beside each of its own: bits per byte and time against what is executed.

The small layers (Duo-LLM, arXiv 2410.10846) are distilled from the big ones and then trained on text under random
routing, for few steps; the model itself stays as it is. Then routers learn two budgets. Trainings are kept in the
cache: a second run only measures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from transformers import DynamicCache

import tokenry as tk
from benchmarks.common import interleave, write
from tokenry.bench.lines import digest
from tokenry.data.packages import cache_folder
from tokenry.data.text.corpora import load_corpus
from tokenry.hosts.upstream import cache_of, with_cache
from tokenry.models.adaptive.duo_llm.model import Choice, DuoForCausalLM, Routing, convert
from tokenry.models.adaptive.duo_llm.routing import pattern
from tokenry.models.adaptive.duo_llm.training import RandomRouting, RouterTraining, annealed, fit_budget
from tokenry.text.measure import bits_per_byte
from tokenry.train.language import TokenBatches, pack
from tokenry.train.loop import LoopSettings, Objective, train

SMALL = 1 / 8
CORPUS = "debian-docs"
BATCH, LENGTH = 4, 128
DISTIL_STEPS, TEXT_STEPS, ROUTER_STEPS = 100, 80, 60
BUDGETS = (0.5, 0.8)  # share of big choices that routers are trained to
BIGS = (24, 18, 12, 6)
FIXED = ("first", "last", "alternating")
TEXTS, CHARACTERS = 6, 800
PREFILL, NEW = 512, 12


@dataclass(frozen=True)
class Way:
    """A routing to measure, with the routers that it needs."""

    name: str
    routing: Routing
    routers: dict[str, torch.Tensor]


def trained(duo: DuoForCausalLM, ids: torch.Tensor, console: Console) -> list[Way]:
    """Train the small layers, and routers to each budget."""
    kept = (
        cache_folder()
        / "benchmarks"
        / f"duo-{digest(SMALL, CORPUS, BATCH, LENGTH, DISTIL_STEPS, TEXT_STEPS, ROUTER_STEPS)}"
    )

    def run(objective: Objective, batches: Callable[[int], Any], steps: int, lr: float, name: str) -> None:
        settings = LoopSettings(steps=steps, lr=lr, warmup=10, checkpoint_every=20)
        train(objective, batches, settings, kept / name, title=name, workers=0, console=console)
        duo.eval()

    batches = TokenBatches(ids, LENGTH, BATCH)
    run(RandomRouting(duo, learn="small", lm=0.0, distil=1.0), batches, DISTIL_STEPS, 1e-3, "distilled")
    run(RandomRouting(duo, learn="small", distil=1.0), batches, TEXT_STEPS, 5e-4, "small")
    untrained = routers(duo)
    ways = []
    for budget in BUDGETS:
        load(duo, untrained)
        later = annealed(TokenBatches(ids, LENGTH, BATCH // 2, seed=1), ROUTER_STEPS)
        run(RouterTraining(duo, budget), later, ROUTER_STEPS, 3e-3, f"routers {budget}")
        fit_budget(duo, batches(DISTIL_STEPS)["input_ids"], budget, rounds=10)
        ways.append(Way(f"routers to {budget:.0%} big", "router", routers(duo)))
    return ways


def routers(duo: DuoForCausalLM) -> dict[str, torch.Tensor]:
    """A copy of the weights of all routers."""
    return {name: value.clone() for name, value in duo.state_dict().items() if ".router." in name}


def load(duo: DuoForCausalLM, weights: dict[str, torch.Tensor]) -> None:
    """Put weights of routers back."""
    duo.load_state_dict(weights, strict=False)


@torch.no_grad()
def run(console: Console, rounds: int) -> None:
    """Measure bits per byte, then time, of fixed patterns and of routers."""
    model, tokenizer = tk.load("smollm2")
    plain, _ = tk.load("smollm2")
    train_on, held_out = load_corpus(CORPUS, limit=2_600_000).split(0.1)
    ids = pack(tokenizer, train_on.documents)
    texts = [text[:CHARACTERS] for text in held_out.documents[:TEXTS]]
    duo = convert(model, small=SMALL)
    with torch.enable_grad():
        learnt = trained(duo, ids, console)
    layers = len(duo.feed_forwards)
    ways = [Way("all big", "big", {})]
    ways += [Way(f"{name} {n} big", pattern(name, layers, n), {}) for n in BIGS for name in FIXED]
    ways += [*learnt, Way("all small", "small", {})]
    measured: dict[str, dict[str, Any]] = {}
    for way in ways:
        load(duo, way.routers)
        with duo.routed(way.routing), duo.traced() as trace:
            bits = bits_per_byte(duo.model, tokenizer, texts, window=512)
        choices = torch.cat([one.flatten(0, 1) for one in trace.passes])
        measured[way.name] = {"bits per byte": round(bits, 4), **executed(duo, choices, way)}
    # of the fixed patterns with as many big layers, time is that of any: the best one is timed
    best = {
        min((f"{name} {n} big" for name in FIXED), key=lambda row: measured[row]["bits per byte"])
        for n in BIGS
    }
    timed = [
        way
        for way in ways
        if way.name in best or way.name not in {f"{p} {n} big" for n in BIGS for p in FIXED}
    ]
    seconds = clocked(plain, duo, timed, ids, rounds)
    rows = [{"routing": way.name, **measured[way.name], **seconds.get(way.name, {})} for way in ways]
    rows.insert(0, {"routing": "SmolLM2 as it is", **seconds["SmolLM2 as it is"]})
    write(
        "duo",
        rows,
        {
            "prefill / as it is": "all big at most 1.02; with patterns at most 0.05 above the share of multiply-adds",
            "bits per byte": "routers below the best pattern of the same share of big layers",
        },
        console,
    )


def executed(duo: DuoForCausalLM, choices: torch.Tensor, way: Way) -> dict[str, float]:
    """The share of big choices, and of multiply-adds: of the feed-forward layers, and of the whole model."""
    table, other = duo.costs(), duo.other_cost()
    spent = float(table.executed({str(i): choices[..., i] for i in range(choices.shape[-1])}).mean())
    spent -= 0 if way.routers else table.overhead
    return {
        "big": round(float((choices == Choice.BIG).float().mean()), 3),
        "feed-forward": round(spent / table.highest, 3),
        "multiply-adds": round((spent + other) / (table.highest + other), 3),
    }


def clocked(
    plain: Any, duo: DuoForCausalLM, ways: list[Way], ids: torch.Tensor, rounds: int
) -> dict[str, dict[str, float]]:
    """Time a prefill, and decoding behind it, of the model as it is and of every routing."""
    prompt = ids[None, :PREFILL]

    def prefill(model: Any) -> Any:
        return model(
            prompt, **with_cache(model, DynamicCache(config=model.config)), use_cache=True, logits_to_keep=1
        )

    def decode(model: Any, cache: DynamicCache) -> None:
        for step in range(NEW):
            model(ids[None, PREFILL + step, None], **with_cache(model, cache), use_cache=True)
        cache.crop(-NEW)

    def as_routed(way: Way, what: Callable[..., Any], *args: Any) -> Callable[[], Any]:
        def run() -> Any:
            load(duo, way.routers)
            with duo.routed(way.routing):
                return what(duo.model, *args)

        return run

    jobs: dict[str, Callable[[], Any]] = {"prefill SmolLM2 as it is": lambda: prefill(plain)}
    filled = cache_of(prefill(plain))
    jobs["decode SmolLM2 as it is"] = lambda: decode(plain, filled)
    for way in ways:
        jobs[f"prefill {way.name}"] = as_routed(way, prefill)
        jobs[f"decode {way.name}"] = as_routed(way, decode, cache_of(jobs[f"prefill {way.name}"]()))
    spent = interleave(jobs, rounds, warm_up=1)
    names = ["SmolLM2 as it is", *(way.name for way in ways)]
    return {
        name: {
            "prefill, s": spent[f"prefill {name}"].median,
            "prefill / as it is": spent[f"prefill {name}"].over(spent["prefill SmolLM2 as it is"]),
            "decode, s": spent[f"decode {name}"].median,
            "decode / as it is": spent[f"decode {name}"].over(spent["decode SmolLM2 as it is"]),
        }
        for name in names
    }
