"""Training a hypernetwork over sampled tokenizers (ZeTT, arXiv 2405.07883), and n-shot transfer with it.

Two stages on the one loop: the hypernetwork first learns to give back the model's own rows, then to serve tokenizers
drawn at random from the text of each step. A run that was interrupted continues from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.text.vocabulary import ByteVocab
from tokenry.text.zett.batches import Frame, IdentityBatches, SampledBatches, ZettTraining
from tokenry.text.zett.network import HypernetConfig, HypernetOutput, Hypernetwork, source_rows
from tokenry.text.zett.surface import Surfaces
from tokenry.text.zett.swap import run_with_rows
from tokenry.tokens.errors import UnsupportedError
from tokenry.train.loop import Batch, Figures, Objective, once, train
from tokenry.train.masking import IGNORE
from tokenry.train.resuming import claim, fingerprint, vocabulary_fingerprint


def lexical_loss(
    rows: HypernetOutput, surface: Int[Tensor, "v p"], source: Float[Tensor, "s n_in"]
) -> Float[Tensor, ""]:
    """How far predicted rows of tokens that are one source token are from that token's own.

    The mean squared distance over those tokens, in units of the mean length (not squared, as in the published code) of
    the source rows that all surfaces begin with; the mean of input and output rows. 0 where there is no such token.
    """
    first = surface[:, 0]
    known = first < len(source)
    single = known & ((surface[:, 1:] < 0).all(1))
    targets = source[first.clamp(max=len(source) - 1)].float()
    predicted = [rows.input_embeddings]
    if rows.output_embeddings is not None:
        predicted.append(rows.output_embeddings)
    losses = []
    for x, target in zip(predicted, targets.chunk(len(predicted), 1), strict=True):
        distance = (x.float() - target).square().sum(1)
        length = target[known].norm(dim=1).mean() if known.any() else target.new_ones(())
        losses.append((distance * single).sum() / (single.sum() + 1e-8) / length)
    return torch.stack(losses).mean()


# ----------------------------------------------------------------------------------------------- objectives


class IdentityObjective(Objective):
    """The warm-up: predict the model's own rows from themselves.

    Args:
        hypernet: the network to train.
        source: the model's rows.
    """

    source: Tensor

    def __init__(self, hypernet: Hypernetwork, source: Float[Tensor, "s n_in"]) -> None:
        super().__init__()
        self.hypernet = hypernet
        self.register_buffer("source", source, persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Mean squared distance of ``batch["ids"]``'s predicted rows from their own, averaged over in and out."""
        ids = batch["ids"]
        rows = self.hypernet(ids[:, None], self.source, 0 if self.hypernet.config.languages else None)
        parts = [rows.input_embeddings]
        if rows.output_embeddings is not None:
            parts.append(rows.output_embeddings)
        targets = self.source[ids].float().chunk(len(parts), 1)
        loss = torch.stack(
            [(x - y).square().sum(1).mean() for x, y in zip(parts, targets, strict=True)]
        ).mean()
        relative = loss.detach() / self.source.float().square().sum(1).mean() * len(parts)
        return loss, {"relative": relative}


class TransferObjective(Objective):
    """The second stage: rows for a sampled tokenizer, judged by the frozen language model that has to live with them.

    The language model is frozen, not trained and not checkpointed. Sampled vocabularies have their own sizes, so unlike
    in the published code (whose shapes are fixed) no filler rows have to be masked out of the softmax.

    Args:
        hypernet: the network to train.
        model: the language model, causal or masked, which is frozen.
        lexical_weight: of the lexical loss.
    """

    source: Tensor
    model: PreTrainedModel

    def __init__(self, hypernet: Hypernetwork, model: PreTrainedModel, lexical_weight: float = 0.5) -> None:
        super().__init__()
        self.hypernet, self.lexical_weight = hypernet, lexical_weight
        self.frozen(model=model)
        self.register_buffer("source", source_rows(model), persistent=False)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of the labels under the sampled tokenizer, and the weighted lexical loss."""
        language = int(batch["language"]) if self.hypernet.config.languages else None
        surface, copied = batch["surface"][0], batch["copied"][0]
        rows = self.hypernet(surface, self.source, language)
        lexical = lexical_loss(rows, surface, self.source)
        inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
        swapped = _keep_special(rows, self.source, copied)
        likelihood = _cross_entropy(run_with_rows(self.model, swapped, **inputs).logits, batch["labels"])
        return likelihood + self.lexical_weight * lexical, {
            "nats": likelihood.detach(),
            "lexical": lexical.detach(),
        }


def _keep_special(
    rows: HypernetOutput, source: Float[Tensor, "s n_in"], copied: Int[Tensor, " v"]
) -> HypernetOutput:
    """Special tokens get the model's own rows back."""
    parts = [rows.input_embeddings]
    if rows.output_embeddings is not None:
        parts.append(rows.output_embeddings)
    own = source[copied.clamp(min=0)].float().chunk(len(parts), 1)
    kept = [torch.where((copied >= 0)[:, None], y, x) for x, y in zip(parts, own, strict=True)]
    return HypernetOutput(kept[0], kept[1] if len(kept) == 2 else None, rows.bias)


def _cross_entropy(logits: Float[Tensor, "b t v"], labels: Int[Tensor, "b t"]) -> Float[Tensor, ""]:
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE)


