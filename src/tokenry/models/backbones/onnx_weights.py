"""The weights of a DINOv2 out of an ONNX file that was exported from it.

The export keeps the names of most parameters; those of the matrices are lost, and are found by following the graph:
each matrix is multiplied with, and then a bias is added that has a name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from tokenry.hosts.checkpoints import Checkpoint
from tokenry.tokens.errors import InputError, gist
from tokenry.tokens.extras import optional

_TOWER: Final = "backbone."
"""What the names of the tower's parameters begin with in the file; the rest is the detector's."""


def from_onnx(file: Path, config: Any, folder: Path) -> None:
    """Write an ONNX file that was exported from a `Dinov2Model` as a folder that `from_pretrained` reads, in float32.

    Parameters keep the names that they were published with, and which every release of transformers reads.

    Args:
        file: the ONNX file; the tower's parameters have names that begin with "backbone.".
        config: the `Dinov2Config` that the weights fit.
        folder: where to write to.

    Raises:
        InputError: the file cannot be read, a parameter is missing or of another size, or a matrix cannot be told.
        UnsupportedError: the package `onnx` is missing.
    """
    from safetensors.numpy import save_file
    from transformers import Dinov2Model

    found = _Graph.read(file).parameters()
    # What stands for hidden patches in pretraining; no export of a forward pass has it.
    found["embeddings.mask_token"] = np.zeros((1, config.hidden_size))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in found.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config.architectures = [Dinov2Model.__name__]
    config.save_pretrained(folder)
    try:
        Checkpoint(str(folder)).model(Dinov2Model)
    except InputError as error:
        raise InputError(
            f"What is in {file} is no DINOv2 of {config.num_hidden_layers} blocks of width {config.hidden_size}. "
            f"{error}"
        ) from error


@dataclass(frozen=True)
class _Graph:
    """An exported tower as a graph of operations on constants that are partly named.

    Attributes:
        file: where it was read from.
        nodes: the operations.
        constants: the constants by name.
    """

    file: Path
    nodes: tuple[Any, ...]
    constants: Mapping[str, np.ndarray]

    @classmethod
    def read(cls, file: Path) -> Self:
        onnx = optional("onnx", package="onnx", extra="demo", purpose="Reading an ONNX file")
        try:
            graph = onnx.load(file).graph
            constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.initializer}
        except (
            Exception
        ) as error:  # protobuf's, onnx's or the file system's: what a damaged file raises differs
            raise InputError(f"Cannot read the ONNX file {file}: {gist(error)}.") from error
        return cls(file, tuple(graph.node), constants)

    def parameters(self) -> dict[str, np.ndarray]:
        """The tower's parameters by the names that transformers has for them."""
        found = {name: value for name, value in self.constants.items() if name.startswith(_TOWER)}
        found.update(self._matrices())
        found[f"{_TOWER}embeddings.position_embeddings"] = self._positions()
        return {name.removeprefix(_TOWER): value for name, value in found.items()}

    def _matrices(self) -> Iterator[tuple[str, np.ndarray]]:
        """The matrices of linear layers, transposed to what torch has, with names made from those of their biases."""
        biases = self._biases()
        for node in self.nodes:
            matrices = [name for name in node.input if name in self.constants]
            if node.op_type != "MatMul" or not matrices:  # queries with keys, attention with values
                continue
            bias = biases.get(node.output[0])
            if bias is None:
                raise InputError(
                    f"The file {self.file} is laid out otherwise than tokenry knows: {node.name or 'a MatMul'} "
                    f"multiplies with {matrices[0]}, and no bias with a name is added to it that tells what it is. "
                    "Use the file of the version that tokenry names."
                )
            yield f"{bias.removesuffix('.bias')}.weight", self.constants[matrices[0]].T

    def _biases(self) -> dict[str, str]:
        """The named biases that are added to results of operations, by what they are added to."""
        return {
            other: name
            for node in self.nodes
            if node.op_type == "Add" and len(node.input) == 2
            for name, other in (tuple(node.input), tuple(node.input)[::-1])
            if name in self.constants and name.startswith(_TOWER) and name.endswith(".bias")
        }

    def _positions(self) -> np.ndarray:
        """The table of positions: one row for [CLS] is concatenated, those of the grid are reshaped to be resized."""
        cls, grid = self._nameless("Concat"), self._nameless("Reshape")
        if cls.ndim != 3 or grid.ndim != 3 or cls.shape[2] != grid.shape[2]:
            raise InputError(
                f"The file {self.file} is laid out otherwise than tokenry knows: its positions are of size "
                f"{_size(cls.shape)} and {_size(grid.shape)}, which make no table. Use the file of the version that "
                "tokenry names."
            )
        return np.concatenate([cls, grid], axis=1)

    def _nameless(self, operation: str) -> np.ndarray:
        """The only constant without a name of its own that an operation takes."""
        found = {
            name
            for node in self.nodes
            if node.op_type == operation
            for name in node.input
            if name in self.constants and not name.startswith(_TOWER)
        }
        if len(found) != 1:
            raise InputError(
                f"The file {self.file} is laid out otherwise than tokenry knows: {len(found)} of its constants go into "
                f"a {operation}, where one holds positions. Use the file of the version that tokenry names."
            )
        return self.constants[found.pop()]


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "one number"
