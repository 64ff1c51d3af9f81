"""TokenFormer (arXiv 2410.23168): a decoder whose weights are tokens too, and which therefore grows by appending some.

Every linear projection of an ordinary decoder becomes attention from the input to n learnt key-value pairs. The number
of pairs sets the capacity and appears in no width, so pairs can be appended to a trained model.

Where paper and published code differ: the paper appends keys of zero, which leave the function as it was; the code
gives new pairs the ordinary random start and lets the scale tau = sqrt(n) follow the new n, which changes the function.
Here tau is stored, so that both can be had (`TokenFormerForCausalLM.grow`). The code divides by the norm of the scores
as it is; here 1e-6 is added, which matters for inputs of zero.
"""

from __future__ import annotations

import math
from typing import Any, Literal, Self, no_type_check

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import StableLmConfig, StableLmForCausalLM
from transformers import initialization as init

from tokenry.tokens.errors import InputError

__all__ = ["Pattention", "TokenFormerConfig", "TokenFormerForCausalLM"]

Theta = Literal["l2_norm_gelu", "gelu_l2_norm", "softmax"]
_THETAS = ("l2_norm_gelu", "gelu_l2_norm", "softmax")
_EPS = 1e-6
_KEY_STD = 0.02
_KINDS = ("qkv", "proj", "ffn")


