"""The hypernetwork: from the pieces of a token under the model's own tokenizer to the rows the model needs for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, RobertaConfig, RobertaModel

from tokenry.hosts.upstream import ModelOutput
from tokenry.text.zett.surface import PAD
from tokenry.tokens.errors import InputError
from tokenry.tokens.pooling import mean_pool

_FITTED_ON = 2048  # source tokens whose first predictions the output scalers are fitted to
_INPUT_STD = 0.02
_COLUMNS = ("input_embeddings", "output_embeddings", "bias")


@dataclass
class HypernetOutput(ModelOutput):
    """Predicted rows, one a token.

    Attributes:
        input_embeddings: rows of the input embedding.
        output_embeddings: rows of the head; None where the model ties it to the input embedding.
        bias: of the head, for masked language models.
    """

    input_embeddings: Float[Tensor, "v d"]
    output_embeddings: Float[Tensor, "v d"] | None = None
    bias: Float[Tensor, " v"] | None = None


class HypernetConfig(PretrainedConfig):
    """Shape of a `Hypernetwork`.

    Args:
        vocab_size: rows of the language model's embedding.
        embedding_size: width of its embedding, d.
        tied: whether its head shares the input embedding.
        hidden_size: width of the hypernetwork; d by default.
        layers: transformer layers.
        heads: attention heads; ``hidden_size / 64`` by default.
        pieces: longest surface form.
        languages: number of languages with a vector of their own; 0 for none.
        predict_bias: whether there is a head for the output bias (masked language models).
        train_output_scaler: let training change the output head's rescaler, as the published code does by omission.
    """

    model_type = "tokenry-zett"

    def __init__(
        self,
        vocab_size: int = 1,
        embedding_size: int = 64,
        tied: bool = True,
        hidden_size: int | None = None,
        layers: int = 3,
        heads: int | None = None,
        pieces: int = 7,
        languages: int = 0,
        predict_bias: bool = False,
        train_output_scaler: bool = False,
        **kwargs: Any,
    ) -> None:
        self.vocab_size, self.embedding_size, self.tied = vocab_size, embedding_size, tied
        self.hidden_size = hidden_size or embedding_size
        self.layers = layers
        self.heads = heads or max(1, self.hidden_size // 64)
        self.pieces, self.languages = pieces, languages
        self.predict_bias, self.train_output_scaler = predict_bias, train_output_scaler
        super().__init__(**kwargs)
        if self.hidden_size % self.heads:
            raise InputError(f"hidden_size {self.hidden_size} is not a multiple of heads, {self.heads}")

    @classmethod
    def for_model(cls, model: PreTrainedModel, **options: Any) -> HypernetConfig:
        """The configuration that fits a language model; `options` are this class's own arguments."""
        rows, width = model.get_input_embeddings().weight.shape
        head = model.get_output_embeddings()
        bias = head is not None and getattr(head, "bias", None) is not None
        return cls(rows, width, tied=is_tied(model), **({"predict_bias": bias} | options))


class Rescaler(nn.Module):
    """A per-dimension affine map that is set once.

    Args:
        width: number of dimensions.
        trained: whether training may change it.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, width: int, trained: bool = False) -> None:
        super().__init__()
        for name, value in (("weight", torch.ones(width)), ("bias", torch.zeros(width))):
            if trained:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """In float32: the rows are compared with, and stand beside, rows of the model."""
        return x.float() * self.weight + self.bias

    @torch.no_grad()
    def fit(self, x: Float[Tensor, "n d"], mean: Float[Tensor, " d"], std: Float[Tensor, " d"]) -> None:
        """Give the values `x` this mean and standard deviation in every dimension."""
        x = x.double()
        weight = std.double() / (x.std(0, correction=0) + 1e-8)
        self.weight.copy_(weight)
        self.bias.copy_(mean.double() - x.mean(0) * weight)


class ProjectorBlock(nn.Module):
    """``LN(x + gelu(W2 gelu(W1 x)))`` with the tanh form of gelu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*n h"]) -> Float[Tensor, "*n h"]:
        """Same width in and out."""
        inner = F.gelu(self.up(x), approximate="tanh")
        out: Tensor = self.norm(x + F.gelu(self.down(inner), approximate="tanh"))
        return out


