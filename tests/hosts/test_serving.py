"""A server's life: threads, sessions without a block, prompts of text alone, copies, other attention kernels, peft."""

from __future__ import annotations

import copy
import functools
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

import tokenry as tk
from tests.hosts.families import BOS, FAMILIES, IMAGE, Inputs, prompts, text
from tests.hosts.test_families import state_of
from tokenry.hosts.host import Host
from tokenry.hosts.reducing.hooks import paused
from tokenry.predict.lm.calibrate import calibrate
from tokenry.reduce import Reducer
from tokenry.reduce.check import oracle_gap
from tokenry.reduce.fastervlm import FasterVLM
from tokenry.reduce.fastv import FastV
from tokenry.reduce.pyramiddrop import PyramidDrop
from tokenry.reduce.random import RandomTokens
from tokenry.reduce.session import encode
from tokenry.tokens import TokenryError, UnsupportedError

T = TypeVar("T")
WORDS = prompts([BOS, text(6, 1)])


@functools.cache
def built(family: str) -> PreTrainedModel:
    model: Any = FAMILIES[family].build()
    logits(model, FAMILIES[family].batch(model, "one"))  # transformers leaves things behind on the first call
    return model


def batch(family: str, shape: str = "one") -> Inputs:
    return FAMILIES[family].batch(built(family), shape)


def written(model: Any, inputs: Inputs, **options: Any) -> Tensor:
    """Logits of a prompt and five steps."""
    settings = dict(max_new_tokens=6, do_sample=False, return_dict_in_generate=True, output_logits=True)
    return torch.stack(model.generate(**inputs, **settings | options, pad_token_id=0).logits)


