"""Running examples under one arm, and writing down what it took.

How times are taken. The answer comes from one call of the model's own `generate` (greedy). Hooks around the model's
forward pass take the time of each pass: the first is the prefill - from embedded prompt and encoded picture to the
logits of the first new token, with the choice of tokens inside it - and the median of the later ones is the time per
new token. What `generate` does between passes (bookkeeping in Python, the same for every arm) is left out. The vision
side runs before, once per picture, and is timed apart. CUDA is synchronised around every pass.

Questions may be put in batches, rows of different length padded on the left. What is done for all of them at once
(vision side, prefill, choice of tokens) is shared out evenly: a question is charged the time divided by the rows. The
time per new token is that of a pass of the batch, over the passes until the question's own answer ended: it is what
somebody who waits for the answer waits for. FLOPs and cache are counted for each question alone, without padding.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from tokenry.bench.environment import PeakMemory
from tokenry.bench.lines import digest
from tokenry.bench.reducers.arms import MethodArm
from tokenry.bench.reducers.results import ArmResult, TokenTrace
from tokenry.data.questions.examples import Example, region_mask
from tokenry.data.scenes.scenes import Box
from tokenry.hosts import Encoded, Host, ItemTrace, decoder_flops, kv_bytes, question_inputs, visual_kinds
from tokenry.hosts.wrappers import device_of, synchronise, unwrap
from tokenry.reduce import Reducer, session
from tokenry.tokens import InputError, Reduction


@dataclass(frozen=True)
class VisualPrompt:
    """A question about its pictures, ready for the model.

    Attributes:
        example: where it comes from.
        item: digest of the example.
        inputs: what the processor made, on the model's device.
        digest: hash of the inputs.
        images: the pictures, opened.
    """

    example: Example
    item: str
    inputs: dict[str, Any]
    digest: str
    images: tuple[Image.Image, ...]

    @classmethod
    def of(cls, model: Any, processor: Any, example: Example) -> VisualPrompt:
        """Put the example through the processor, with its chat template if it has one.

        Raises:
            InputError: a picture cannot be read, or the processor cannot put a question about it
                (`tokenry.hosts.question_inputs`).
        """
        images = tuple(picture.open() for picture in example.pictures)
        inputs = question_inputs(model, processor, [images], [example.question], [example.video])
        return cls(example, item_digest(example), inputs, _digest(inputs), images)


@dataclass(frozen=True)
class Batch:
    """Questions that are put to the model in one pass.

    Attributes:
        prompts: one for each row.
        inputs: what the processor made of all of them together.
        encoded: the vision side, once it has been run.
    """

    prompts: tuple[VisualPrompt, ...]
    inputs: dict[str, Any]
    encoded: Encoded | None = None

    @classmethod
    def of(cls, model: Any, processor: Any, prompts: Sequence[VisualPrompt]) -> Batch:
        """Put the prompts together, rows padded on the left.

        Raises:
            InputError: the processor cannot put questions about pictures together.
        """
        if len(prompts) == 1:
            return cls(tuple(prompts), prompts[0].inputs)
        questions = [prompt.example.question for prompt in prompts]
        videos = [prompt.example.video for prompt in prompts]
        inputs = question_inputs(model, processor, [prompt.images for prompt in prompts], questions, videos)
        return cls(tuple(prompts), inputs)

    def after(self, encoded: Encoded) -> dict[str, Any]:
        """This batch's inputs with its pictures as encoded, be it for other questions about the same pictures."""
        kept = {name: self.inputs[name] for name in encoded.inputs if name in self.inputs}
        return {**encoded.inputs, **kept}


class Stopwatch:
    """Times every forward pass of a model between ``with`` and its end.

    Attributes:
        seconds: one per pass.
    """

    def __init__(self, model: Any) -> None:
        self.seconds: list[float] = []
        self._model = unwrap(model, bare=False)  # an adapter's `generate` calls the model inside, not itself
        self._started = 0.0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        # Prepended: hooks of a session that are around the same module belong to what is timed.
        before = self._model.register_forward_pre_hook(self._start, prepend=True)
        after = self._model.register_forward_hook(self._stop)
        self._stack.callback(before.remove)
        self._stack.callback(after.remove)
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _start(self, *_: object) -> None:
        synchronise(self._model)
        self._started = time.perf_counter()

    def _stop(self, *_: object) -> None:
        synchronise(self._model)
        self.seconds.append(time.perf_counter() - self._started)