class Pattention(nn.Module):
    """Token-parameter attention ``y = Theta(x K^T) V`` (arXiv 2410.23168, equations 4-5).

    ``Theta`` is one of

    - ``l2_norm_gelu`` (default): ``gelu(tau * a / |a|)`` with the norm over the n scores ``a`` of a position; the
      output does not depend on the scale of x,
    - ``gelu_l2_norm``: ``tau * gelu(a) / |gelu(a)|``,
    - ``softmax``: ``tau^2 * softmax(a)``, for comparison: a pair with a key of zero takes part in it.

    Args:
        d_in: width of x and of the keys.
        d_out: width of y and of the values.
        tokens: key-value pairs, n.
        theta: the normalisation.
        tau: the scale; sqrt(n) by default.
        frozen: how many of the pairs, the first ones, are buffers that no optimiser sees.
        value_std: standard deviation of new values. Keys start with 0.02.
    """

    frozen_key: Tensor | None
    frozen_value: Tensor | None
    tau: Tensor

    def __init__(
        self,
        d_in: int,
        d_out: int,
        tokens: int,
        *,
        theta: str = "l2_norm_gelu",
        tau: float | None = None,
        frozen: int = 0,
        value_std: float = 0.02,
    ) -> None:
        super().__init__()
        if not 0 <= frozen < tokens:
            raise InputError(
                f"Pattention needs at least one trainable key-value pair, got {tokens} of which {frozen} frozen."
            )
        if theta not in _THETAS:
            raise InputError(f"Theta must be one of {', '.join(_THETAS)}, got {theta!r}.")
        if tau is not None and tau <= 0:
            raise InputError(f"Tau must be positive, got {tau}.")
        self.theta, self.value_std = theta, value_std
        self._first_tau = math.sqrt(tokens) if tau is None else float(tau)
        self.key = nn.Parameter(torch.empty(tokens - frozen, d_in))
        self.value = nn.Parameter(torch.empty(tokens - frozen, d_out))
        self.register_buffer("frozen_key", torch.empty(frozen, d_in) if frozen else None)
        self.register_buffer("frozen_value", torch.empty(frozen, d_out) if frozen else None)
        self.register_buffer("tau", torch.empty(()))
        self.reset_parameters()

    @property
    def tokens(self) -> int:
        """Key-value pairs, frozen ones included."""
        return len(self.key) + (0 if self.frozen_key is None else len(self.frozen_key))

    def reset_parameters(self) -> None:
        """Draw keys N(0, 0.02) and values N(0, `value_std`), and set tau; tensors that were loaded stay as they are."""
        for key, value in ((self.key, self.value), (self.frozen_key, self.frozen_value)):
            if key is not None:
                init.normal_(key, std=_KEY_STD)
                init.normal_(value, std=self.value_std)
        init.constant_(self.tau, self._first_tau)

    def forward(
        self, x: Float[Tensor, "*b d_in"], mask: Bool[Tensor, "*#b n"] | None = None
    ) -> Float[Tensor, "*b d_out"]:
        """Attend to the pairs.

        Args:
            x: inputs.
            mask: False leaves a pair out for a position, as a router of experts would. (As coded, scores of left-out
                pairs become 0, which the two gelu variants turn into a weight of 0; with softmax they become -inf.)

        Returns:
            The outputs.
        """
        key: Tensor = self.key
        value: Tensor = self.value
        if self.frozen_key is not None and self.frozen_value is not None:
            key, value = torch.cat([self.frozen_key, key]), torch.cat([self.frozen_value, value])
        scores = F.linear(x, key)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf if self.theta == "softmax" else 0.0)
        return F.linear(self._weights(scores), value.T)

    def _weights(self, scores: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        if self.theta == "softmax":
            return (self.tau.float() ** 2 * scores.softmax(-1, dtype=torch.float32)).to(scores.dtype)
        if self.theta == "gelu_l2_norm":
            return self._scaled(F.gelu(scores))
        return F.gelu(self._scaled(scores))

    def _scaled(self, a: Float[Tensor, "*b n"]) -> Float[Tensor, "*b n"]:
        """The rows at length tau; the norm, a sum over thousands, in float32."""
        norm = torch.linalg.vector_norm(a, dim=-1, keepdim=True, dtype=torch.float32)
        return a * (self.tau / (norm + _EPS)).to(a.dtype)

    @torch.no_grad()
    def grow(
        self,
        n: int,
        *,
        keys: Literal["zero", "init"] = "zero",
        values: Literal["init", "zero"] = "init",
        tau: Literal["keep", "rescale"] = "keep",
        freeze_old: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        """Append n pairs; see `TokenFormerForCausalLM.grow`."""
        if n < 1:
            raise InputError(f"A model grows by at least one key-value pair, got n={n}.")
        if keys not in ("zero", "init") or values not in ("zero", "init") or tau not in ("keep", "rescale"):
            raise InputError(
                f'Keys and values are "zero" or "init", tau is "keep" or "rescale"; got {keys!r}, {values!r}, {tau!r}.'
            )
        if keys == values == "zero":
            raise InputError(
                "Keys and values of zero give each other no gradient: the new pairs would never learn. "
                'Start one of them with "init".'
            )
        new_key, new_value = (
            self.key.new_zeros(n, self.key.shape[1]),
            self.value.new_zeros(n, self.value.shape[1]),
        )
        if keys == "init":
            new_key.normal_(0.0, _KEY_STD, generator=generator)
        if values == "init":
            new_value.normal_(0.0, self.value_std, generator=generator)
        if freeze_old:
            self._freeze()
            self.key, self.value = nn.Parameter(new_key), nn.Parameter(new_value)
        else:
            self.key = nn.Parameter(torch.cat([self.key, new_key]))
            self.value = nn.Parameter(torch.cat([self.value, new_value]))
        if tau == "rescale":
            self.tau.fill_(math.sqrt(self.tokens))

    def _freeze(self) -> None:
        """Move the trainable pairs to the frozen ones."""
        old_key, old_value = self.key.detach(), self.value.detach()
        if self.frozen_key is not None and self.frozen_value is not None:
            old_key, old_value = (
                torch.cat([self.frozen_key, old_key]),
                torch.cat([self.frozen_value, old_value]),
            )
        self.frozen_key, self.frozen_value = old_key, old_value

    @torch.no_grad()
    def thaw(self) -> None:
        """Make frozen pairs trainable again; the order of the pairs stays."""
        if self.frozen_key is not None and self.frozen_value is not None:
            self.key = nn.Parameter(torch.cat([self.frozen_key, self.key]))
            self.value = nn.Parameter(torch.cat([self.frozen_value, self.value]))
            self.frozen_key = self.frozen_value = None

    def extra_repr(self) -> str:
        """Sizes, for `print`."""
        return f"{self.key.shape[1]} -> {self.value.shape[1]}, tokens={self.tokens}, theta={self.theta}"


@no_type_check  # transformers generates a constructor that takes further keywords; only the fields are in its signature
class TokenFormerConfig(StableLmConfig):
    """Configuration of `TokenFormerForCausalLM`.

    Attributes:
        qkv_tokens: key-value pairs of each query, key and value projection.
        proj_tokens: those of each output projection of an attention layer.
        ffn_tokens: those of each feed-forward layer.
        theta: normalisation of the scores, see `Pattention`.
        qkv_tau, proj_tau, ffn_tau: scales of the scores; None means the square root of the number of pairs. Growing
            writes down here what it kept.
        qkv_frozen, proj_frozen, ffn_frozen: how many of the pairs are frozen.
    """

    model_type = "tokenry-tokenformer"

    vocab_size: int = 50304
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 2048
    tie_word_embeddings: bool = True
    qkv_tokens: int = 768
    proj_tokens: int = 768
    ffn_tokens: int = 3072
    theta: str = "l2_norm_gelu"
    qkv_tau: float | None = None
    proj_tau: float | None = None
    ffn_tau: float | None = None
    qkv_frozen: int = 0
    proj_frozen: int = 0
    ffn_frozen: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        self.num_key_value_heads = self.num_attention_heads  # keys are never shared among heads
        super().__post_init__(**kwargs)

    @classmethod
    def _sized(cls, layers: int, heads: int, width: int, tokens: int, kwargs: dict[str, Any]) -> Self:
        return cls(
            **dict(
                num_hidden_layers=layers,
                num_attention_heads=heads,
                hidden_size=width,
                qkv_tokens=tokens,
                proj_tokens=tokens,
                ffn_tokens=4 * tokens,
            )
            | kwargs
        )

    @classmethod
    def size_150m(cls, **kwargs: Any) -> Self:
        """12 layers of width 768."""
        return cls._sized(12, 12, 768, 768, kwargs)

    @classmethod
    def size_450m(cls, **kwargs: Any) -> Self:
        """24 layers of width 1,024."""
        return cls._sized(24, 16, 1024, 1024, kwargs)

    @classmethod
    def size_900m(cls, **kwargs: Any) -> Self:
        """32 layers of width 1,280."""
        return cls._sized(32, 16, 1280, 1280, kwargs)

    @classmethod
    def size_1500m(cls, **kwargs: Any) -> Self:
        """40 layers of width 1,536."""
        return cls._sized(40, 16, 1536, 1536, kwargs)

    @classmethod
    def size_354m(cls, **kwargs: Any) -> Self:
        """The small end of the paper's growth runs; ``grow(1024)`` makes `size_757m` of it."""
        return cls._sized(24, 16, 1024, 768, kwargs)

    @classmethod
    def size_757m(cls, **kwargs: Any) -> Self:
        """The large end of the paper's growth runs."""
        return cls._sized(24, 16, 1024, 1792, kwargs)


class TokenFormerForCausalLM(StableLmForCausalLM):
    """A causal language model of Pattention layers (arXiv 2410.23168).

    What is ordinary about it - attention among tokens, rotary positions on a quarter of each head, KV cache, masks,
    ``generate`` - is that of StableLM in transformers; its projections and feed-forward layers are `Pattention`, its
    layer norms have no parameters (but the last one), its head is tied to the embedding.

    Args:
        config: sizes; ``TokenFormerConfig.size_150m()`` and others are the paper's.
    """

    config_class = TokenFormerConfig
    config: TokenFormerConfig

    def __init__(self, config: TokenFormerConfig) -> None:
        super().__init__(config)
        d = config.hidden_size
        for layer in self.model.layers:
            attention = layer.self_attn
            attention.q_proj = self._pattention("qkv")
            attention.k_proj = self._pattention("qkv")
            attention.v_proj = self._pattention("qkv")
            attention.o_proj = self._pattention("proj")
            layer.mlp = self._pattention("ffn")
            layer.input_layernorm = nn.LayerNorm(d, config.layer_norm_eps, elementwise_affine=False)
            layer.post_attention_layernorm = nn.LayerNorm(d, config.layer_norm_eps, elementwise_affine=False)
        self.post_init()

    def _pattention(self, kind: str) -> Pattention:
        config = self.config
        return Pattention(
            config.hidden_size,
            config.hidden_size,
            getattr(config, f"{kind}_tokens"),
            theta=config.theta,
            tau=getattr(config, f"{kind}_tau"),
            frozen=getattr(config, f"{kind}_frozen"),
            value_std=2 / (config.num_hidden_layers * math.sqrt(config.hidden_size)),
        )

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, Pattention):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def pattentions(self, kind: str | None = None) -> list[Pattention]:
        """The Pattention layers in order, or those of a kind: "qkv", "proj" or "ffn"."""
        found: list[Pattention] = []
        for layer in self.model.layers:
            attention = layer.self_attn
            of = {
                "qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
                "proj": [attention.o_proj],
                "ffn": [layer.mlp],
            }
            found += of[kind] if kind else [module for modules in of.values() for module in modules]
        return found

    def grow(
        self,
        n: int,
        *,
        proj: int | None = None,
        ffn: int | None = None,
        keys: Literal["zero", "init"] = "zero",
        values: Literal["init", "zero"] = "init",
        tau: Literal["keep", "rescale"] = "keep",
        freeze_old: bool = False,
        seed: int = 0,
    ) -> Self:
        """Append key-value pairs to every Pattention, in place.

        With the defaults (keys of zero, tau kept) the function stays what it was, and the first step moves the new
        keys only: their values get a gradient once the keys are no longer zero. ``keys="init", tau="rescale"`` is what
        the published code does. Parameters are replaced: make the optimiser afterwards, with fresh state and a
        restarted schedule as the paper does.

        Args:
            n: pairs appended to each query, key and value projection.
            proj: to each output projection; in proportion to n by default.
            ffn: to each feed-forward layer; in proportion to n by default.
            keys: how new keys start: "zero", or "init" for N(0, 0.02).
            values: how new values start: "init" for N(0, 2 / (layers sqrt(d))), or "zero".
            tau: "keep" the scale of the scores, or "rescale" it to the square root of the new number of pairs.
            freeze_old: train only what is new: the old pairs become buffers until `thaw`. Embeddings and the last norm
                stay trainable.
            seed: of the new random rows.

        Returns:
            The model itself.

        Raises:
            InputError: n below 1; keys and values both zero; an unknown choice.
        """
        config = self.config
        more = {
            "qkv": n,
            "proj": round(n * config.proj_tokens / config.qkv_tokens) if proj is None else proj,
            "ffn": round(n * config.ffn_tokens / config.qkv_tokens) if ffn is None else ffn,
        }
        generator = torch.Generator(self.device).manual_seed(seed)
        for kind, pairs in more.items():
            for module in self.pattentions(kind):
                module.grow(
                    pairs, keys=keys, values=values, tau=tau, freeze_old=freeze_old, generator=generator
                )
        self._note_sizes()
        return self

    def thaw(self) -> Self:
        """Make all pairs trainable again, after ``grow(..., freeze_old=True)``; in place."""
        for module in self.pattentions():
            module.thaw()
        self._note_sizes()
        return self

    def _note_sizes(self) -> None:
        """Write the sizes into the configuration, from which a saved model is built again."""
        for kind in _KINDS:
            module = self.pattentions(kind)[0]
            setattr(self.config, f"{kind}_tokens", module.tokens)
            setattr(self.config, f"{kind}_frozen", module.tokens - len(module.key))
            setattr(self.config, f"{kind}_tau", float(module.tau))