class Hypernetwork(PreTrainedModel):
    """ZeTT, Zero-Shot Tokenizer Transfer (arXiv 2405.07883): embeddings of tokens the model has never had.

    A token comes as its *surface form*: the ids of its bytes under the language model's own tokenizer. Their source
    rows, rescaled and projected, run through a small bidirectional encoder; its output at position 0 is projected to
    the token's row of the input embedding and, for models whose head is not tied, to its row of the head. Trained over
    thousands of sampled tokenizers (`tokenry.text.zett.training`), one network serves any target vocabulary without
    further data.

    The encoder is transformers' own `RobertaModel`. Rows of equal length run together, so no attention mask is needed
    and short tokens cost what their pieces cost. Two things differ from the published code: padding of surface forms
    is -1 instead of the tokenizer's padding id (which is the end-of-text token for many models, whose own surface
    form would then be empty), and the rescaler of the output head is frozen like the others unless
    `train_output_scaler` says so.
    """

    config_class = HypernetConfig
    base_model_prefix = "hypernet"

    def __init__(self, config: HypernetConfig) -> None:
        super().__init__(config)
        h, d = config.hidden_size, config.embedding_size
        n_in = d if config.tied else 2 * d
        self.in_scaler = Rescaler(n_in)
        self.fallback_embedding = nn.Embedding(256, n_in)  # bytes that the source vocabulary lacks
        self.in_projection = nn.Sequential(nn.Linear(n_in, h), ProjectorBlock(h))
        self.language_embedding = nn.Embedding(config.languages, h) if config.languages else None
        self.encoder = RobertaModel(
            RobertaConfig(
                vocab_size=1,
                hidden_size=h,
                num_hidden_layers=config.layers,
                num_attention_heads=config.heads,
                intermediate_size=2 * h,
                max_position_embeddings=config.pieces + 1,
                type_vocab_size=1,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=None,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
            ),
            add_pooling_layer=False,
        )
        self.in_head = nn.Sequential(ProjectorBlock(h), nn.Linear(h, d))
        self.scaler = Rescaler(d)
        self.out_head = None if config.tied else nn.Sequential(ProjectorBlock(h), nn.Linear(h, d))
        self.out_scaler = None if config.tied else Rescaler(d, trained=config.train_output_scaler)
        self.bias_head = nn.Linear(h, 1) if config.predict_bias else None
        self.post_init()

    @property
    def language_model_parts(self) -> int:
        """Matrices that a source row is made of: 1 with a tied head, else 2."""
        return 1 if self.config.tied else 2

    def forward(
        self,
        surface: Int[Tensor, "v p"],
        source: Float[Tensor, "s n_in"],
        language: int | None = None,
    ) -> HypernetOutput:
        """Predict rows.

        Args:
            surface: source ids of every token's pieces, padded on the right with -1; ids from the source's size
                on stand for single bytes.
            source: the language model's rows (see `source_rows`).
            language: index of the language, where the network knows several.

        Raises:
            InputError: rows of another model, a token without pieces or with too many, an unknown language.
        """
        lengths = self._lengths(surface, source, language)
        hidden, order = [], []
        for length in range(1, self.config.pieces + 1):
            rows = (lengths == length).nonzero()[:, 0]
            if len(rows):
                hidden.append(self._encode(surface[rows, :length], source, language))
                order.append(rows)
        x = torch.cat(hidden)[torch.cat(order).argsort()]
        out = None if self.out_head is None or self.out_scaler is None else self.out_scaler(self.out_head(x))
        bias = None if self.bias_head is None else self.bias_head(x)[:, 0].float()
        return HypernetOutput(self.scaler(self.in_head(x)), out, bias)

    @torch.no_grad()
    def predict(
        self,
        surface: Int[Tensor, "v p"],
        source: Float[Tensor, "s n_in"],
        language: int | None = None,
        block: int = 4096,
    ) -> HypernetOutput:
        """The same in blocks of rows and without gradients, for whole vocabularies."""
        parts = [self(rows, source, language) for rows in surface.split(block)]
        return HypernetOutput(*(_joined([getattr(part, name) for part in parts]) for name in _COLUMNS))

    @torch.no_grad()
    def fit_scalers(self, source: Float[Tensor, "s n_in"]) -> None:
        """Set the rescalers, once, before training.

        Source rows come in with mean 0 and standard deviation 0.02; first predictions, for the first 2,048 source
        tokens, go out with the mean and standard deviation of the source rows.
        """
        source = source.detach().float()
        width = source.shape[1]
        self.in_scaler.fit(source, source.new_zeros(width), source.new_full((width,), _INPUT_STD))
        scalers = [scaler for scaler in (self.scaler, self.out_scaler) if scaler is not None]
        for scaler in scalers:
            scaler.weight.fill_(1.0)
            scaler.bias.zero_()
        surface = torch.arange(min(_FITTED_ON, len(source)), device=source.device)[:, None]
        first = self(surface, source, 0 if self.config.languages else None)
        predicted = (first.input_embeddings, first.output_embeddings)
        for scaler, x, rows in zip(scalers, predicted, source.chunk(len(scalers), 1), strict=False):
            scaler.fit(x, rows.mean(0), rows.std(0, correction=0))

    def _encode(
        self, surface: Int[Tensor, "v n"], source: Float[Tensor, "s n_in"], language: int | None
    ) -> Float[Tensor, "v h"]:
        """Hidden vector at position 0 of tokens that all have n pieces."""
        known = surface < len(source)
        pieces = self.in_scaler(source[surface.clamp(max=len(source) - 1)])
        if not known.all():
            spare = self.fallback_embedding((surface - len(source)).clamp(min=0))
            pieces = torch.where(known[..., None], pieces, spare.to(pieces.dtype))
        x = self.in_projection(pieces.to(self.in_projection[0].weight.dtype))
        positions = torch.arange(surface.shape[1], device=surface.device)
        if self.language_embedding is not None:
            vector = self.language_embedding.weight[language].to(x.dtype)
            x = torch.cat([x, vector.expand(len(x), 1, -1)], 1)
            # The last position is the language's own, whatever the number of pieces before it.
            positions = torch.cat([positions, positions.new_tensor([self.config.pieces])])
        zeros = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)
        hidden = self.encoder(
            inputs_embeds=x, position_ids=positions.expand(len(x), -1), token_type_ids=zeros
        )
        return hidden.last_hidden_state[:, 0]

    def _lengths(
        self, surface: Int[Tensor, "v p"], source: Float[Tensor, "s n_in"], language: int | None
    ) -> Int[Tensor, " v"]:
        """Pieces of every token, after checking what a caller can get wrong."""
        expected = (self.config.vocab_size, self.config.embedding_size * self.language_model_parts)
        if tuple(source.shape) != expected:
            raise InputError(
                f"This hypernetwork belongs to a model with source rows {expected}, got {tuple(source.shape)}: "
                "use the model (and tokenizer) that it was trained on."
            )
        real = surface != PAD
        lengths = real.sum(1)
        if not len(surface) or not real[:, 0].all():
            raise InputError("Every token needs at least one piece, in the first column of `surface`.")
        if int(lengths.max()) > self.config.pieces or bool((real[:, 1:] & ~real[:, :-1]).any()):
            raise InputError(
                f"Surface forms must be padded on the right only and have at most {self.config.pieces} pieces, "
                f"got up to {int(lengths.max())}"
            )
        if (language is None) != (self.language_embedding is None) or not 0 <= (language or 0) < max(
            1, self.config.languages
        ):
            raise InputError(
                f"The hypernetwork knows {self.config.languages} languages, got language {language}"
            )
        return lengths


