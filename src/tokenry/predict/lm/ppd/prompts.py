"""Prompt tokens for Parallel Prompt Decoding (arXiv 2405.18628): trained embeddings that make a model look ahead.

What the trainer and the decoder share: the embeddings, how their rows are laid out in a forward pass, and the pass
that asks a model what its prompt tokens see at several places of a text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tokenry.hosts.treepass import plain_layers, tree_pass
from tokenry.hosts.upstream import cache_of
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder

Teacher = Literal["greedy", "text"]
"""What prompt tokens are compared with: the model's own greedy continuation, or the text as it stands."""

_WEIGHTS: Final = "prompt_tokens.safetensors"
_ABOUT: Final = "prompt_tokens.json"


@dataclass(frozen=True, eq=False)
class Chains:
    """Rows of prompt tokens: one chain behind each of several places, none of which sees another.

    Ordered by place, then by prompt, then by ensemble member, so that a chain of s prompts with n members is s * n rows
    on end.

    Attributes:
        place: which place each row's chain stands behind.
        step: which prompt each row is, from 1; it stands so many tokens behind the place.
        member: which of the prompt's ensemble each row is, from 0.
        sees: which rows each row attends to (itself among them): the same member of its own chain, up to its own step.
    """

    place: Int[np.ndarray, " p"]
    step: Int[np.ndarray, " p"]
    member: Int[np.ndarray, " p"]
    sees: Bool[np.ndarray, "p p"]

    @classmethod
    def behind(cls, lengths: Sequence[int], ensemble: int = 1) -> Self:
        """Lay out chains.

        Args:
            lengths: prompts behind each place.
            ensemble: members of each prompt.
        """
        sizes = np.asarray(lengths, np.int64)
        place = np.repeat(np.arange(len(sizes)), sizes)
        step = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
        place, step = np.repeat(place, ensemble), np.repeat(step, ensemble)
        member = np.tile(np.arange(ensemble), int(sizes.sum()))
        own = (place[:, None] == place) & (member[:, None] == member)
        return cls(place, step, member, own & (step[:, None] >= step))


