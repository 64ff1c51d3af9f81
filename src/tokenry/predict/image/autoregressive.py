"""A language model of pictures: their codes one after another, given a class."""

from __future__ import annotations

import math
from typing import Any, Self, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, PreTrainedConfig

from tokenry.hosts.host import evaluating
from tokenry.hosts.upstream import DynamicCache, with_cache
from tokenry.predict.image.base import TokenGenerator, draw, guided
from tokenry.tokens.codes import Codes, Latents
from tokenry.tokens.errors import InputError


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class AutoregressiveConfig(PreTrainedConfig):
    """Configuration of `AutoregressiveGenerator`; `of` reads the first five from codes.

    Attributes:
        codec: fingerprint of the codec.
        sizes: entries of its codebooks.
        tokens: of a picture.
        grid: (t, h, w) of its tokens; None for 1-D codecs.
        scales: grids of its steps; None for codecs of one scale.
        classes: that pictures may be of.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, initializer_range: see `LlamaConfig`
            of transformers.
        unconditional: share of the training pictures whose class is not told, for guidance.
    """

    model_type = "tokenry-autoregressive"

    codec: str = ""
    sizes: list[int] | tuple[int, ...] = (1024,)
    tokens: int = 256
    grid: list[int] | tuple[int, ...] | None = None
    scales: list[Any] | tuple[Any, ...] | None = None
    classes: int = 10
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    unconditional: float = 0.1
    initializer_range: float = 0.02

    @classmethod
    def of(cls, codes: Codes, **settings: Any) -> Self:
        """The configuration for codes such as these.

        Args:
            codes: complete ones of at least one picture.
            **settings: the other attributes.
        """
        grid = None if codes.grid is None else codes.grid[0].tolist()
        layout = {
            "sizes": codes.sizes,
            "tokens": int(codes.length.max()),
            "grid": grid,
            "scales": codes.scales,
        }
        return cls(codec=codes.codec, **layout, **settings)


class AutoregressiveGenerator(TokenGenerator):
    """Class-conditional autoregressive generator of codes: a Llama whose text is a picture; a plain member.

    The sequence is the class, then the codes as `Codes.flat` lays them out, groups of a token one after another; what
    is written at a place comes from its group's codebook. As in LlamaGen (arXiv 2406.06525) a class of its own, for
    none, is trained now and then, and guides what is drawn.

    Args:
        config: sizes.
    """

    config_class = AutoregressiveConfig
    config: AutoregressiveConfig

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__(config)
        self.codes = sum(config.sizes)
        length = config.tokens * len(config.sizes)
        self.backbone = LlamaModel(
            LlamaConfig(
                vocab_size=self.codes + config.classes + 1,
                hidden_size=config.hidden_size,
                intermediate_size=config.intermediate_size,
                num_hidden_layers=config.num_hidden_layers,
                num_attention_heads=config.num_attention_heads,
                max_position_embeddings=length + 1,
                initializer_range=config.initializer_range,
                attn_implementation="sdpa",
            )
        )
        self.head = nn.Linear(config.hidden_size, self.codes, bias=False)
        self.post_init()

    def loss(
        self, codes: Codes | Latents, condition: Tensor | None, *, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Cross-entropy of each code given those before it, and the bits per token that it comes to."""
        codes.require(self.config.codec)
        if not isinstance(codes, Codes) or codes.sizes != tuple(self.config.sizes):
            raise InputError(
                f"This generator writes codes of sizes {tuple(self.config.sizes)}; got {codes!r:.80}."
            )
        flat = codes.flat().to(self.device)
        untold = (
            torch.rand(len(flat), generator=generator, device=generator.device) < self.config.unconditional
        )
        start = self._start(condition, len(flat)).where(~untold.to(self.device), self._none)
        read = torch.cat([start[:, None], flat[:, :-1].clamp(min=0)], 1)
        logits = self._logits(self.backbone(input_ids=read, use_cache=False).last_hidden_state, 0)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), flat.flatten(), ignore_index=-1)
        return loss, {"bits_per_token": loss.detach() * len(codes.sizes) / math.log(2)}

    @torch.no_grad()
    def generate(
        self,
        condition: Int[Tensor, " b"],
        *,
        steps: int | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        generator: torch.Generator,
    ) -> Codes:
        """Codes of new pictures of given classes; `steps` are tokens, the first of each picture."""
        tokens = self.config.tokens if steps is None else steps
        if not 1 <= tokens <= self.config.tokens or temperature < 0:
            raise InputError(
                f"A picture has 1 to {self.config.tokens} tokens and temperature is 0 or more; got {tokens} and "
                f"{temperature}."
            )
        start = self._start(condition, len(condition))
        streams = start if guidance == 1 else torch.cat([start, torch.full_like(start, self._none)])
        cache, written = DynamicCache(), streams[:, None]
        flat: list[Tensor] = []
        with evaluating(self):
            for place in range(tokens * len(self.config.sizes)):
                out = self.backbone(input_ids=written, use_cache=True, **with_cache(self.backbone, cache))
                logits = self._logits(out.last_hidden_state[:, -1:], place)[:, 0]
                if guidance != 1:
                    told, untold = logits.chunk(2)
                    logits = guided(told, untold, guidance).where(self._allowed(place), -torch.inf)
                flat.append(draw(logits, temperature, generator))
                written = flat[-1].repeat(len(streams) // len(start))[:, None]
        grid = None if self.config.grid is None else start.new_tensor(self.config.grid).expand(len(start), 3)
        scales = tuple((t, h, w) for t, h, w in self.config.scales or ()) or None
        return Codes.of_flat(
            torch.stack(flat, 1), tuple(self.config.sizes), self.config.codec, grid=grid, scales=scales
        )

    @property
    def _none(self) -> int:
        """The id of the class for none."""
        return self.codes + self.config.classes

    def _start(self, condition: Tensor | None, rows: int) -> Int[Tensor, " b"]:
        """The first id of each sequence."""
        if condition is None:
            return torch.full((rows,), self._none, device=self.device)
        if condition.shape != (rows,) or condition.is_floating_point():
            raise InputError(
                f"A condition is the number of a class for each of {rows} pictures; got {condition.dtype} of shape "
                f"{tuple(condition.shape)}."
            )
        if bool(((condition < 0) | (condition >= self.config.classes)).any()):
            raise InputError(f"Classes are 0 to {self.config.classes - 1}; got {condition.tolist()}.")
        return condition.to(self.device) + self.codes

    def _logits(self, hidden: Float[Tensor, "b s d"], first: int) -> Float[Tensor, "b s k"]:
        """The logits at places from `first` on, -inf outside the codebook of a place's group."""
        allowed = torch.stack(
            [self._allowed(first + i) for i in range(min(len(self.config.sizes), hidden.shape[1]))]
        )
        turns = torch.arange(hidden.shape[1], device=hidden.device) % len(allowed)
        return self.head(hidden).where(allowed[turns], -torch.inf)

    def _allowed(self, place: int) -> Bool[Tensor, " k"]:
        """The ids that may stand at a place."""
        group = place % len(self.config.sizes)
        begin = sum(self.config.sizes[:group])
        ids = torch.arange(self.codes, device=self.device)
        return (ids >= begin) & (ids < begin + self.config.sizes[group])