def logits(model: Any, inputs: Inputs) -> Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def elsewhere(act: Callable[[], T]) -> T:
    """What an action gives in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


@contextmanager
def left_as_it_was(model: Any) -> Iterator[None]:
    marks = state_of(model)
    yield
    assert state_of(model) == marks


# --- threads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("llava", RandomTokens(budget=0.4)),
        ("llava", FasterVLM(budget=0.4)),
        ("gemma3", FastV(budget=0.4, layer=1)),
        ("qwen3-vl", PyramidDrop(budget=0.4)),
    ],
    ids=lambda value: value if isinstance(value, str) else value.slug,
)
def test_threads_that_generate_at_once_have_answers_and_traces_of_their_own(
    family: str, method: Reducer, request: pytest.FixtureRequest
) -> None:
    model: Any = built(family)
    asked = [batch(family, shape) for shape in ("one", "ragged", "two")]
    expected = []
    for inputs in asked:
        with method(model) as run:
            expected.append((written(model, inputs), [item.counts for item in run.trace]))
    run = tk.reduced(model, method).attach()
    together = threading.Barrier(3)

    def serve(first: int) -> list[bool]:
        together.wait()
        found = []
        for number in (first, first + 1, first + 2):
            answer, counts = expected[number % 3]
            found.append(same(written(model, asked[number % 3]), answer))
            found.append([item.counts for item in run.trace] == counts)
        return found

    request.addfinalizer(functools.partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-5)
    with run, ThreadPoolExecutor(3) as pool:
        assert all(all(found) for found in pool.map(serve, range(3)))


def test_a_block_is_for_the_thread_that_runs_it() -> None:
    model: Any = built("llava")
    inputs, host = batch("llava"), Host.of(model)
    plain = logits(model, inputs)
    calls: list[Callable[[], Any]] = [
        lambda: logits(model, inputs),
        lambda: written(model, inputs),
        lambda: host.base(**inputs),
        lambda: host.decoder(inputs_embeds=torch.zeros(1, 2, 32)),
    ]
    with RandomTokens(budget=0.4)(model):
        mine = logits(model, inputs)
        for call in calls:
            with pytest.raises(TokenryError, match=r"busy.*another thread.*attach\(\)"):
                elsewhere(call)
        assert torch.equal(logits(model, inputs), mine)
    assert torch.equal(elsewhere(lambda: logits(model, inputs)), plain)


class Held:
    """A call in a thread of its own that stops at a decoder layer until it is let go."""

    def __init__(self, model: Any, inputs: Inputs, layer: int) -> None:
        self.there, self.go_on = threading.Event(), threading.Event()
        self._hook = Host.of(model).layers[layer].register_forward_pre_hook(self._stop)
        self._pool = ThreadPoolExecutor(1)
        self.answer = self._pool.submit(logits, model, inputs)
        assert self.there.wait(60)

    def _stop(self, *_: Any) -> None:
        self._hook.remove()
        self.there.set()
        assert self.go_on.wait(60)

    def end(self) -> Tensor:
        self.go_on.set()
        with self._pool:
            return self.answer.result()


def test_detaching_waits_for_the_calls_of_other_threads() -> None:
    model: Any = built("llava")
    inputs = batch("llava")
    with PyramidDrop(budget=0.4)(model):
        expected = logits(model, inputs)
    run = PyramidDrop(budget=0.4)(model).attach()
    held = Held(model, inputs, 1)
    with ThreadPoolExecutor(1) as pool:
        detached = pool.submit(run.detach)
        late = elsewhere(lambda: logits(model, WORDS))  # comes while the session is closing
        assert not detached.done()
        assert same(held.end(), expected)
        detached.result()
    assert same(late, logits(model, WORDS))


def test_a_call_that_began_before_the_session_ends_as_it_began() -> None:
    model: Any = built("llava")
    inputs = batch("llava")
    plain = logits(model, inputs)
    held = Held(model, inputs, 1)
    with FastV(budget=0.4, layer=2)(model):
        assert not same(logits(model, inputs), plain)
        assert torch.equal(held.end(), plain)


def test_training_steps_whose_gradients_are_computed_in_another_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on an accelerator, where autograd runs checkpointed layers again in a thread of its own."""
    model: Any = FAMILIES["llava"].build().train()
    inputs = batch("llava")
    labels = inputs["input_ids"].clone()

    def gradient() -> Tensor:
        return model.model.language_model.layers[0].self_attn.q_proj.weight.grad.clone()

    with PyramidDrop(budget=0.4)(model):
        model(**inputs, labels=labels).loss.backward()
        expected = gradient()
        for passes_chunks_on in (True, False):
            if not passes_chunks_on:
                monkeypatch.setattr(
                    "tokenry.hosts.reducing.decoder_entry.takes_anything", lambda module: False
                )
            model.gradient_checkpointing_enable()
            model.zero_grad()
            loss = model(**inputs, labels=labels).loss
            elsewhere(loss.backward)
            assert torch.allclose(gradient(), expected, atol=1e-6)
    assert not same(expected, torch.zeros_like(expected))


def test_pausing_is_for_one_thread() -> None:
    model: Any = built("llava")
    inputs = batch("llava")
    plain = logits(model, inputs)
    with RandomTokens(budget=0.4)(model).attach():
        reduced = logits(model, inputs)
        with paused(model):
            assert torch.equal(logits(model, inputs), plain)
            assert torch.equal(elsewhere(lambda: logits(model, inputs)), reduced)
        calibrate(model, rows=(1, 2), context=8, rounds=1)
        assert torch.equal(logits(model, inputs), reduced)


# --- attaching and detaching -------------------------------------------------------------------------------------


def test_a_session_attached_without_a_block_until_it_is_detached() -> None:
    model: Any = built("llava")
    inputs = batch("llava")
    plain = logits(model, inputs)
    run = tk.reduced(model, "random", budget=0.4)
    run.detach()  # nothing to do
    with left_as_it_was(model):
        assert run.attach() is run
        assert run.attach() is run
        with pytest.raises(TokenryError, match="already runs reduced"):
            tk.reduced(model, "pool").attach()
        with pytest.raises(TokenryError, match="already runs reduced"), tk.reduced(model, "pool"):
            pass
        assert not same(logits(model, inputs), plain)
        assert run.trace[0].counts[0] < 36
        run.detach()
        run.detach()
    assert torch.equal(logits(model, inputs), plain)
    assert run.trace[0].counts[0] < 36
    with run, pytest.raises(TokenryError, match="already runs reduced"):
        run.attach()  # the block is for its thread
    with run.attach() as again:  # a block around an attached session detaches it
        assert not same(logits(model, inputs), plain)
        assert again is run
    assert torch.equal(logits(model, inputs), plain)