class PromptTokens(nn.Module):
    """m prompt tokens with n embeddings each, and how well they guess.

    Prompt i (from 1) stands i tokens behind the last token of a context and its logits are about the token that comes
    after it: i + 1 tokens ahead. The n members of its ensemble (EPTs) stand at the same position, do not see each
    other's chains (the ensemble mask), and their logits are averaged.

    Args:
        embeddings: in the model's own embedding space.
        acceptance: ``[i, r]``: how often the token i + 2 ahead (i from 0) is exactly guess r of prompt i + 1, as
            `tokenry.predict.lm.ppd.training.acceptance_table` measures it; None if that is not known yet.
        about: where they come from: model, texts, steps.

    Raises:
        InputError: a table that does not fit.
    """

    def __init__(
        self,
        embeddings: Float[Tensor, "m n d"],
        acceptance: Float[np.ndarray, "rows k"] | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if acceptance is not None and len(acceptance) != len(embeddings):
            raise InputError(
                f"{len(embeddings)} prompt tokens need as many rows of acceptance, got {len(acceptance)}."
            )
        self.embeddings = nn.Parameter(embeddings.detach().clone().float())
        self.acceptance = acceptance
        self.about = dict(about or {})

    @property
    def count(self) -> int:
        """How many prompt tokens there are (m)."""
        return self.embeddings.shape[0]

    @property
    def ensemble(self) -> int:
        """How many embeddings each of them has (n)."""
        return self.embeddings.shape[1]

    @property
    def width(self) -> int:
        """Width of the model they are for (d)."""
        return self.embeddings.shape[2]

    @classmethod
    def from_words(
        cls,
        model: Any,
        tokenizer: Any,
        count: int = 3,
        ensemble: int = 1,
        text: str = " the words that come next",
    ) -> Self:
        """Start from the embeddings of a short text's tokens, over and over if there are too few.

        Args:
            model: a causal language model of transformers.
            tokenizer: its tokenizer.
            count: prompt tokens (m); they guess up to `count` + 1 tokens ahead.
            ensemble: embeddings per prompt token (n).
            text: of at least `ensemble` different tokens: members that start alike stay alike.

        Raises:
            InputError: too short a text; numbers below 1.
        """
        if count < 1 or ensemble < 1:
            raise InputError(
                f"There is at least one prompt token with one embedding, got {count} with {ensemble}."
            )
        ids = list(dict.fromkeys(tokenizer(text, add_special_tokens=False)["input_ids"]))
        if len(ids) < ensemble:
            raise InputError(
                f"{text!r} has {len(ids)} different tokens; an ensemble of {ensemble} needs as many."
            )
        table = model.get_input_embeddings().weight.detach()
        chosen = [ids[i % len(ids)] for i in range(count * ensemble)]
        return cls(table[torch.tensor(chosen, device=table.device)].unflatten(0, (count, ensemble)))

    @classmethod
    def for_smollm2(cls) -> Self:
        """The prompt tokens that are shipped for SmolLM2-135M-Instruct, with their table of acceptance.

        Raises:
            InputError: they are missing from the installation.
        """
        return cls.load(Path(str(files("tokenry.predict.lm.ppd") / "smollm2")))

    def rows(self, chains: Chains) -> Float[Tensor, "p d"]:
        """The embeddings of chains' rows.

        Raises:
            InputError: chains that are longer or wider than there are prompt tokens.
        """
        if len(chains.step) and (chains.step.max() > self.count or chains.member.max() >= self.ensemble):
            raise InputError(
                f"Chains of {chains.step.max()} prompts with {chains.member.max() + 1} members; "
                f"there are {self.count} with {self.ensemble}."
            )
        return self.embeddings[torch.from_numpy(chains.step - 1), torch.from_numpy(chains.member)]

    def save(self, folder: str | Path) -> None:
        """Write them to a folder (safetensors and JSON); one that exists is replaced.

        Raises:
            InputError: if it cannot be written.
        """
        with whole_folder(Path(folder)) as scratch:
            save_file({"embeddings": self.embeddings.detach().cpu().contiguous()}, scratch / _WEIGHTS)
            table = None if self.acceptance is None else self.acceptance.round(6).tolist()
            values = {"acceptance": table, "about": self.about}
            (scratch / _ABOUT).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            InputError: nothing there, or something else.
        """
        folder = Path(folder)
        try:
            values = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
            table, about = values["acceptance"], values["about"]
            embeddings = load_file(folder / _WEIGHTS)["embeddings"]
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise InputError(f"{folder} holds no prompt tokens that can be read: {error}") from error
        return cls(embeddings, None if table is None else np.array(table, np.float64), about)


@dataclass(frozen=True, eq=False)
class Outlook:
    """What prompt tokens and the model itself say about the same tokens ahead.

    Attributes:
        guesses: logits of the prompt tokens, averaged over their ensemble; prompt i at point P is about token P + i.
        teacher: the model's own logits for the same tokens.
        target: the tokens that come: the likeliest ones, or the text's.
    """

    guesses: Float[Tensor, "b q m v"]
    teacher: Float[Tensor, "b q m v"]
    target: Int[Tensor, "b q m"]


def look_ahead(
    model: Any,
    prompts: PromptTokens,
    ids: Int[Tensor, "b t"],
    points: Int[Tensor, "b q"],
    teacher: Teacher = "greedy",
) -> Outlook:
    """Ask prompt tokens about several places of each text at once.

    The text is read once, without gradients: nothing in it sees a prompt token. Then the greedy continuations of all
    points grow side by side over its cache, one pass per token, and are cut off again; last, one pass over all chains.
    Only that one has gradients, and only towards the prompt tokens if the model is frozen.

    Args:
        model: a causal language model of transformers.
        prompts: for its width.
        ids: texts of equal length, without padding.
        points: lengths of the contexts after which the prompt tokens stand: text[:point] is what they see.
        teacher: "greedy": the model's own greedy continuation of each context; "text": the distributions over the
            text as it stands, which costs no passes, and is the same where the model wrote the text.

    Raises:
        InputError: points outside of the texts; prompt tokens for another width.
        UnsupportedError: a model whose cache does not hold every token (sliding windows, recurrent states).
    """
    model_width = model.get_input_embeddings().weight.shape[1]
    if prompts.width != model_width:
        raise InputError(f"These prompt tokens are for width {prompts.width}; the model has {model_width}.")
    m, length = prompts.count, ids.shape[1]
    last = length if teacher == "greedy" else length - m - 1
    if int(points.min()) < 1 or int(points.max()) > last:
        raise InputError(
            f"Points lie between 1 and {last} in texts of {length} tokens with {m} prompt tokens and teacher "
            f"{teacher!r}; got {int(points.min())} to {int(points.max())}."
        )
    before = torch.arange(length, device=ids.device) < points[:, :, None]  # what each point sees of the text
    with torch.no_grad():
        ahead = points[..., None] + torch.arange(-1, m if teacher == "text" else 0, device=ids.device)
        kept = ahead.unique()
        output = model(input_ids=ids, use_cache=True, logits_to_keep=kept)
        rows = torch.searchsorted(kept, ahead).flatten(1)
        known = output.logits.gather(1, rows[..., None].expand(-1, -1, output.logits.shape[-1]))
        known = known.unflatten(1, (points.shape[1], -1))
        cache = cache_of(output)
        plain_layers(cache)  # refuses what does not hold every token
        if teacher == "text":
            steps = points[..., None] + torch.arange(1, m + 1, device=ids.device)
            truth, target = known[:, :, 1:], ids.gather(1, steps.flatten(1)).view_as(steps)
        else:
            truth = _continue(model, cache, known[:, :, 0].argmax(-1), points, before, m)
            target = truth.argmax(-1)
    chains = Chains.behind([m] * points.shape[1], prompts.ensemble)
    place = torch.from_numpy(chains.place).to(ids.device)
    mine = torch.from_numpy(chains.sees).to(ids.device).expand(len(ids), -1, -1)
    guesses = tree_pass(
        model,
        cache,
        {"inputs_embeds": prompts.rows(chains).to(model.dtype).expand(len(ids), -1, -1)},
        torch.cat([before[:, place], mine], -1),
        points[:, place] + torch.from_numpy(chains.step - 1).to(ids.device),
    ).logits
    return Outlook(guesses.unflatten(1, (points.shape[1], m, prompts.ensemble)).mean(3), truth, target)


def _continue(
    model: Any,
    cache: Any,
    token: Int[Tensor, "b q"],
    points: Int[Tensor, "b q"],
    before: Bool[Tensor, "b q t"],
    steps: int,
) -> Float[Tensor, "b q m v"]:
    """Logits along the greedy continuation behind each point, its first token given; the cache is left as it was."""
    branches = torch.eye(token.shape[1], dtype=torch.bool, device=token.device).expand(len(token), -1, -1)
    found: list[Tensor] = []
    for step in range(steps):
        sees = torch.cat([before, *[branches] * (step + 1)], -1)
        output = tree_pass(model, cache, {"input_ids": token}, sees, points + step)
        found.append(output.logits)
        token = output.logits.argmax(-1)
    cache.crop(-steps * token.shape[1])
    return torch.stack(found, 2)