class MeanOfPieces:
    """The hypernetwork that was never trained: a token's row is the mean of its pieces' rows (FVT; ReTok's start).

    A token that is one source token keeps its row bit for bit, so for the model's own tokenizer this is the
    "passthrough" that must reproduce the model. It has the hypernetwork's calling interface.

    Args:
        tied: whether the model ties its head to the input embedding.
    """

    def __init__(self, tied: bool) -> None:
        self.tied = tied

    @torch.no_grad()
    def predict(
        self, surface: Int[Tensor, "v p"], source: Float[Tensor, "s n_in"], language: int | None = None
    ) -> HypernetOutput:
        """Mean rows; bytes that the source vocabulary lacks have no row and count for nothing."""
        known = (surface != PAD) & (surface < len(source))
        rows = source[surface.clamp(0, len(source) - 1)].float()
        mean = mean_pool(rows, known).to(source.dtype)
        if self.tied:
            return HypernetOutput(mean)
        return HypernetOutput(*mean.chunk(2, 1))


def _joined(parts: list[Tensor | None]) -> Tensor | None:
    """Blocks of rows as one; None where there is no such output."""
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None


def is_tied(model: PreTrainedModel) -> bool:
    """Whether a model's head is its input embedding; models without a head count as tied."""
    head = model.get_output_embeddings()
    return head is None or head.weight is model.get_input_embeddings().weight


def source_rows(model: PreTrainedModel) -> Float[Tensor, "s n_in"]:
    """What a hypernetwork reads of a model: its input embedding, beside the head's rows where they are not tied."""
    rows = model.get_input_embeddings().weight.detach()
    return rows if is_tied(model) else torch.cat([rows, model.get_output_embeddings().weight.detach()], 1)