def test_detaching_inside_a_call_is_refused() -> None:
    model: Any = FAMILIES["llava"].build()
    run = tk.reduced(model, "random").attach()
    hook = model.lm_head.register_forward_pre_hook(lambda *_: run.detach())
    with pytest.raises(TokenryError, match="from within a call"):
        logits(model, batch("llava"))
    hook.remove()
    logits(model, batch("llava"))
    assert run.trace[0].counts[0] < 36  # it goes on
    run.detach()
    assert "forward" not in vars(model)


def test_a_session_that_nobody_detaches_goes_with_its_model() -> None:
    model: Any = FAMILIES["llava"].build()
    tk.reduced(model, "fastv").attach()
    logits(model, batch("llava"))
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None


# --- prompts without a picture -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random", "fastervlm", "fastv", "pyramiddrop"])
def test_a_prompt_of_text_alone_runs_in_full_and_the_trace_says_so(method: str) -> None:
    model: Any = built("llava")
    plain = written(model, WORDS)
    with tk.reduced(model, method, budget=0.4) as run:
        written(model, batch("llava"))
        assert len(run.trace) == 1
        assert same(written(model, WORDS), plain)
        assert run.trace == []
        assert run.lengths.tolist() == [[7] * 4]
        assert run.cost.prefill_flops == run.cost.full_prefill_flops
        assert same(written(model, WORDS, use_cache=False), plain)
        written(model, batch("llava"))
        assert len(run.trace) == 1


@pytest.mark.parametrize("method", [RandomTokens(budget=0.4, positions="compact"), PyramidDrop(budget=0.4)])
@pytest.mark.parametrize("family", ["llava", "gemma3"])
def test_rows_of_a_batch_without_a_picture_run_in_full_beside_others(family: str, method: Reducer) -> None:
    model: Any = built(family)
    one = batch(family)
    pictured = one["input_ids"][0].tolist()
    inputs = one | prompts([BOS, text(9, 3)], pictured, [BOS, text(4, 5)])
    if "token_type_ids" in one:
        inputs["token_type_ids"] = (inputs["input_ids"] == IMAGE).long()
    assert oracle_gap(Host.of(model), inputs, method) <= 1e-5 * float(logits(model, inputs).abs().max())
    with method(model) as run:
        logits(model, inputs)
    assert [item.row for item in run.trace] == [1]
    assert run.lengths[::2].tolist() == [[10] * 4, [5] * 4]


def test_a_text_model_whose_prompt_has_nothing_to_drop() -> None:
    model: Any = built("llama")
    marks = lambda ids: ids == IMAGE  # noqa: E731
    plain = written(model, WORDS)
    with tk.reduced(model, "random", budget=0.4, tokens=marks) as run:
        assert same(written(model, WORDS), plain)
        assert run.trace == []


# --- what else is done to a model meanwhile ----------------------------------------------------------------------


def test_copies_made_in_a_block_are_plain_models() -> None:
    model: Any = FAMILIES["llava"].build()
    inputs = batch("llava")
    plain, marks = logits(model, inputs), state_of(model)
    with tk.reduced(model, ["fastervlm", "fastv"], budget=0.4):
        reduced = logits(model, inputs)
        twin, base = copy.deepcopy(model), copy.deepcopy(model.model)
        layer = copy.deepcopy(model.model.language_model.layers[2])
        assert state_of(twin) == marks
        assert torch.equal(logits(twin, inputs), plain)
        with tk.reduced(twin, ["fastervlm", "fastv"], budget=0.4):  # it may have a session of its own
            assert torch.equal(logits(twin, inputs), reduced)
        assert torch.equal(logits(model, inputs), reduced)
    assert not {"forward", "__deepcopy__"} & (vars(base).keys() | vars(layer).keys())
    model.model = base
    assert torch.equal(logits(model, inputs), plain)
    assert state_of(model) == marks


