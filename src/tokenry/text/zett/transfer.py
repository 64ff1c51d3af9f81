"""ZeTT as a method of transplanting: the rows of any vocabulary from a trained hypernetwork."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.text.transplant.base import Context, Rows, Transplant
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.zett.network import Hypernetwork
from tokenry.text.zett.surface import Surfaces
from tokenry.tokens.errors import InputError
from tokenry.tokens.files import whole_folder


@dataclass(frozen=True, kw_only=True)
class Zett(Transplant):
    """Rows predicted by a hypernetwork (ZeTT, arXiv 2405.07883).

    As published, every row but those of special tokens is predicted, also where the model has the very token: in
    another vocabulary that token stands in other places. `keep_shared` copies these rows instead.

    Attributes:
        hypernet: the trained network, or the folder that it was saved in; trained on the model that is transplanted.
        language: index of the language, where the network knows several.
        keep_shared: keep the rows of tokens that both vocabularies have.
        block: tokens predicted at a time.
    """

    slug: ClassVar[str] = "zett"

    hypernet: str | Path | Hypernetwork | None = None
    language: int | None = None
    keep_shared: bool = False
    block: int = 4096

    def __call__(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None = None,
        context: Context | None = None,
    ) -> Rows:
        """As every method; the rows of shared tokens are predicted too, unless they are to be kept."""
        rows = super().__call__(plan, input_rows, output_rows, context)
        if self.keep_shared or not len(plan.shared):
            return rows
        targets = torch.from_numpy(plan.shared[:, 1])
        tokens = [plan.target.token_bytes[token] or b"" for token in targets.tolist()]
        predicted = self._predict(plan, tokens, input_rows.float(), _float(output_rows))
        for table, made in ((rows.input, predicted.input), (rows.output, predicted.output)):
            if table is not None and made is not None:
                table[targets] = made.to(table.dtype)
        if rows.bias is not None and predicted.bias is not None:
            rows.bias[targets] = predicted.bias.to(rows.bias.dtype)
        return rows

    def make(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Rows:
        """Predict the rows of the tokens that the model does not have."""
        tokens = [plan.target.token_bytes[token] or b"" for token in plan.unique.tolist()]
        rows = self._predict(plan, tokens, input_rows, output_rows)
        if (
            context.bias is not None and rows.bias is None
        ):  # the head has a bias that the network knows nothing of
            rows = Rows(rows.input, rows.output, context.bias.new_zeros(len(tokens)), rows.report)
        return rows

    def _predict(
        self, plan: TransplantPlan, tokens: list[bytes], input_rows: Tensor, output_rows: Tensor | None
    ) -> Rows:
        network = self._network()
        source = input_rows if output_rows is None else torch.cat([input_rows, output_rows], 1)
        if not tokens:
            empty = None if output_rows is None else output_rows[:0]
            return Rows(input_rows[:0], empty, None, self._report(network))
        surface = Surfaces(plan.source, len(input_rows), network.config.pieces).matrix(tokens)
        source = source.to(network.device)
        made = network.predict(surface.to(network.device), source, self.language, self.block)
        out = None if made.output_embeddings is None else made.output_embeddings.to(input_rows.device)
        bias = None if made.bias is None else made.bias.to(input_rows.device)
        return Rows(made.input_embeddings.to(input_rows.device), out, bias, self._report(network))

    def _report(self, network: Hypernetwork) -> Mapping[str, str | int | bool]:
        return {
            "hypernetwork layers": network.config.layers,
            "hypernetwork parameters": sum(p.numel() for p in network.parameters()),
            "shared rows kept": self.keep_shared,
        }

    def _network(self) -> Hypernetwork:
        if isinstance(self.hypernet, Hypernetwork):
            return self.hypernet
        if self.hypernet is None:
            raise InputError(
                "zett needs a hypernetwork trained on the model: give its folder (on the command line --hypernet), and "
                "make one with `tokenry vocab hypernet MODEL --on CORPUS -o FOLDER`."
            )
        return load_hypernetwork(self.hypernet)


def load_hypernetwork(folder: str | Path) -> Hypernetwork:
    """A hypernetwork from the folder that it was saved in; the last two stay in memory.

    Raises:
        InputError: there is none.
    """
    files = [Path(folder) / name for name in ("config.json", "model.safetensors")]
    if not all(file.is_file() for file in files):
        raise InputError(f"{folder} holds no hypernetwork (config.json and model.safetensors)")
    stamps = tuple((file.stat().st_mtime_ns, file.stat().st_size) for file in files)
    return _loaded(Path(folder).resolve(), stamps)  # trained anew, it is another


@lru_cache(maxsize=2)
def _loaded(folder: Path, stamps: tuple[tuple[int, int], ...]) -> Hypernetwork:
    network: Hypernetwork = Checkpoint(str(folder)).model(Hypernetwork)
    return network


@torch.no_grad()
def add_body_change(
    fine_tuned: PreTrainedModel, base: PreTrainedModel, moved: PreTrainedModel, weight: float = 1.0
) -> PreTrainedModel:
    """Give a fine-tuned model, in place, what its base model's body learnt on a new vocabulary.

    Where n-shot training changed the body of the base model, a fine-tuned sibling that takes over the new rows needs
    the change too: ``weight * (moved - base)`` is added to all parameters but embeddings and heads.

    Args:
        fine_tuned: the sibling; its rows are not touched.
        base: the base model as it was.
        moved: the base model after n-shot training.
        weight: 1 adds all of the change.

    Raises:
        InputError: models of different architectures.
    """
    skipped = {id(model.get_input_embeddings().weight) for model in (fine_tuned, base, moved)}
    for model in (fine_tuned, base, moved):
        if (head := model.get_output_embeddings()) is not None:
            skipped |= {id(parameter) for parameter in head.parameters()}
    ours, before, after = (
        {name: value for name, value in model.named_parameters() if id(value) not in skipped}
        for model in (fine_tuned, base, moved)
    )
    if not ours.keys() == before.keys() == after.keys():
        raise InputError("The fine-tuned, the base and the moved model must be of one architecture.")
    for name, value in ours.items():
        value += weight * (after[name] - before[name]).to(value)
    return fine_tuned


def save_hypernetwork(network: Hypernetwork, folder: str | Path) -> Path:
    """Write a hypernetwork into a folder, each file whole or not at all; checkpoints in it stay.

    Raises:
        InputError: the folder cannot be written; what was in it is as before.
    """
    folder = Path(folder)
    with whole_folder(folder, merge=True) as scratch:
        network.save_pretrained(scratch)
    return folder


def _float(rows: Tensor | None) -> Tensor | None:
    return None if rows is None else rows.float()