@dataclass(frozen=True)
class TimedAnswer:
    """What the model said to one question under one arm, and what that took. Times are seconds.

    Attributes:
        text: the answer, without special tokens.
        passes: time of each forward pass until the answer ended; the first is the prefill, its share of the batch's.
        selection_s: choosing tokens, its share of the batch's.
        by_layer: visual tokens in each decoder layer.
        full_tokens: visual tokens of the prompt.
        prefill_flops, kv_bytes: analytic; `full_*`: of the same prompt on all tokens.
        memory_bytes: peak while answering, where known; the batch's.
        traces: what became of each picture's tokens; none for the model as it is.
    """

    text: str
    passes: tuple[float, ...]
    selection_s: float
    by_layer: tuple[int, ...]
    full_tokens: int
    prefill_flops: float
    full_prefill_flops: float
    kv_bytes: float
    full_kv_bytes: float
    memory_bytes: float | None
    traces: tuple[ItemTrace, ...] = ()

    @property
    def decode_s(self) -> float | None:
        """Median time of a pass after the first; None if there was none."""
        return statistics.median(self.passes[1:]) if len(self.passes) > 1 else None


def encode(model: Any, batch: Batch, methods: Sequence[Reducer]) -> Encoded:
    """The vision side of a batch, with all that the methods read of it."""
    return session.encode(model, batch.inputs, methods)


def require_tokens(max_new_tokens: int) -> None:
    """Refuse answers of no length, before anything is measured.

    Raises:
        InputError: fewer than one token.
    """
    if max_new_tokens < 1:
        raise InputError(f"An answer has at least one token, but max_new_tokens is {max_new_tokens}.")


def answer(
    model: Any, processor: Any, batch: Batch, encoded: Encoded, arm: MethodArm, *, max_new_tokens: int
) -> tuple[TimedAnswer, ...]:
    """Ask the model, on the tokens that an arm leaves it: one answer for each row of the batch.

    `none` runs the model itself, without a session around it.
    """
    inputs = batch.after(encoded)
    rows, width = inputs["input_ids"].shape
    with ExitStack() as stack:
        run = (
            stack.enter_context(session.reduced(model, arm.methods, encoded=encoded)) if arm.methods else None
        )
        peak = stack.enter_context(PeakMemory(device_of(model)))
        watch = stack.enter_context(Stopwatch(model))
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        traces = tuple(run.trace) if run else ()
        selection = run.selection_s if run else 0.0
        lengths = run.lengths if run else None
    host = Host.of(model)
    full = _real_tokens(inputs)[:, None].expand(-1, len(host.layers))
    visual = sum(kind.sum(1).cpu() for kind in visual_kinds(host, inputs["input_ids"], inputs).values())
    ends = _ends(model)
    found = []
    for row in range(rows):
        said = _until(ids[row, width:], ends)
        mine, whole = tuple(t for t in traces if t.row == row), full[row : row + 1]
        spent = whole if lengths is None else lengths[row : row + 1]
        tokens = int(visual[row]) if torch.is_tensor(visual) else 0
        found.append(
            TimedAnswer(
                text=processor.batch_decode(said[None], skip_special_tokens=True)[0].strip(),
                passes=(watch.seconds[0] / rows, *watch.seconds[1 : len(said)]),
                selection_s=selection / rows,
                by_layer=tuple(sum(t.counts[i] for t in mine) for i in range(len(host.layers)))
                if run
                else (tokens,) * len(host.layers),
                full_tokens=tokens,
                prefill_flops=float(decoder_flops(host, spent)),
                full_prefill_flops=float(decoder_flops(host, whole)),
                kv_bytes=float(kv_bytes(host, spent)),
                full_kv_bytes=float(kv_bytes(host, whole)),
                memory_bytes=peak.bytes,
                traces=mine,
            )
        )
    return tuple(found)


def _real_tokens(inputs: Mapping[str, Any]) -> Int[Tensor, " rows"]:
    """The tokens of each row that are not padding."""
    ids, mask = inputs["input_ids"], inputs.get("attention_mask")
    return (torch.ones_like(ids) if mask is None else mask).long().sum(1).cpu()


def _ends(model: Any) -> Int[Tensor, " n"]:
    """The tokens that end an answer."""
    ends = model.generation_config.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long).view(-1)


def _until(said: Int[Tensor, " n"], ends: Int[Tensor, " m"]) -> Int[Tensor, " k"]:
    """An answer up to its end: what stands behind it fills the row until the longest answer ends."""
    found = torch.isin(said, ends.to(said.device)).nonzero()
    return said if not len(found) else said[: int(found[0, 0]) + 1]


