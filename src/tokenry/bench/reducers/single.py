"""One question about one picture, on fewer tokens: the answer, what was kept, what it cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from tokenry.bench.reducers import measure
from tokenry.bench.reducers.arms import FULL, MethodArm, named
from tokenry.bench.reducers.columns import MISSING, flops, milliseconds, number, size
from tokenry.bench.reducers.measure import Batch, TimedAnswer, VisualPrompt
from tokenry.bench.reducers.overlay import draw_overlay, has_grid
from tokenry.bench.reducers.results import TokenTrace
from tokenry.data.questions.examples import Example
from tokenry.hosts import Encoded
from tokenry.reduce import Reducer, read_methods
from tokenry.tokens import BudgetLike, InputError, Positions
from tokenry.tokens.renamed import renamed


@dataclass(frozen=True)
class Single:
    """An answer on fewer tokens, beside the one on all of them if that was asked for.

    Attributes:
        reduced: on what the method leaves.
        full: on all tokens.
        encoder_ms: the vision side, once for both.
        picture: the picture as the encoder saw it.
        trace: what became of its tokens.
    """

    reduced: TimedAnswer
    full: TimedAnswer | None
    encoder_ms: float
    picture: Image.Image
    trace: TokenTrace | None

    def overlay(self, width: int = 672) -> Image.Image:
        """The picture with what was dropped veiled.

        Raises:
            InputError: the picture's tokens do not form one grid over it.
        """
        if self.trace is None or not has_grid(self.trace):
            raise InputError(
                "This model's tokens do not form one grid over the picture, so there is no overlay."
            )
        return draw_overlay(self.picture, self.trace, width)

    def costs(self) -> list[tuple[str, str, str]]:
        """(what, on all tokens, reduced), as text; a dash where it was not measured."""
        mine, full = self.reduced, self.full
        mean = sum(mine.by_layer) / len(mine.by_layer)
        whole_flops, whole_kv = mine.full_prefill_flops, mine.full_kv_bytes
        return [
            ("visual tokens in", number(mine.full_tokens), number(mine.by_layer[0])),
            ("visual tokens, mean over layers", number(mine.full_tokens), number(mean)),
            (
                "prefill FLOPs",
                flops(whole_flops),
                f"{flops(mine.prefill_flops)} ({mine.prefill_flops / whole_flops:.0%})",
            ),
            (
                "KV cache after prefill",
                size(whole_kv),
                f"{size(mine.kv_bytes)} ({mine.kv_bytes / whole_kv:.0%})",
            ),
            ("encoder ms", milliseconds(self.encoder_ms), milliseconds(self.encoder_ms)),
            ("prefill ms", _ms(full, 0), _ms(mine, 0)),
            (
                "of which selection ms",
                milliseconds(0) if full else MISSING,
                milliseconds(1000 * mine.selection_s),
            ),
            ("ms per new token", _ms(full, 1), _ms(mine, 1)),
        ]


@renamed(picture="image")
def ask(
    model: Any,
    processor: Any,
    image: Image.Image,
    question: str,
    method: str | Reducer,
    budget: BudgetLike | None = None,
    *,
    positions: Positions | str | None = None,
    compare_full: bool = False,
    max_new_tokens: int = 64,
) -> Single:
    """Ask one question, after a short warm-up so that times mean something.

    Args:
        model: a vision-language model.
        processor: its processor.
        image: what the question is about.
        question: the text.
        method: a name, a chain of names, or a configured `Reducer`.
        budget: its budget, unless it is configured.
        positions: rule for the position ids of the tokens that stay; as configured by default.
        compare_full: whether to ask on all tokens too.
        max_new_tokens: longest answer.

    Raises:
        TokenryError: an unknown method, a budget that means nothing, a model that does not support the method.
    """
    measure.require_tokens(max_new_tokens)
    methods = read_methods(method, **({} if budget is None else {"budget": budget}))
    if positions is not None:
        methods = tuple(replace(m, positions=positions) for m in methods)
    prompt = _prompt(model, processor, image, question)
    arms = [MethodArm(*named(methods), 0, methods)]
    arms += [MethodArm(FULL, "", 0, ())] if compare_full else []
    batch = Batch.of(model, processor, [prompt])
    encoded: Encoded = measure.encode(model, batch, methods)
    for arm in arms:
        measure.answer(model, processor, batch, encoded, arm, max_new_tokens=2)
    encoded = measure.encode(model, batch, methods)
    answers = [
        found
        for arm in arms
        for found in measure.answer(model, processor, batch, encoded, arm, max_new_tokens=max_new_tokens)
    ]
    return Single(
        reduced=answers[0],
        full=answers[1] if compare_full else None,
        encoder_ms=1000 * encoded.seconds,
        picture=measure.as_seen(processor, prompt),
        trace=measure.trace_of(answers[0]),
    )


@renamed(picture="image")
def prepare(model: Any, processor: Any, image: Image.Image, question: str) -> dict[str, Any]:
    """The inputs that the model's own `generate` takes for a question about a picture."""
    return _prompt(model, processor, image, question).inputs


def _prompt(model: Any, processor: Any, image: Image.Image, question: str) -> VisualPrompt:
    return VisualPrompt.of(model, processor, Example("question", "picture", image, question))


def _ms(answer: TimedAnswer | None, index: int) -> str:
    """Prefill (0) or the median of the later passes (1)."""
    if answer is None:
        return MISSING
    value = answer.passes[0] if index == 0 else answer.decode_s
    return MISSING if value is None else milliseconds(1000 * value)
