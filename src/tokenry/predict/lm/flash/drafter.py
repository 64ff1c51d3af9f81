"""FLASH's drafters: small heads that guess a vision-language model's next hidden states (arXiv 2505.12728).

Both read what the model itself has already computed: its last hidden states h (those that enter the output layer), each
paired with the embedding e of the token that follows. `FlashDrafter` guesses k states ahead in one pass;
`ChainDrafter`, the paper's baseline, one at a time. Either can read the picture through a few latents.

Trained by `tokenry.predict.lm.flash.training`, used by `tokenry.predict.lm.flash.proposer`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import LlamaConfig

from tokenry.hosts.upstream import (
    DynamicCache,
    LlamaAttention,
    LlamaDecoderLayer,
    LlamaRotaryEmbedding,
    with_cache,
)
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

__all__ = [
    "ChainDrafter",
    "Drafter",
    "FlashConfig",
    "FlashDrafter",
    "LatentCompressor",
    "load_drafter",
    "visual_span",
]


@dataclass(frozen=True)
class FlashConfig:
    """The shape of a drafter. The defaults are the paper's, for LLaVA-1.5-7B's width.

    Attributes:
        width: D, of the target's hidden states.
        offsets: k, the states that `FlashDrafter` guesses in a pass. `ChainDrafter` has one.
        latents: what a picture's positions are compressed to; None reads them all.
        heads: of the attention layer.
        kv_heads: groups of heads that share keys and values.
        feed_forward: inner width of the MLP; None for 4 D.
        residual: add what enters the attention to what leaves it. The published head does not.
        rope_theta: base of the rotary positions.
    """

    width: int = 4096
    offsets: int = 5
    latents: int | None = 64
    heads: int = 32
    kv_heads: int = 4
    feed_forward: int | None = None
    residual: bool = False
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        sizes = {"width": self.width, "offsets": self.offsets, "heads": self.heads, "kv_heads": self.kv_heads}
        for name in ("latents", "feed_forward"):
            if (size := getattr(self, name)) is not None:
                sizes[name] = size
        if wrong := {name: size for name, size in sizes.items() if size < 1}:
            raise InputError(f"Sizes of a drafter are at least 1, got {wrong}.")
        if self.width % (2 * self.heads) or self.heads % self.kv_heads:
            raise InputError(
                f"{self.heads} heads must divide the width {self.width} into even parts, and {self.kv_heads} groups "
                "must divide the heads: choose other heads or kv_heads."
            )

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return self.feed_forward or 4 * self.width

    def llama(self) -> LlamaConfig:
        """The same as transformers' attention wants it."""
        return LlamaConfig(
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.width // self.heads,
            rope_parameters={"rope_type": "default", "rope_theta": self.rope_theta},
            attn_implementation="sdpa",
        )


def visual_span(ids: Sequence[int], image_token: int | None) -> tuple[int, int]:
    """Where the picture of a prompt lies: its first position, and the first one behind it.

    Several pictures are one span, with the text between them. The prompt's last position is never part of it: what it
    is paired with, the first token of the answer, has to be read.

    Args:
        ids: the prompt, with one image token for each visual position.
        image_token: the id of those; None if the model has no pictures.
    """
    where = [i for i, token in enumerate(ids) if token == image_token]
    return (where[0], max(where[0], min(where[-1] + 1, len(ids) - 1))) if where else (0, 0)


class LatentCompressor(nn.Module):
    """Learned queries that each take a weighted mean of the visual positions: softmax(A h^T) h.

    Without the usual division by the square root of the width, as published. A starts with rows of norm about 1, so
    that its scores are about as large as a state is on average, whatever the width; published code draws them with a
    deviation of 0.02, which comes to the same at a width of 2,500.

    Args:
        latents: number of queries.
        width: of the states.
    """

    def __init__(self, latents: int, width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(latents, width) * width**-0.5)

    def forward(self, visual: Float[Tensor, "b n d"]) -> Float[Tensor, "b latents d"]:
        """Compress the visual positions, in any number."""
        scores = visual.float() @ self.queries.float().T
        return scores.softmax(1).to(visual.dtype).transpose(1, 2) @ visual


