"""Watching the vision side: calls of encoders recorded as they happen, or made once for many methods."""

from __future__ import annotations

import functools
import inspect
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tokenry.hosts.alternatives import no_cls
from tokenry.hosts.host import Host
from tokenry.hosts.patches import put
from tokenry.hosts.pictures import Packed, Pictures, of_tiles, pixels_of, read_delivery, trace_packing
from tokenry.hosts.reducing.attention import cls_logits
from tokenry.hosts.upstream import (
    ENCODED,
    PACKING,
    PIXELS,
    TOKEN_TYPES,
    TYPE_OF,
    Listener,
    blocks_of,
    encoder_name,
    encoder_of,
    holds_videos,
    parameters,
    picture_features,
    takes_encoded,
    watch_attention,
)
from tokenry.hosts.wrappers import synchronise
from tokenry.tokens import InputError, Needs, UnsupportedError


def brings_pictures(inputs: Mapping[str, Any]) -> bool:
    """Whether a call's inputs hold pictures, as pixels or encoded."""
    return bool(pixels_of(inputs)) or bool(inputs.get(ENCODED))


def visual_kinds(host: Host, ids: Int[Tensor, "b t"], inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Which tokens of a call are placeholders, by modality; modalities without any are left out.

    Where pictures and videos share a placeholder (Molmo2), the processor's token types tell them apart.

    Raises:
        UnsupportedError: pictures and videos share a placeholder and nothing tells them apart.
    """
    kinds = {modality: ids == token for modality, token in host.token_ids.items()}
    if len(set(host.token_ids.values())) < len(kinds):
        types = inputs.get(TOKEN_TYPES)
        brought = [m for m in kinds if _brings(m, inputs)]
        if len(brought) == 1:
            kinds = {brought[0]: kinds[brought[0]]}
        elif isinstance(types, Tensor) and types.shape == ids.shape:
            kinds = {m: mask & (types == TYPE_OF[m]) for m, mask in kinds.items()}
        elif brought:
            raise UnsupportedError(
                f"{host.name} marks pictures and videos with the same token; pass the `{TOKEN_TYPES}` that its "
                "processor makes, which tell them apart."
            )
        else:
            kinds = dict(list(kinds.items())[:1])
    return {modality: mask for modality, mask in kinds.items() if bool(mask.any())}


def embedded(host: Host, arguments: dict[str, Any]) -> Tensor:
    """The embeddings that go into a decoder's first layer.

    A base model that is itself the decoder (Chameleon) would write its pictures over the placeholders inside, where
    nothing can come in between: that is done here, and the pictures are taken out of the arguments.

    Args:
        host: the model.
        arguments: of a call to the decoder.
    """
    embeds: Tensor | None = arguments.get("inputs_embeds")
    hidden: Tensor = (
        embeds if embeds is not None else host.model.get_input_embeddings()(arguments["input_ids"])
    )
    if host.base is not host.decoder or embeds is not None or not brings_pictures(arguments):
        return hidden
    ids = arguments["input_ids"]
    given = dict(arguments.pop(ENCODED, None) or {})
    pixels = {name: arguments.pop(name) for name in pixels_of(arguments)}
    encoded = given | _encode(host, pixels, [m for m in host.token_ids if given.get(m) is None])
    for modality, token in host.token_ids.items():
        if encoded.get(modality) is not None:
            features = torch.cat([part.flatten(0, -2) for part in picture_features(encoded[modality])])
            hidden = hidden.masked_scatter((ids == token)[..., None], features.to(hidden))
    return hidden


def _encode(host: Host, inputs: Mapping[str, Any], modalities: Iterable[str]) -> dict[str, Any]:
    """What the model's encoders make of the pictures among the inputs, by modality, where there are any for them."""
    outputs = {}
    for modality in modalities:
        encode: Any = encoder_of(host.base, modality)
        wanted = {k: v for k, v in inputs.items() if k in parameters(encode) and v is not None}
        if pixels_of(wanted):
            outputs[modality] = encode(**wanted, return_dict=True)
    return outputs


def _brings(modality: str, inputs: Mapping[str, Any]) -> bool:
    encoded = (inputs.get(ENCODED) or {}).get(modality) is not None
    return encoded or any(holds_videos(name) == (modality == "video") for name in pixels_of(inputs))


class VisionRecorder(threading.local):
    """What the encoders delivered to one thread; every thread has its own.

    Attributes:
        pictures: the latest call of each modality's encoder ("image", "video").
    """

    def __init__(self) -> None:
        self.pictures: dict[str, Pictures] = {}
        self.rows: dict[int, list[Tensor]] = {}
        self.keys: dict[int, list[Tensor]] = {}
        self.packed: list[list[Packed]] = []
        self.busy = False

    def listen(self, layer: int, needs: Needs, first: int) -> Listener:
        """What notes what is needed of an encoder block, whose patches begin at key `first`."""

        def heard(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> bool:
            with torch.no_grad():
                if layer in needs.cls_layers or layer in needs.cls_logit_layers:
                    self.rows.setdefault(layer, []).append(cls_logits(query.detach(), key.detach(), scale))
                if layer in needs.key_layers:
                    self.keys.setdefault(layer, []).append(key.detach()[:, :, first:].float())
            return False

        return heard

    def watched(self, host: Host, modality: str, follow: Callable[[], None]) -> Callable[..., Any]:
        """What records the calls of a modality's encoder, in its place."""
        encode: Any = encoder_of(host.base, modality)

        @functools.wraps(encode)
        def record(*args: Any, **kwargs: Any) -> Any:
            if self.busy:  # some models send videos through their encoder of pictures
                return encode(*args, **kwargs)
            self.rows.clear()
            self.keys.clear()
            self.packed.clear()
            follow()
            self.busy = True
            try:
                output = encode(*args, **kwargs)
            finally:
                self.busy = False
            call = inspect.signature(encode).bind_partial(*args, **kwargs).arguments
            call |= call.pop("kwargs", {})
            packed = self.packed[-1] if self.packed else None
            delivered = read_delivery(host, output, call, of_tiles(self.rows), of_tiles(self.keys), packed)
            if delivered is None:
                self.pictures.pop(modality, None)
            else:
                self.pictures[modality] = delivered
            return output

        return record

    def packing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """What traces the packing of tiles, in its place."""

        @functools.wraps(original)
        def traced(image_features: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
            self.packed.append(trace_packing(original, image_features, args, kwargs))
            return original(image_features, *args, **kwargs)

        return traced


@contextmanager
def watch_vision(host: Host, needs: Needs) -> Iterator[VisionRecorder]:
    """While open, every call of the model's encoders is recorded, for the thread that makes it.

    Args:
        host: the model.
        needs: what is read of the encoder.

    Raises:
        UnsupportedError: [CLS] attention is asked of an encoder that has no [CLS].
    """
    if needs.cls and not host.has_cls:
        raise UnsupportedError(no_cls(host))
    recorder = VisionRecorder()
    towers = list(dict.fromkeys(host.towers.values()))
    modules = {
        m: i
        for tower in towers
        for m, i in host.attention_modules(blocks_of(tower), set(needs.encoder_layers)).items()
    }
    with ExitStack() as stack:
        configs = [tower.config for tower in towers]
        listeners = {m: recorder.listen(i, needs, int(host.has_cls)) for m, i in modules.items()}
        follow = stack.enter_context(watch_attention(configs, listeners))
        for modality in host.encodes:
            watched = recorder.watched(host, modality, follow)
            stack.callback(put(host.base, encoder_name(modality), watched))
        if hasattr(host.base, PACKING):
            stack.callback(put(host.base, PACKING, recorder.packing(getattr(host.base, PACKING))))
        yield recorder


@dataclass(frozen=True, eq=False)
class Encoded:
    """Inputs whose pictures have been encoded once, to be used with many methods.

    Attributes:
        pictures: what was recorded, by modality.
        seconds: time spent in the vision encoder and projector.
    """

    _inputs: dict[str, Any]
    _outputs: dict[str, Any]
    pictures: dict[str, Pictures]
    seconds: float

    @property
    def inputs(self) -> dict[str, Any]:
        """What to pass to ``model.generate`` or ``model``: everything but pixels, plus the encoded pictures."""
        # Copies, since `generate` repeats what it is given in place for every beam.
        return self._inputs | {ENCODED: {k: copy(v) for k, v in self._outputs.items()}}


def encode_pictures(host: Host, inputs: Mapping[str, Any], needs: Needs) -> Encoded:
    """Run the vision side once, recording what is read of the encoder.

    Raises:
        UnsupportedError: the model cannot take pictures that are already encoded.
        InputError: there are no pictures among the inputs.
    """
    if not takes_encoded(host.base):
        raise UnsupportedError(
            f"{host.name} takes pixels only; it cannot be given pictures that are already encoded."
        )
    if not pixels_of(inputs):
        raise InputError(f"There is no picture among the inputs ({', '.join(inputs)}).")
    synchronise(host.model)
    started = time.perf_counter()
    with torch.no_grad(), watch_vision(host, needs) as recorder:
        outputs = _encode(host, inputs, host.encodes)
    synchronise(host.model)  # a GPU is given its work long before it has done it
    seconds = time.perf_counter() - started
    return Encoded(
        {k: v for k, v in inputs.items() if k not in PIXELS}, outputs, dict(recorder.pictures), seconds
    )
