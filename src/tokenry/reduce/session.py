"""Running a model on fewer tokens: methods by name, and the session that they make."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from tokenry.hosts import Encoded, Host, Session, encode_pictures
from tokenry.reduce.base import Reducer
from tokenry.reduce.registry import read_methods
from tokenry.tokens import Needs


def reduced(
    model: nn.Module,
    method: str | Reducer | Iterable[str | Reducer],
    *,
    encoded: Encoded | None = None,
    tokens: slice | Tensor | Callable[[Tensor], Tensor] | None = None,
    crops: Sequence[int] | None = None,
    **settings: Any,
) -> Session:
    """Run a model on fewer visual tokens: ``with tk.reduced(model, "fastervlm", budget=64) as run: ...``.

    Inside the block the model's own calls - ``model(**inputs)``, ``model.generate(**inputs)``, a training step - take
    the same inputs and give outputs of the same shapes; dropped positions read zero; prompts without a picture run in
    full. On the way out, also after an exception, the model is exactly what it was.

    A block is for the thread that runs it. For a server, ``run = tk.reduced(...).attach()`` holds for all threads and
    until ``run.detach()``.

    Args:
        model: a transformers model: a vision-language model, or any causal language model with `tokens`; also one
            inside `peft.PeftModel` or `torch.compile(model)`.
        method: a name, a `Reducer`, several of them in the order in which they act, or "first+second".
        encoded: pictures encoded beforehand with `encode`.
        tokens: for a text model, which columns of the prompt may be dropped: a slice, a mask (batch x tokens), or a
            function from `input_ids` to a mask.
        crops: for models that cut pictures into tiles: how many tiles each picture has, in order of appearance. Only
            needed where the prompt does not tell (Gemma3's pan-and-scan, Idefics2's quarters).
        **settings: settings of methods given by name, such as `budget`.

    Returns:
        A `Session`: `run.trace` (what was kept), `run.cost` (FLOPs, cache), `run.lengths`, `run.selection_s`.

    Raises:
        UnsupportedError: a method cannot run on this model; the message says what can.
        TokenryError: an unknown method or setting, methods in an order in which they cannot act, a model that already
            runs reduced.
    """
    return Session(model, read_methods(method, **settings), encoded=encoded, tokens=tokens, crops=crops)


def encode(
    model: nn.Module, inputs: Mapping[str, Any], methods: Iterable[str | Reducer] = (), **settings: Any
) -> Encoded:
    """Run the vision side once, for use with many methods: ``tk.reduced(model, m, encoded=encoded)`` and
    ``model.generate(**encoded.inputs)``.

    Args:
        model: a vision-language model.
        inputs: what the processor made.
        methods: methods that will use the pictures; what they read of the encoder is recorded along the way.
        **settings: settings of methods given by name.
    """
    host = Host.of(model)
    needs = Needs.of_encoder(
        m.needs(cut, host.depth)
        for m in read_methods(methods, **settings)
        for cut in m.decoder_cuts(host.depth)
    )
    return encode_pictures(host, inputs, needs)
