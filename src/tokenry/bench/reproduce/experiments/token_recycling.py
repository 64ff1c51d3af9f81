"""Token Recycling: how many tokens a pass of SmolLM2 writes with draft trees from its own thrown-away candidates."""

from __future__ import annotations

import copy
from typing import Any

import torch

from tokenry.bench.decoders.compare import TRANSFORMERS_LOOKUP, compare_decoders
from tokenry.bench.decoders.report import GREEDY, DecodingReport
from tokenry.bench.reproduce.study import Arm, Figure, Outcome, Study
from tokenry.data.text.corpora import Corpus, load_corpus
from tokenry.data.text.prompts import Prompt
from tokenry.models.load import load
from tokenry.predict.lm.calibrate import calibrate
from tokenry.predict.lm.generate import decoder
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.token_recycling import TokenRecycling


def experiment(study: Study) -> Outcome:
    """Continue source code and documents, with an empty matrix and with one that earlier texts have filled."""
    s = study.settings
    code, text = load_corpus("python", limit=s["bytes"]), load_corpus(s["corpus"], limit=s["bytes"])
    prompts = {"code": _beginnings(code, s), "text": _beginnings(text, s)}
    model, tokenizer = _smollm2(torch.bfloat16)
    calibration = calibrate(model)
    largest = str(max(s["nodes"]))
    ways: dict[str, Any] = {f"{n} guesses": _recycling(model, n) for n in s["nodes"]}
    ways[f"{largest} guesses-cold"] = _recycling(model, max(s["nodes"]))
    ways["as calibrated"] = decoder(model, "token-recycling", calibration=calibration)
    ways[TRANSFORMERS_LOOKUP] = TRANSFORMERS_LOOKUP
    report = compare_decoders(
        model, tokenizer, prompts, ways, new_tokens=s["new_tokens"], rounds=1, calibration=calibration
    )
    exact = _in_float32({kind: some[: s["exact"]] for kind, some in prompts.items()}, s["exact_tokens"])
    recycled = TokenRecycling(int(model.config.vocab_size))
    per_50k = recycled.successors.nbytes / recycled.vocabulary * 50_000 / 1e6
    warm = report.summary(f"{largest} guesses")
    cold = report.summary(f"{largest} guesses-cold")
    return Outcome(
        metric=f"tokens per pass of SmolLM2-135M continuing code, {largest} guesses in a pass",
        ours=Arm("token recycling, matrix kept from text to text", (warm.acceptance["code"],)),
        baseline=Arm("plain greedy decoding", (report.summary(GREEDY).acceptance["code"],)),
        figures={
            "texts that differ from greedy": Figure.of([float(len(exact.runs) // 2 - _same(exact))]),
            "tokens per pass, code": Figure.of([warm.acceptance["code"]]),
            "tokens per pass, text": Figure.of([warm.acceptance["text"]]),
            "kept over empty": Figure.of([warm.acceptance_length - cold.acceptance_length]),
            "speed-up as calibrated": Figure.of([report.mean_speedup("as calibrated")]),
            "MB for 50,000 tokens": Figure.of([per_50k]),
        },
        tables={"ways": {one.decoder: _row(one) for one in report.summaries}},
        details={"forward times": calibration.to_json()},
        notes=(
            f"{s['texts']} beginnings of Python files and {s['texts']} of documents, {s['context']} tokens each, go on "
            f"for {s['new_tokens']} tokens; the end-of-text token is ignored. One text at a time, bfloat16; that the "
            "text is greedy decoding's is checked in float32, where near-ties do not flip.",
            "A fixed number of guesses takes the likeliest nodes of the paper's template of 80, as counted so far; "
            '"as calibrated" takes as many as the forward times of this machine and the guesses\' records repay.',
        ),
        data=(*code.provenance, *text.provenance),
    )


def _smollm2(dtype: torch.dtype) -> tuple[Any, Any]:
    """The model, going on for ever, and a tokenizer that takes texts as they are."""
    model, tokenizer = load("smollm2", dtype=dtype)
    model.generation_config.eos_token_id = None
    tokenizer = copy.copy(tokenizer)
    tokenizer.chat_template = None
    return model, tokenizer


def _beginnings(corpus: Corpus, s: Any) -> tuple[Prompt, ...]:
    """The same number of characters from the start of the first documents that are long enough."""
    length = s["context"] * 4  # characters: about four to a token
    long_enough = (text for text in corpus.documents if len(text) >= 2 * length)
    return tuple(
        Prompt.of(str(i), text[:length]) for i, text in zip(range(s["texts"]), long_enough, strict=False)
    )


def _recycling(model: Any, nodes: int) -> Speculation:
    return Speculation(TokenRecycling(int(model.config.vocab_size)), Fixed(nodes))


def _in_float32(prompts: dict[str, tuple[Prompt, ...]], tokens: int) -> DecodingReport:
    model, tokenizer = _smollm2(torch.float32)
    return compare_decoders(
        model, tokenizer, prompts, {"recycling": _recycling(model, 80)}, new_tokens=tokens, rounds=1
    )


def _same(report: DecodingReport) -> int:
    return sum(run.differs_at is None for run in report.of("recycling"))


def _row(summary: Any) -> dict[str, float]:
    return {f"tokens per pass, {kind}": round(value, 3) for kind, value in summary.acceptance.items()} | {
        "rows per pass": round(summary.rows_per_pass, 1),
        "speed-up": round(summary.mean_speedup, 3),
        "texts as greedy's in bfloat16": round(summary.same, 3),
        "MB held": round(summary.held_bytes / 1e6, 2),
    }