@pytest.mark.parametrize("methods", [["random"], ["fastervlm", "fastv"]])
def test_another_attention_implementation_set_in_a_block_works_and_stays(methods: list[str]) -> None:
    model: Any = FAMILIES["llava"].build("sdpa")
    other: Any = FAMILIES["llava"].build("eager")
    inputs = batch("llava", "ragged")
    with tk.reduced(other, methods, budget=0.4):
        expected = written(other, inputs)
    with tk.reduced(model, methods, budget=0.4):
        logits(model, inputs)
        model.set_attn_implementation("eager")
        assert same(written(model, inputs), expected)
    assert state_of(model) == state_of(other)
    with tk.reduced(model, methods, budget=0.4):
        model.set_attn_implementation({"text_config": "flex_attention"})
        with pytest.raises(UnsupportedError, match="'flex_attention' is not supported"):
            logits(model, inputs)


def test_encoding_pictures_beside_a_session_leaves_its_ears() -> None:
    model: Any = built("llava")
    inputs = batch("llava")
    with left_as_it_was(model), FasterVLM(budget=0.4)(model) as run:
        expected = logits(model, inputs)
        kept = run.trace[0].kept
        encode(model, inputs, ["fastervlm"])
        assert torch.equal(logits(model, inputs), expected)
        assert torch.equal(run.trace[0].kept, kept)


def test_what_a_user_put_on_the_model_stays() -> None:
    """Attributes of the instance that a session covers for a while: a compiled or wrapped method."""
    model: Any = FAMILIES["llava"].build()
    inputs = batch("llava")
    calls = []
    own = model.model.get_image_features

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return own(*args, **kwargs)

    model.model.get_image_features = counted
    with tk.reduced(model, "random"):
        logits(model, inputs)
    assert model.model.get_image_features is counted
    logits(model, inputs)
    assert len(calls) == 2


# --- adapters ----------------------------------------------------------------------------------------------------


def test_adapters_of_peft_run_reduced_with_their_weights() -> None:
    peft = pytest.importorskip("peft")
    inputs = batch("llava")
    config = peft.LoraConfig(
        target_modules=["q_proj", "v_proj"], init_lora_weights=False, task_type="CAUSAL_LM"
    )
    model: Any = peft.get_peft_model(FAMILIES["llava"].build(), config).eval()
    merged: Any = copy.deepcopy(model).merge_and_unload()
    with tk.reduced(merged, "pyramiddrop", budget=0.4):
        expected = written(merged, inputs)
    full = logits(model, inputs)
    with tk.reduced(model, "pyramiddrop", budget=0.4) as run:
        assert torch.allclose(written(model, inputs), expected, atol=1e-4)
        assert run.trace[0].counts[-1] < 36
        with model.disable_adapter():
            assert not same(logits(model, inputs), logits(merged, inputs))
    assert torch.equal(logits(model, inputs), full)
    assert tk.check(model, inputs, steps=2, methods=[RandomTokens(budget=0.4)]).ok
    fast = tk.generate(model, inputs, calibration={1: 1.0, 2: 1.0}, max_new_tokens=6)
    assert torch.equal(fast, model.generate(**inputs, max_new_tokens=6, do_sample=False, pad_token_id=0))
    assert calibrate(model, rows=(1,), context=8, rounds=1).context == 8


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_adapters_that_put_virtual_tokens_in_front_are_refused(kind: str) -> None:
    peft = pytest.importorskip("peft")
    config = getattr(peft, kind)(
        num_virtual_tokens=3, task_type="CAUSAL_LM", token_dim=32, num_layers=4, num_attention_heads=2
    )
    model = peft.get_peft_model(FAMILIES["llama"].build(), config)
    asks: list[Callable[[], Any]] = [
        lambda: tk.reduced(model, "random", tokens=slice(2, 5)),
        lambda: tk.check(model, WORDS, tokens=slice(2, 5)),
        lambda: calibrate(model),
    ]
    for ask in asks:
        with pytest.raises(UnsupportedError, match=r"puts 3 virtual tokens in front .* such as LoRA"):
            ask()