class NShotObjective(Objective):
    """Continued training after a transfer: the hypernetwork and the model's body together, on the new vocabulary.

    The rows stay near those that the transfer began with by a squared error on all tokens.

    Args:
        hypernet: trained; its first predictions are what the rows are held to.
        model: the language model; its body is trained in place, its own embedding is not used.
        surface: surface forms of the target vocabulary, one row a token.
        copied: source id whose rows a special token keeps, else -1.
        weight: of the squared error.
    """

    source: Tensor
    surface: Tensor
    copied: Tensor
    first_in: Tensor
    first_out: Tensor

    def __init__(
        self,
        hypernet: Hypernetwork,
        model: PreTrainedModel,
        surface: Int[Tensor, "v p"],
        copied: Int[Tensor, " v"],
        weight: float = 0.5,
    ) -> None:
        super().__init__()
        self.hypernet, self.model, self.weight = hypernet, model, weight
        source = source_rows(model).clone()
        first = _keep_special(hypernet.predict(surface, source), source, copied)
        tensors = {
            "source": source,
            "surface": surface,
            "copied": copied,
            "first_in": first.input_embeddings,
            "first_out": first.output_embeddings,
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    def rows(self) -> HypernetOutput:
        """The rows of the target vocabulary as they now stand."""
        return _keep_special(self.hypernet(self.surface, self.source), self.source, self.copied)

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """Cross-entropy of ``batch["input_ids"]`` (target ids) plus the weighted distance from the first rows."""
        rows = self.rows()
        ids = batch["input_ids"]
        logits = run_with_rows(self.model, rows, input_ids=ids).logits
        likelihood = _cross_entropy(logits[:, :-1], ids[:, 1:])
        drift = F.mse_loss(rows.input_embeddings, self.first_in)
        if rows.output_embeddings is not None:
            drift = (drift + F.mse_loss(rows.output_embeddings, self.first_out)) / 2
        return likelihood + self.weight * drift, {"nats": likelihood.detach(), "drift": drift.detach()}


# ----------------------------------------------------------------------------------------------------- runs


def train_hypernetwork(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str] | Mapping[str, Sequence[str]],
    folder: Path,
    settings: ZettTraining | None = None,
    *,
    console: Console | None = None,
    workers: int = 0,
) -> Hypernetwork:
    """Train a hypernetwork for a causal or masked language model, or continue an interrupted training.

    Args:
        model: the language model; it is frozen and put into evaluation mode.
        tokenizer: its tokenizer.
        texts: documents, or documents by language (each language then gets a vector of its own).
        folder: where checkpoints go, in ``identity`` and ``transfer``.
        settings: sizes, steps and rates; the paper's by default.
        console: where progress is shown.
        workers: processes that prepare batches.

    Returns:
        The trained network, in evaluation mode.

    Raises:
        InputError: no text, a tokenizer that does not belong to the model, or checkpoints of a run that was started
            with something else.
        UnsupportedError: a model without a language-modelling head.
    """
    if settings is None:
        settings = ZettTraining()
    masked = not model.can_generate()
    if model.get_output_embeddings() is None or (masked and tokenizer.mask_token_id is None):
        raise UnsupportedError(
            f"{type(model).__name__} predicts no tokens (it has no language-modelling head, or its tokenizer no mask "
            "token); load it as a causal or masked language model."
        )
    by_language = texts if isinstance(texts, Mapping) else {"": texts}
    identity = {
        "settings": {k: v for k, v in asdict(settings).items() if k != "checkpoint_every"},
        "text": {language: fingerprint(documents) for language, documents in by_language.items()},
        "model": type(model).__name__,
        "vocabulary": vocabulary_fingerprint(tokenizer),
    }
    vocabulary = ByteVocab.from_tokenizer(tokenizer)
    source = source_rows(model)
    special = {
        str(tokenizer.convert_ids_to_tokens(token)): token
        for token in sorted(vocabulary.special_ids)
        if token < len(source)  # a text model may lack rows for what its siblings that see have
    }
    surfaces = Surfaces(vocabulary, len(source), settings.pieces)
    if vocabulary.kind == "wordpiece" and (normalizer := tokenizer.backend_tokenizer.normalizer) is not None:
        # An uncased vocabulary has no pieces for capitals: the texts as the model knows them.
        by_language = {
            name: [normalizer.normalize_str(text) for text in documents]
            for name, documents in by_language.items()
        }
    batches = SampledBatches(by_language, surfaces, special, settings, Frame.of(tokenizer, masked))
    once(lambda: claim(folder / "run.json", identity), settings.precision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        config = HypernetConfig.for_model(
            model,
            layers=settings.layers,
            hidden_size=settings.hidden_size,
            heads=settings.heads,
            pieces=settings.pieces,
            languages=len(by_language) if len(by_language) > 1 else 0,
        )
        hypernet = Hypernetwork(config)
    hypernet.fit_scalers(source)

    def run(stage: str, objective: Objective, make: Callable[[int], Batch]) -> None:
        title = f"hypernetwork, {stage}"
        train(
            objective,
            make,
            settings.loop(stage),
            folder / stage,
            title=title,
            workers=workers,
            console=console,
        )

    identities = IdentityBatches(len(source), settings.identity_rows, settings.seed)
    run("identity", IdentityObjective(hypernet, source), identities)
    run("transfer", TransferObjective(hypernet, model, settings.lexical_weight), batches)
    return hypernet.eval()
