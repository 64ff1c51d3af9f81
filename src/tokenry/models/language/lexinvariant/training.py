"""Training lexinvariant models, and reading ciphers with them (arXiv 2305.16349)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tokenry.models.language.lexinvariant.model import LexinvariantForCausalLM
from tokenry.train.loop import Batch, Figures, Objective

__all__ = ["DecipherProbe", "LexinvariantLanguageModel", "majority_key", "with_draws"]


def with_draws(batches: Callable[[int], Batch], seed: int = 0) -> Callable[[int], Batch]:
    """Give every sequence of every step a draw of its own.

    The draws are part of the batch, hence a function of the step: a run that is resumed sees those it would have seen.

    Args:
        batches: step -> {"input_ids"}.
        seed: other draws for another training.
    """

    def make(step: int) -> Batch:
        batch = batches(step)
        seeds = np.random.default_rng((seed, step)).integers(1 << 62, size=len(batch["input_ids"]))
        return batch | {"seeds": torch.from_numpy(seeds)}

    return make


class LexinvariantLanguageModel(Objective):
    """Next-token prediction from a learnt start vector, under the draws that come with the batch.

    Batches hold ``input_ids`` [b, n] without the start, and ``seeds`` [b] (see `with_draws`).

    Args:
        model: the network to train.
    """

    def __init__(self, model: LexinvariantForCausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The mean cross-entropy in nats, and the same in bits."""
        losses = self.losses(batch["input_ids"], batch["seeds"])
        loss = losses.mean()
        return loss, {"bits": loss.detach() / math.log(2)}

    def losses(self, ids: Int[Tensor, "b n"], seeds: Int[Tensor, " b"]) -> Float[Tensor, "b n"]:
        """Nats for each token, the first included."""
        logits = self.model(started(self.model, ids)[:, :-1], seeds=seeds).logits.float()
        return F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")


def started(model: LexinvariantForCausalLM, ids: Int[Tensor, "b n"]) -> Int[Tensor, "b n+1"]:
    """The sequences behind the start."""
    return F.pad(ids, (1, 0), value=model.config.start_id)


class DecipherProbe(Objective):
    """Names the symbols behind a substitution cipher, from what a lexinvariant model makes of the text.

    To such a model plain and ciphered text are the same thing, so a two-layer perceptron on the state h_t and the
    vector of the symbol at t, trained on plain text, reads ciphered text as well. The
    model is frozen.

    Batches are those of `LexinvariantLanguageModel`, whose tokens are also the answers.

    Args:
        model: a trained lexinvariant model.
        hidden: width of the perceptron.
    """

    model: LexinvariantForCausalLM

    def __init__(self, model: LexinvariantForCausalLM, hidden: int = 512) -> None:
        super().__init__()
        self.frozen(model=model)
        width = model.config.hidden_size
        self.read = nn.Sequential(
            nn.Linear(2 * width, hidden), nn.GELU(), nn.Linear(hidden, model.config.vocab_size)
        )

    def logits(
        self,
        ids: Int[Tensor, "b n"],
        seeds: Int[Tensor, " b"],
        embeddings: Float[Tensor, "b v d"] | None = None,
    ) -> Float[Tensor, "b n v"]:
        """For each position, how likely each plain symbol is the one behind the symbol that stands there."""
        with torch.no_grad():
            vectors = self.model.embed(started(self.model, ids), seeds, embeddings)
            states = self.model.model(inputs_embeds=vectors).last_hidden_state
        return self.read(torch.cat([states, vectors], -1)[:, 1:])

    def forward(self, batch: Batch) -> tuple[Tensor, Figures]:
        """The mean cross-entropy, and the share of symbols that are right."""
        ids = batch["input_ids"]
        logits = self.logits(ids, batch["seeds"]).float()
        return F.cross_entropy(logits.transpose(1, 2), ids), {
            "right": (logits.argmax(-1) == ids).float().mean()
        }


def majority_key(
    ciphered: Int[Tensor, "b n"], logits: Float[Tensor, "b n v"], first: int = 0
) -> Int[Tensor, " v"]:
    """The key that most positions vote for.

    Args:
        ciphered: sequences under one substitution.
        logits: the probe's, for them.
        first: positions before this one have seen too little to vote.

    Returns:
        Cipher symbol -> plain symbol; -1 for symbols that do not occur.
    """
    vocabulary = logits.shape[-1]
    votes = torch.zeros(vocabulary, vocabulary, dtype=torch.int64)
    symbols, read = ciphered[:, first:].reshape(-1), logits[:, first:].argmax(-1).reshape(-1)
    votes.index_put_((symbols, read), torch.ones_like(symbols), accumulate=True)
    return votes.argmax(1).masked_fill(votes.sum(1) == 0, -1)
