"""What a codec is: a network that turns signals into tokens and tokens back into signals."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from tokenry.tokens.codes import Codes, Latents
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.signals import SignalSpec


class Codec(PreTrainedModel, ABC):
    """Tokenizer of a signal: pictures, videos, sounds or shapes to `Codes` (or `Latents`) and back.

    A member says which signals it takes (`signal`), and implements `_encode` and `_decode`; it is saved and loaded as
    any network of transformers. What all of them hold to is in ``tests/laws/codecs``.

    Attributes:
        flexible: whether any prefix of an item's tokens decodes, longer ones better on average.
        causal: whether tokens up to a moment do not change with what comes later; its tokens follow time.
        iterative: whether decoding takes several steps from noise (diffusion, flow), so that `steps` means something.
    """

    flexible: ClassVar[bool] = False
    causal: ClassVar[bool] = False
    iterative: ClassVar[bool] = False

    _known_as: tuple[object, str] | None = None

    @property
    @abstractmethod
    def signal(self) -> SignalSpec:
        """The signals that go in."""

    @property
    def output(self) -> SignalSpec:
        """The signals that come out: the same, unless points become a volume, or pixels an embedding."""
        return self.signal

    @abstractmethod
    def _encode(self, x: Tensor, generator: torch.Generator | None) -> Codes | Latents:
        """All tokens of checked signals."""

    @abstractmethod
    def _decode(
        self,
        codes: Any,
        size: tuple[int, ...] | None,
        steps: int | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        """Signals of tokens that are this codec's own."""

    def encode(
        self,
        x: Tensor,
        *,
        tokens: int | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Codes | Latents:
        """The tokens of signals.

        Args:
            x: [items, channels, *axes], as `signal` says.
            tokens: how many of them, one number or one for each item; None: all.
            generator: what codecs draw from that sample their tokens.

        Raises:
            InputError: signals that it does not take.
            UnsupportedError: fewer tokens than all, of a codec that decodes only all.
        """
        self.signal.check(x)
        if tokens is not None and not self.flexible:
            raise UnsupportedError(
                f"{type(self).__name__} decodes only all tokens of an item; leave out tokens={tokens!r}."
            )
        codes = self._encode(x, generator)
        return codes if tokens is None else codes.prefix(tokens)

    def decode(
        self,
        codes: Codes | Latents,
        *,
        size: tuple[int, ...] | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The signals of tokens.

        Args:
            codes: what this codec, with these weights, made, or a generator that learned from such.
            size: of the signals along each axis, where the tokens do not tell; None: what they tell.
            steps: of an iterative decoder; None: its own number.
            generator: what an iterative decoder draws its noise from.

        Returns:
            [items, channels, *axes], as `output` says.

        Raises:
            InputError: tokens of another codec, or not all tokens of an item where all are needed.
            UnsupportedError: steps, of a codec that decodes in one pass.
        """
        codes.require(self.fingerprint())
        if steps is not None and not self.iterative:
            raise UnsupportedError(f"{type(self).__name__} decodes in one pass; leave out steps={steps}.")
        if not self.flexible:
            _require_all(codes)
        return self._decode(codes, size, steps, generator)

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that stand for the codec: its class, settings and weights.

        Weights count to the precision of bfloat16, so that one codec may run in float32 here and in bfloat16 there;
        float16, which rounds elsewhere, makes another codec of it. Computed anew whenever weights have changed.
        """
        state = self.state_dict()
        stamp = tuple((name, part.data_ptr(), part._version) for name, part in state.items())
        # A training step may write through `.data`, which no version counts.
        if self._known_as is None or self.training or self._known_as[0] != stamp:
            ours = set(self.config.to_dict()) - set(PreTrainedConfig().to_dict())
            settings = {name: self.config.to_dict()[name] for name in sorted(ours)}
            digest = hashlib.sha256(json.dumps([type(self).__name__, settings], default=str).encode())
            for name, part in sorted(state.items()):
                digest.update(f"{name}{tuple(part.shape)}".encode())
                digest.update(_bits(part))
            self._known_as = stamp, digest.hexdigest()[:16]
        return self._known_as[1]


def common_grid(codes: Codes | Latents) -> tuple[int, int, int]:
    """The (t, h, w) grid of a batch that becomes one tensor.

    Raises:
        InputError: no grids, or several.
    """
    grids = [] if codes.grid is None else codes.grid.unique(dim=0).tolist()
    if len(grids) != 1:
        raise InputError(
            f"A batch is decoded into one tensor, so its items have one grid; got {grids}. Decode them one by one."
        )
    t, h, w = grids[0]
    return t, h, w


def _require_all(codes: Codes | Latents) -> None:
    scales = codes.ends if isinstance(codes, Codes) else ()
    if not scales and codes.grid is None:
        return  # its own decoder knows how many there are
    wanted = codes.grid.prod(1) if codes.grid is not None and not scales else scales[-1]
    if bool((codes.length != wanted).any()):
        raise InputError(
            f"This codec decodes only all tokens of an item; got {codes.length.tolist()} of "
            f"{wanted if isinstance(wanted, int) else wanted.tolist()}."
        )


def _bits(part: Tensor) -> bytes:
    """A tensor's bytes, floating-point numbers rounded to bfloat16."""
    part = part.detach()
    if part.is_floating_point():
        part = part.to(torch.bfloat16).view(torch.int16)
    return part.cpu().contiguous().numpy().tobytes()