class Drafter(nn.Module):
    """What both drafters share: how a text enters, positions, and files.

    The sequence that is read consists of the hidden states before the picture as they are, the picture's (as they are,
    or compressed), and behind it ``fc([e_{j+1}; h_j])``. Positions count what is in it, so they skip what compression
    took away, in training as in decoding. Embeddings of image tokens are never read. A text without picture passes
    through ``fc`` as a whole.
    """

    offsets: int
    """States guessed in a pass."""

    def __init__(self, config: FlashConfig) -> None:
        super().__init__()
        self.config = config
        self.fc = nn.Linear(2 * config.width, config.width)
        self.compressor = None if config.latents is None else LatentCompressor(config.latents, config.width)
        self.rotary = LlamaRotaryEmbedding(config.llama())

    def pair(
        self, hidden: Float[Tensor, "*b s d"], following: Float[Tensor, "*b s d"]
    ) -> Float[Tensor, "*b s d"]:
        """Hidden states with the embeddings of the tokens that follow them, as the drafter reads text."""
        return self.fc(torch.cat([following, hidden], -1))

    def enter(
        self, hidden: Float[Tensor, "b s d"], following: Float[Tensor, "b t d"], span: tuple[int, int]
    ) -> Float[Tensor, "b r d"]:
        """What is read of a text from its beginning.

        Args:
            hidden: at every position.
            following: embeddings of the tokens after the positions behind the picture, and only those.
            span: where the picture lies (see `visual_span`), the same in all rows.
        """
        start, end = span
        if following.shape[1] != hidden.shape[1] - end:
            raise InputError(
                f"{hidden.shape[1]} positions with a picture that ends at {end} want {hidden.shape[1] - end} "
                f"embeddings, got {following.shape[1]}."
            )
        seen = hidden[:, start:end]
        if self.compressor is not None and end > start:
            seen = self.compressor(seen)
        return torch.cat([hidden[:, :start], seen, self.pair(hidden[:, end:], following)], 1)

    def read(
        self,
        entered: Float[Tensor, "b m d"],
        cache: DynamicCache | None = None,
        positions: Int[Tensor, " m"] | None = None,
        visible: Bool[Tensor, "m p_and_m"] | None = None,
    ) -> Float[Tensor, "b m d"]:
        """Attend to everything before.

        Args:
            entered: what comes after the cached part.
            cache: keys and values of what was read before; grows.
            positions: by default those right behind the cached part.
            visible: which of the cached and new positions each new one sees; by default all before it.

        Returns:
            States to `predict` from.
        """
        m, before = entered.shape[1], 0 if cache is None else cache.get_seq_length()
        if positions is None:
            positions = torch.arange(before, before + m, device=entered.device)
        if visible is None and m > 1 and before:  # from the beginning, sdpa knows by itself
            visible = torch.ones(m, before + m, dtype=torch.bool, device=entered.device).tril(before)
        return self._attend(
            entered,
            position_embeddings=self.rotary(entered, positions[None]),
            attention_mask=None if visible is None else visible[None, None],
            cache=cache,
        )

    def _attend(self, entered: Tensor, cache: DynamicCache | None, **how: Any) -> Tensor:
        raise NotImplementedError

    def predict(self, read: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k d"]:
        """Guess the hidden states of the positions after those that were read: f_{j,i} is that at j + 1 + i."""
        raise NotImplementedError

    def forward(
        self, hidden: Float[Tensor, "b s d"], following: Float[Tensor, "b t d"], span: tuple[int, int]
    ) -> Float[Tensor, "b t k d"]:
        """Guesses at every position behind the picture; see `enter`."""
        return self.predict(self.read(self.enter(hidden, following, span))[:, -following.shape[1] :])

    def save(self, folder: str | Path) -> Path:
        """Write the drafter as a folder, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        content = {"drafter": type(self).__name__, **asdict(self.config)}
        with whole_folder(Path(folder)) as scratch:
            save_file({n: t.contiguous() for n, t in self.state_dict().items()}, scratch / _WEIGHTS)
            (scratch / _CONFIG).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        return Path(folder)


class FlashDrafter(Drafter):
    """Guess k hidden states in one pass: attention, then an MLP from D to k D.

    Source: FLASH, arXiv 2505.12728, and its code as first published. That code sums attention over the groups of keys
    and values instead of giving each head its group; here heads and groups are paired (as transformers does, whose
    attention this is). A later revision of the code replaces the head by k slots a position with residual connections
    and norms; of that, `FlashConfig.residual` is offered.

    With k = 1 and no compression it is a head like `ChainDrafter`, and decodes as one.
    """

    def __init__(self, config: FlashConfig) -> None:
        super().__init__(config)
        self.offsets = config.offsets
        self.attention = LlamaAttention(config.llama(), layer_idx=0)
        self.mlp = nn.Sequential(
            nn.Linear(config.width, config.inner),
            nn.SiLU(),
            nn.Linear(config.inner, config.offsets * config.width),
        )

    def _attend(self, entered: Tensor, cache: DynamicCache | None, **how: Any) -> Tensor:
        read = self.attention(entered, **with_cache(self.attention, cache), **how)[0]
        return entered + read if self.config.residual else read

    def predict(self, read: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k d"]:
        """See `Drafter.predict`."""
        return self.mlp(read).unflatten(-1, (self.offsets, self.config.width))


class ChainDrafter(Drafter):
    """Guess one hidden state, to be read again for the one after it: a Llama layer without its first norm.

    The paper's baseline, in the manner of EAGLE. `FlashConfig.offsets` and `residual` say nothing here: it has one
    offset and a Llama layer's residual connections.
    """

    offsets = 1

    def __init__(self, config: FlashConfig) -> None:
        super().__init__(config)
        self.layer = LlamaDecoderLayer(config.llama(), layer_idx=0)
        self.layer.input_layernorm = nn.Identity()

    def _attend(self, entered: Tensor, cache: DynamicCache | None, **how: Any) -> Tensor:
        return self.layer(entered, **with_cache(self.layer, cache), **how)

    def predict(self, read: Float[Tensor, "*b d"]) -> Float[Tensor, "*b k d"]:
        """See `Drafter.predict`; k = 1."""
        return read.unsqueeze(-2)


_CONFIG: Final = "config.json"
_WEIGHTS: Final = "model.safetensors"


def load_drafter(folder: str | Path) -> Drafter:
    """Read a `FlashDrafter` or `ChainDrafter` that `Drafter.save` wrote, in evaluation mode.

    Raises:
        InputError: the folder holds none, or a damaged one.
    """
    folder = Path(folder)
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        kinds: dict[str, type[Drafter]] = {"FlashDrafter": FlashDrafter, "ChainDrafter": ChainDrafter}
        drafter = kinds[content.pop("drafter")](FlashConfig(**content))
        drafter.load_state_dict(load_file(folder / _WEIGHTS))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} holds no drafter that can be read ({error}).") from error
    return drafter.eval()