def to_result(
    found: TimedAnswer,
    arm: MethodArm,
    prompt: VisualPrompt,
    encoded: Encoded,
    *,
    rows: int,
    setting: str,
    key: str,
    score: float | None,
    shown: bool,
) -> ArmResult:
    """The line that the results file keeps of a question in a pass of so many; `shown` examples keep their traces."""
    example = prompt.example
    trace = trace_of(found) if len(encoded.pictures) == 1 else None
    return ArmResult(
        setting=setting,
        key=key,
        method=arm.method,
        budget=arm.budget,
        seed=arm.seed,
        item=prompt.item,
        example=example.id,
        picture=example.picture,
        topic=example.kind,
        question=example.question,
        truth=" / ".join(example.references) if example.references else None,
        answer=found.text,
        score=score,
        tokens=found.by_layer[0],
        full_tokens=found.full_tokens,
        by_layer=found.by_layer,
        prefill_flops=found.prefill_flops,
        kv_bytes=found.kv_bytes,
        encoder_ms=1000 * encoded.seconds / rows,
        selection_ms=1000 * found.selection_s,
        prefill_ms=1000 * found.passes[0],
        decode_ms=None if found.decode_s is None else 1000 * found.decode_s,
        memory_bytes=found.memory_bytes,
        recall=1.0
        if not arm.methods and example.regions
        else recall(trace, example.regions, prompt.images[0].size),
        trace=trace if shown and arm.seed == 0 else None,
        kept=None if trace is None else digest(trace.life, trace.group, arm.position_rule),
        rows=rows,
    )


def as_seen(processor: Any, prompt: VisualPrompt) -> Image.Image:
    """The picture as the encoder saw it: resized and cropped, colours as they were; the picture itself where the
    processor cut it into tiles or packed its patches."""
    pixels = prompt.inputs.get("pixel_values")
    settings = getattr(processor, "image_processor", None)
    mean, std = (torch.tensor(getattr(settings, name, None) or ()) for name in ("image_mean", "image_std"))
    if (
        not torch.is_tensor(pixels)
        or pixels.ndim != 4
        or pixels.shape[:2] != (1, 3)
        or mean.numel() != 3
        or std.numel() != 3
    ):
        return prompt.images[0]
    colours = pixels[0].float().cpu() * std.view(3, 1, 1) + mean.view(3, 1, 1)
    return Image.fromarray((255 * colours.clamp(0, 1)).round().byte().permute(1, 2, 0).numpy())


def trace_of(found: TimedAnswer) -> TokenTrace | None:
    """What became of the tokens of the only picture; None for no or several pictures."""
    if len(found.traces) != 1:
        return None
    (item,) = found.traces
    cuts = sorted({0, *item.cuts})
    ends = [*cuts[1:], item.layers]
    # Between two cuts nothing changes, so one look per cut is enough.
    life = sum(
        (item.kept_at(at).long() * (end - at) for at, end in zip(cuts, ends, strict=True)),
        torch.zeros(item.n),
    )
    return TokenTrace(item.grid, item.layers, tuple(life.long().tolist()), _merged(item))


def _merged(item: ItemTrace) -> tuple[int, ...] | None:
    """The output that each token went into at the last step that merged any."""
    merges = [
        i for i, (_, step) in enumerate(item.steps) if not (isinstance(step, Reduction) and step.is_selection)
    ]
    if not merges:
        return None
    steps = [step for _, step in item.steps[: merges[-1] + 1]]
    if not all(isinstance(step, Reduction) for step in steps):
        return None  # outputs that mix all sources have no groups
    whole = reduce(lambda a, b: a.compose(b), steps)
    return tuple(whole.group[0].tolist()) if isinstance(whole, Reduction) else None


def recall(trace: TokenTrace | None, regions: Sequence[Box], size: tuple[int, int]) -> float | None:
    """Share of the patches under the answer's regions that are present, averaged over the decoder's layers.

    None where there are no regions, or the tokens lie on no grid over the picture.
    """
    if trace is None or not regions:
        return None
    frames, rows, columns = trace.grid
    if frames != 1 or rows * columns != len(trace.life):
        return None
    width, height = size
    wanted = region_mask(tuple(regions), (height, width), (rows, columns)).flatten()
    lives = [life / trace.layers for life, want in zip(trace.life, wanted, strict=True) if want]
    return sum(lives) / len(lives) if lives else None


def item_digest(example: Example) -> str:
    """What an example is: its name, pictures, question, references and options, and whether it is about a video."""
    pictures = [(picture.name, picture.fingerprint) for picture in example.pictures]
    parts = [
        example.id,
        pictures,
        example.question,
        example.answer,
        list(example.answers),
        list(example.choices),
    ]
    return digest(*parts, *(["video"] if example.video else []))


def _digest(inputs: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(inputs.items()):
        found.update(name.encode())
        if torch.is_tensor(value):
            found.update(value.detach().cpu().double().numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()[:20]
