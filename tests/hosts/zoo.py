"""A tiny random model, and a prompt, of every class that transformers calls "image, text -> text".

Configurations are the classes' own defaults with every size taken down (`tiny_config`); what a class needs beyond that
stands in `ZOO`. Prompts are laid out by hand: placeholders are counted from the model's own `get_image_features`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import transformers as hf
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from tests.hosts.families import (
    BOS,
    CLOSE,
    FAMILIES,
    IMAGE,
    OPEN,
    PAD,
    VIDEO,
    Family,
    Inputs,
    pixels,
    prompts,
    text,
)

VOCAB = 160
WIDTH, HEADS, HEAD, LAYERS, BLOCKS = 32, 4, 16, 4, 3


def _named(size: int, names: str) -> dict[str, int]:
    return dict.fromkeys(names.split(), size)


_SIZES = {
    **_named(
        WIDTH,
        """hidden_size d_model out_hidden_size output_dim text_hidden_size projection_dim projector_hidden_size
        embed_dim projection_hidden_dim projector_output_dim vision_hidden_size image_text_hidden_size
        encoder_hidden_size word_embed_proj_dim moe_hidden_size d_kv mlp_dim patch_embed_hidden_size
        projection_hidden_size decoder_hidden_size kv_lora_rank q_lora_rank embedding_size""",
    ),
    **_named(
        HEADS,
        """num_attention_heads num_heads attention_heads encoder_attention_heads decoder_attention_heads
        swa_num_attention_heads num_sliding_attention_heads index_n_heads linear_num_heads mamba_num_heads
        linear_num_value_heads resampler_n_heads""",
    ),
    **_named(
        2,
        """num_key_value_heads swa_num_key_value_heads linear_num_key_heads num_experts_per_tok moe_topk moe_k
        cross_attention_frequency""",
    ),
    **_named(
        HEAD,
        """head_dim swa_head_dim index_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim mamba_head_dim
        v_head_dim qk_nope_head_dim resampler_head_dim ssm_state_size""",
    ),
    **_named(
        48,
        """intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim moe_intermediate_size
        shared_expert_intermediate_size shared_experts_intermediate_size shared_intermediate_size
        dense_intermediate_size moe_shared_expert_intermediate_size share_expert_dim intermediate_size_mlp
        alignment_intermediate_size projection_intermediate_size merged_hidden_size""",
    ),
    **_named(
        4,
        """num_experts num_local_experts n_routed_experts moe_num_experts hc_lowrank num_query_tokens d_rel laurel_rank
        loop_gate_rank resampler_n_latents""",
    ),
    **_named(1, "n_group topk_group first_k_dense_replace"),
    **_named(8, "qk_rope_head_dim hidden_size_per_layer_input"),
    **_named(VOCAB, "vocab_size vocab_size_per_layer_input"),
    **_named(12, "sliding_window sliding_window_size"),
    "max_position_embeddings": 512,
    "image_size": 64,
    "attention_chunk_size": 16,
}
_DEPTHS = frozenset(
    _named(0, "num_hidden_layers depth layers n_layers encoder_layers decoder_layers num_layers")
)


def tiny_config(config: Any, over: Mapping[str, Any], *, text_part: bool = True) -> Any:
    """A configuration of the same class, small.

    Args:
        config: the class's default configuration.
        over: what it is given besides; a mapping for a part goes to that part.
        text_part: whether it describes a language model.
    """
    given: dict[str, Any] = {}
    for name, value in vars(config).items():
        if isinstance(value, hf.PreTrainedConfig) and isinstance(over.get(name), hf.PreTrainedConfig):
            given[name] = over[name]
        elif isinstance(value, hf.PreTrainedConfig):
            is_text = "text" in name or "decoder" in name or "language" in name
            given[name] = tiny_config(value, over.get(name, {}), text_part=is_text)
        elif name in over or isinstance(value, bool) or name.startswith("_"):
            continue
        elif name in _DEPTHS and isinstance(value, int):
            given[name] = LAYERS if text_part else BLOCKS
        elif name in _SIZES and isinstance(value, int):
            given[name] = min(value, _SIZES[name]) if value else value
        elif name == "rope_parameters" and value and "mrope_section" in value:
            given[name] = dict(value) | {"mrope_section": _sections(value, over)}
    sizes = {k: v for k, v in over.items() if not isinstance(v, dict) or k not in given}
    given |= sizes
    given |= _tokens(config, given)
    return type(config)(**given)


def _sections(rope: Mapping[str, Any], over: Mapping[str, Any]) -> list[int]:
    """Frequencies per axis for small heads, in about the proportions of large ones."""
    head = over.get("head_dim", HEAD)
    total = int(head * rope.get("partial_rotary_factor", 1.0)) // 2
    axes = len(rope["mrope_section"])
    share = [total // axes] * axes
    share[-1] += total - sum(share)
    return share


def _tokens(config: Any, given: Mapping[str, Any]) -> dict[str, int]:
    """Special tokens of a large vocabulary, within a small one."""
    found, free = {}, iter(range(VOCAB - 1, 120, -1))
    for name, value in vars(config).items():
        if name in given or isinstance(value, bool) or not isinstance(value, int):
            continue
        if not name.endswith(
            ("_token_id", "_token_index", "_start_id", "_end_id", "_newline_id", "_patch_id")
        ):
            continue
        known = {"image": IMAGE, "video": VIDEO, "pad": PAD, "bos": BOS, "eos": 2}
        kind = next((k for k in known if name in (f"{k}_token_id", f"{k}_token_index")), None)
        found[name] = known[kind] if kind else value if 0 <= value < 100 else next(free)
    return found


@dataclass(frozen=True)
class Entry:
    """What a class needs beyond the general rules.

    Attributes:
        over: configuration values.
        pixels: the pictures' part of the inputs, by the number of pictures; found by signature where not given.
        blocks: placeholders of each picture with the marks around them, given how many tokens each has.
    """

    over: Mapping[str, Any] = field(default_factory=dict)
    pixels: Callable[[Any, int], Inputs] | None = None
    blocks: Callable[[Any, list[int]], list[list[int]]] | None = None
    std: float = 0.2


def no_pictures(model: Any, n: int) -> Inputs:
    """Nothing: what the model reads of pictures becomes no token of its language model."""
    return {}


def features_of(model: Any) -> Callable[..., Any] | None:
    """The model's encoder of pictures, or None."""
    for module in (model.base_model, model):
        if hasattr(module, "get_image_features"):
            return module.get_image_features
    return None


def _vision(model: Any) -> Any:
    return getattr(model.config, "vision_config", model.config)


def pixels_for(model: Any, n: int) -> Inputs:
    """Pictures as the encoder's signature asks for them."""
    names = inspect.signature(features_of(model)).parameters
    vision = _vision(model)
    if "image_grid_thw" in names:
        grids = torch.tensor([[1, 8, 8], [1, 8, 4]])[:n]
        patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        temporal = (
            getattr(vision, "temporal_patch_size", None) or getattr(vision, "patch_temporal", None) or 1
        )
        width = getattr(vision, "in_channels", getattr(vision, "num_channels", 3)) * temporal * patch * patch
        return {"pixel_values": pixels(int(grids.prod(1).sum()), width), "image_grid_thw": grids}
    size = getattr(vision, "image_size", 64)
    size = size if isinstance(size, int) else size[0]
    values: Inputs = {"pixel_values": pixels(n, 3, size, size)}
    if "image_sizes" in names:
        values["image_sizes"] = torch.tensor([[size, size]] * n)
    return values


def lengths_of(output: Any, n: int) -> list[int]:
    """Tokens of each of n pictures in what the encoder delivered."""
    pooled = getattr(output, "pooler_output", output)
    if pooled is None and getattr(output, "deepstack_features", None):
        pooled = output.deepstack_features[0][1]
    if pooled is None:
        pooled = output.last_hidden_state
    if isinstance(pooled, Tensor):
        total = pooled.numel() // pooled.shape[-1]
        return [total // n] * n
    lengths = [len(p) if p.ndim == 2 else p.shape[0] * p.shape[1] for p in pooled]
    if len(lengths) % n:
        raise ValueError(f"{lengths} tokens for {n} pictures")
    tiles = len(lengths) // n
    return [sum(lengths[i * tiles : (i + 1) * tiles]) for i in range(n)]


def plain_blocks(model: Any, lengths: list[int]) -> list[list[int]]:
    """A picture's placeholders between two marks."""
    return [[OPEN, *[IMAGE] * n, CLOSE] for n in lengths]


def inputs_for(model: Any, entry: Entry) -> Inputs:
    """Two rows of different length with a picture each, padded on the left."""
    encode = features_of(model)
    if encode is None or entry.pixels is no_pictures:
        return prompts([BOS, text(20, 1)], [BOS, text(15, 2)])
    values = (entry.pixels or pixels_for)(model, 2)
    wanted = {k: v for k, v in values.items() if k in inspect.signature(encode).parameters}
    if not wanted:  # a name of its own
        wanted = {"pixel_values": next(iter(values.values()))}
    with torch.no_grad():
        lengths = lengths_of(encode(**wanted, return_dict=True), 2)
    blocks = (entry.blocks or plain_blocks)(model, lengths)
    inputs = prompts([BOS, text(6, 1), blocks[0], text(9, 2)], [BOS, text(3, 3), blocks[1], text(5, 4)])
    ids, accepted = inputs["input_ids"], inspect.signature(model.forward).parameters
    kinds = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
    for name in ("mm_token_type_ids", "token_type_ids", "moe_mm_token_type_ids"):
        if name in accepted:
            inputs[name] = kinds if name.startswith("mm") else kinds.long()
    return inputs | values


# --- towers of timm, without timm ------------------------------------------------------------------------------------


class StandInConfig(hf.PreTrainedConfig):
    """Configuration of `StandIn`."""

    model_type = "tokenry_stand_in"
    hidden_size: int = WIDTH
    grid: bool = False
    model_args: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.model_args = {"embed_dim": WIDTH}  # what the classes read of timm's configuration
        super().__post_init__(**kwargs)


class StandInGemma3nConfig(hf.Gemma3nVisionConfig):
    """The same for Gemma3n, which insists on a configuration of its own."""

    model_type = "tokenry_stand_in_gemma3n"
    grid: bool = True


class _TimmBlock(nn.Module):
    """A block as timm builds them: attention of its own, which transformers knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attn(x - x.mean(1, keepdim=True))


class StandIn(hf.PreTrainedModel):
    """What transformers' wrapper around a tower of timm gives: a [CLS] token before the patches, or a grid of them."""

    config_class: Any = StandInConfig
    _supports_sdpa = True  # as far as anybody asks

    def __init__(self, config: StandInConfig) -> None:
        super().__init__(config)
        self.embed = nn.Conv2d(3, WIDTH, 16, 16)
        self.blocks = nn.Sequential(_TimmBlock(), _TimmBlock())
        if not config.grid:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.post_init()

    def forward(self, pixel_values: Tensor, **kwargs: Any) -> BaseModelOutput:
        x = self.embed(pixel_values)
        tokens = x.flatten(2).transpose(1, 2)
        if self.config.grid:
            return BaseModelOutput(last_hidden_state=self.blocks(tokens).transpose(1, 2).reshape(x.shape))
        first = self.cls_token.expand(len(tokens), -1, -1)
        return BaseModelOutput(last_hidden_state=self.blocks(torch.cat([first, tokens], 1)))


class StandInGemma3n(StandIn):
    """The same, configured by Gemma3n's class."""

    config_class: Any = StandInGemma3nConfig


hf.AutoConfig.register("tokenry_stand_in", StandInConfig)
hf.AutoModel.register(StandInConfig, StandIn)
hf.AutoConfig.register("tokenry_stand_in_gemma3n", StandInGemma3nConfig)
hf.AutoModel.register(StandInGemma3nConfig, StandInGemma3n)

# --- what single classes need ---------------------------------------------------------------------------------------


def _tiles(size: int, tiles: int = 2, **more: Callable[[int], Any]) -> Callable[[Any, int], Inputs]:
    """Every picture cut into tiles of one size, one after the other."""

    def made(model: Any, n: int) -> Inputs:
        return {"pixel_values": pixels(n * tiles, 3, size, size)} | {k: v(n) for k, v in more.items()}

    return made


def _squares(size: int, **more: Callable[[int], Any]) -> Callable[[Any, int], Inputs]:
    return _tiles(size, 1, **more)


def _grids(width: int, **more: Callable[[int], Any]) -> Callable[[Any, int], Inputs]:
    """Packed patches of `width` numbers with a (t, h, w) grid per picture."""

    def made(model: Any, n: int) -> Inputs:
        grids = torch.tensor([[1, 8, 8], [1, 8, 4]])[:n]
        values = pixels(int(grids.prod(1).sum()), width)
        return {"pixel_values": values, "image_grid_thw": grids} | {k: v(n) for k, v in more.items()}

    return made


def _rope(*sections: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": dict(rope_type="default", rope_theta=10000.0, mrope_section=list(sections)) | more
    }


_GLM = {"text_config": _rope(1, 1, 2, partial_rotary_factor=1.0)}
_QWEN = {"text_config": _rope(2, 3, 3)}
_VQ = {
    "base_channels": 32,
    "channel_multiplier": [1, 1],
    "num_embeddings": 16,
    "codebook_size": 16,
    "embed_dim": 8,
    "latent_channels": 32,
    "attn_resolutions": [],
    "resolution": 32,
    "num_res_blocks": 1,
}


def _position_ids(n: int) -> Tensor:
    """(x, y) of the patches of 6 x 6 and 6 x 3 pictures, padded."""
    ids = torch.full((2, 36, 2), -1)
    for i, w in enumerate((6, 3)):
        grid = torch.stack(torch.meshgrid(torch.arange(w), torch.arange(6), indexing="xy"), -1)
        ids[i, : 6 * w] = grid.reshape(-1, 2)
    return ids[:n]


def _patches(width: int) -> Callable[[Any, int], Inputs]:
    def made(model: Any, n: int) -> Inputs:
        return {"pixel_values": pixels(n, 36, width), "image_position_ids": _position_ids(n)}

    return made


def _siglip2(width: int) -> Callable[[Any, int], Inputs]:
    """Patches with the shape of each picture, padded."""

    def made(model: Any, n: int) -> Inputs:
        shapes = torch.tensor([[8, 8], [8, 4]])[:n]
        mask = torch.zeros(n, 64, dtype=torch.long)
        for i, (h, w) in enumerate(shapes.tolist()):
            mask[i, : h * w] = 1
        values = {"pixel_values": pixels(n, 64, width), "spatial_shapes": shapes}
        return values | {"pixel_attention_mask": mask}

    return made


def _minicpm(model: Any, n: int) -> Inputs:
    sizes = torch.tensor([[8, 8], [8, 4]])[:n]
    patch = model.config.vision_config.patch_size
    total = int(sizes.prod(1).sum())
    return {"pixel_values": pixels(1, 3, patch, total * patch), "target_sizes": sizes}


def _local(size: int, local: int) -> Callable[[Any, int], Inputs]:
    """A whole picture, and two crops of it in another tensor."""

    def made(model: Any, n: int) -> Inputs:
        inputs = {
            "pixel_values": pixels(n, 3, size, size),
            "pixel_values_local": pixels(2 * n, 3, local, local),
        }
        return inputs | {"num_local_patches": [2] * n}

    return made


def _molmo(model: Any, n: int) -> Inputs:
    """A small whole picture of 2 x 2 tokens and a crop of 4 x 4, each token pooled from 4 patches of an 8 x 8 crop."""
    crop = torch.arange(64).view(4, 2, 4, 2).permute(0, 2, 1, 3).reshape(16, 4)
    small = torch.arange(64).view(8, 8)[::4, ::4].reshape(4, 1).expand(4, 4)
    pooling = torch.cat([torch.cat([small, crop + 64]) + 128 * i for i in range(n)])
    return {
        "pixel_values": pixels(2 * n, 64, 8 * 8 * 3),
        "image_token_pooling": pooling,
        "image_grids": torch.tensor([[2, 2, 4, 4]] * n),
        "image_num_crops": torch.tensor([2] * n),
    }


_MINICPM = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_config": {"insert_layer_id": 1}}
_MIXED = ["sliding_attention", "full_attention"] * 2


def _inkling(model: Any, n: int) -> Inputs:
    """Patches of 40 x 40, one for each token."""
    grids = torch.tensor([[1, 4, 4], [1, 4, 2]])[:n]
    return {"pixel_values": pixels(int(grids.prod(1).sum()), 40, 40, 3), "image_grid_thw": grids}


def _fuyu_argument(model: Any) -> str:
    """What the release calls its patches."""
    return next(
        n for n in ("pixel_values", "image_patches") if n in inspect.signature(model.forward).parameters
    )


def known(*model_types: str) -> list[str]:
    """Those of the types that the installed release has."""
    return [m for m in model_types if m in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES]


_MOE_TEXT = {"text_config": {"num_key_value_heads": 4}}

ZOO: dict[str, Entry] = {
    "apertus1p5": Entry(
        {
            "vision_config": _VQ,
            "image_token_offset": 128,
            "audio_token_offset": 144,
            "audio_config": {"hidden_size": 512, "codebook_size": 16},
        },
        _squares(32, image_sizes=lambda n: torch.tensor([[32, 32]] * n)),
    ),
    "aria": Entry(
        {"projector_patch_to_query_dict": {64: 4}, "vision_config": {"patch_size": 8}},
        _squares(64, pixel_mask=lambda n: torch.ones(n, 64, 64, dtype=torch.bool)),
    ),
    "aya_vision": Entry({"vision_config": {"image_size": 64, "patch_size": 8}}, _tiles(64)),
    "chameleon": Entry(
        {
            "vq_config": _VQ,
            "vocabulary_map": {"<image>": IMAGE}
            | {f"IMGIMG{''.join(chr(65 + int(d)) for d in str(i))}Z": 120 + i for i in range(16)},
        },
        _squares(32),
    ),
    "cohere2_vision": Entry({"vision_config": {"image_size": 64, "patch_size": 8}}, _tiles(64)),
    "cohere_compass": Entry(
        {
            "text_config": {
                "layer_types": ["sliding_attention", "full_attention"] * 2,
                "head_dim": 8,
                "rope_parameters": {
                    "sliding_attention": dict(
                        rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2]
                    ),
                    "full_attention": dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2]),
                },
            },
            "vision_config": {"deepstack_visual_indexes": [0, 1]},
        }
    ),
    "cosmos3_omni": Entry({"vision_config": {"deepstack_visual_indexes": [0, 1]}}),
    "blip-2": Entry({"image_token_index": IMAGE}),
    "deepseek_ocr2": Entry(
        {
            "text_config": {
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
                "num_experts_per_tok": 2,
                "num_key_value_heads": 4,
            },
            "vision_config": {"sam_config": {"downsample_channels": [32, 32], "output_channels": 32}},
        },
        _local(1024, 768),
    ),
    "deepseek_vl_hybrid": Entry(
        {"high_res_vision_config": {"image_size": 64, "patch_size": 8, "global_attn_indexes": [1]}},
        _squares(64, high_res_pixel_values=lambda n: pixels(n, 3, 64, 64)),
    ),
    "diffusion_gemma": Entry(
        {"text_config": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48}}
    ),
    "dots3_note": Entry(
        {
            "text_config": {"num_key_value_heads": 4},
            "vision_config": {
                "adapter_in_dim": 32,
                "adapter_out_dim": 32,
                "mlp_layer_types": ["dense", "sparse", "sparse"],
            },
            "audio_config": {"adapter_input_size": 32, "adapter_out_dim": 32},
        }
    ),
    "emu3": Entry(
        {
            "vq_config": _VQ | {"embed_dim": 4, "latent_channels": 4, "codebook_size": 16},
            "vocabulary_map": {"<image>": IMAGE, "<|extra_200|>": 119}
            | {f"<|visual token {i:06d}|>": 120 + i for i in range(16)},
        },
        _squares(32, image_sizes=lambda n: torch.tensor([[32, 32]] * n)),
    ),
    "ernie4_5_vl_moe": Entry(
        {"text_config": {"mlp_layer_types": ["dense", "sparse", "sparse", "sparse"]} | _rope(1, 1, 2)}
    ),
    "fast_vlm": Entry({"vision_config": StandInConfig(grid=True)}, _squares(64)),
    "fuyu": Entry(
        {"patch_size": 8, "num_channels": 3, "image_token_id": IMAGE},
        lambda model, n: {_fuyu_argument(model): pixels(n, 16, 192)},
    ),
    "gemma3n": Entry(
        {
            "vision_config": StandInGemma3nConfig(hidden_size=WIDTH),
            "vision_soft_tokens_per_image": 16,
            "text_config": {
                "num_kv_shared_layers": 2,
                "layer_types": _MIXED,
                "activation_sparsity_pattern": [0.0] * 4,
            },
        },
        _squares(64),
    ),
    "gemma4": Entry(
        {
            # Not there by default, so nothing takes its sizes down.
            "vision_config": {
                "hidden_size": WIDTH,
                "intermediate_size": 48,
                "num_hidden_layers": BLOCKS,
                "num_attention_heads": HEADS,
                "num_key_value_heads": HEADS,
                "head_dim": 8,
                "position_embedding_size": 64,
            },
            "text_config": {"num_kv_shared_layers": 2, "layer_types": _MIXED, "sliding_window": 12},
        },
        _patches(768),
    ),
    "gemma4_unified": Entry(
        {"vision_config": {"mm_embed_dim": 32, "output_proj_dims": 32, "mm_posemb_size": 16}}, _patches(6912)
    ),
    "glm46v": Entry(_GLM),
    "glm4v": Entry(_GLM),
    "glm4v_moe": Entry(_GLM),
    "glm5_next": Entry(_MOE_TEXT),
    "granite4_vision": Entry(
        {
            "vision_config": {"image_size": 64, "patch_size": 8, "hidden_size": 64},
            "image_grid_pinpoints": [[64, 128], [128, 64], [128, 128]],
            "downsample_rate": "1/2",
            "deepstack_layer_map": [[-2, 0], [-1, 2]],
            "spatial_target_layers": [0, 1, 2, 3],
        },
        lambda model, n: {
            "pixel_values": pixels(n, 3, 3, 64, 64),
            "image_sizes": torch.tensor([[60, 120], [120, 60]])[:n],
        },
    ),
    "granite_docling": Entry(
        {"vision_config": {"image_size": 64, "patch_size": 8, "deepstack_visual_indexes": [0, 1, 2]}},
        lambda model, n: {
            "pixel_values": pixels(n, 2, 3, 64, 64),
            "pixel_attention_mask": torch.ones(n, 2, dtype=torch.bool),
        },
    ),
    "inkling2": Entry({}, _inkling),
    "inkling2_loop": Entry(
        {
            "text_config": {
                "loop_layer_index_start": 1,
                "loop_layer_index_end": 3,
                "n_layers_per_attn_res_block": 1,
            }
        },
        _inkling,
    ),
    "inkling_mm_model": Entry({}, lambda model, n: {"pixel_values": pixels(n * 12, 2, 40, 40, 3)}),
    "glm_ocr": Entry(_GLM),
    "glmga": Entry(_GLM),
    "got_ocr2": Entry({"vision_config": {"image_size": 64, "patch_size": 4}}, _tiles(64)),
    "pp_chart2table": Entry({"vision_config": {"image_size": 64, "patch_size": 4}}, _tiles(64)),
    "hunyuan_vl": Entry(
        {"text_config": {"head_dim": 16} | _rope(2, 2, 2, 2, rope_type="dynamic", alpha=1000.0, factor=1.0)},
        # Rows of tokens with a separator each, and marks around them, all written over placeholders.
        blocks=lambda model, lengths: [[OPEN, *[IMAGE] * n, CLOSE] for n in (22, 14)],
    ),
    "hy_v4_vl": Entry({"text_config": {"qk_rope_head_dim": 8} | _rope(1, 1, 2)}),
    "idefics2": Entry(
        {"vision_config": {"patch_size": 8}},
        lambda model, n: {"pixel_values": pixels(n, 2, 3, 64, 64)},
    ),
    "instructblip": Entry(
        {"image_token_index": IMAGE},
        _squares(64, qformer_input_ids=lambda n: torch.tensor([text(6, 1)] * n)),
    ),
    "internvl": Entry({"vision_config": {"image_size": [64, 64], "patch_size": [8, 8]}}, _tiles(64)),
    "kosmos-2.5": Entry(pixels=no_pictures),
    "kimi_k25": Entry(
        {"text_config": {"head_dim": 8, "num_key_value_heads": 4}},
        lambda model, n: _grids(3)(model, n) | {"pixel_values": pixels(96 if n == 2 else 64, 3, 14, 14)},
    ),
    "lfm2_vl": Entry({}, _siglip2(768)),
    "lighton_ocr": Entry(
        {"vision_config": {"head_dim": 8, "patch_size": 8, "image_size": 96}},
        _squares(64, image_sizes=lambda n: torch.tensor([[64, 64]] * n)),
    ),
    "llama4": Entry(
        {
            "vision_config": {
                "image_size": 64,
                "patch_size": 8,
                "vision_output_dim": 32,
                "projector_input_dim": 32,
                "projector_output_dim": 32,
                "intermediate_size": 128,
            }
        },
        _tiles(64),
    ),
    "minicpm_ocr": Entry(_MINICPM, _minicpm),
    "minicpmv4_6": Entry(_MINICPM, _minicpm),
    "minicpmv4_7": Entry(_MINICPM, _minicpm),
    "mistral4": Entry({"head_dim": 8, "num_key_value_heads": 4}),
    "llava_next_video": Entry(
        {
            "vision_config": {"image_size": 48, "patch_size": 8},
            "image_grid_pinpoints": [[48, 96], [96, 48], [96, 96]],
        },
        lambda model, n: {
            "pixel_values": pixels(n, 3, 3, 48, 48),
            "image_sizes": torch.tensor([[40, 90], [90, 40]])[:n],
        },
    ),
    "mistral_large4": Entry(
        {
            "text_config": {"num_key_value_heads": 4},
            "vision_config": {"head_dim": 8, "patch_size": 8, "image_size": 96},
        },
        _squares(64, image_sizes=lambda n: torch.tensor([[64, 64]] * n)),
    ),
    "molmo2": Entry(
        {
            "vision_config": {
                "image_size": [64, 64],
                "patch_size": 8,
                "head_dim": 8,
                "num_key_value_heads": 4,
            },
            "adapter_config": {"vision_feature_layer": [2, 1], "head_dim": 8, "num_key_value_heads": 4},
            "image_patch_id": IMAGE,
            "text_config": {"additional_vocab_size": 0},
        },
        _molmo,
    ),
    "muse_glimmer": Entry({"out_hidden_size": 128}),
    "muse_spark": Entry({"audio_config": {"num_hidden_layers": 4}, "out_hidden_size": 128}),
    "nemotron_h_omni": Entry(
        {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_config": {"video_temporal_patch_size": 2},
            "text_config": {"n_groups": 2},
        },
        lambda model, n: {
            "pixel_values": pixels(96 if n == 2 else 64, model.config.vision_config.patch_size**2 * 3),
            "image_grid_hw": torch.tensor([[8, 8], [8, 4]])[:n],
        },
    ),
    "paddleocr_vl": Entry(
        _QWEN,
        lambda model, n: {
            "pixel_values": pixels(96 if n == 2 else 64, 3, 14, 14),
            "image_grid_thw": torch.tensor([[1, 8, 8], [1, 8, 4]])[:n],
        },
    ),
    "perception_lm": Entry(
        {"vision_config": StandInConfig(), "vision_use_cls_token": True},
        lambda model, n: {"pixel_values": pixels(n, 2, 3, 64, 64)},
    ),
    "qianfan_ocr": Entry({"vision_config": {"image_size": [64, 64], "patch_size": [8, 8]}}, _tiles(64)),
    "qwen4_exp": Entry(
        {
            "text_config": {
                "indexer_n_heads": 4,
                "indexer_kv_heads": 1,
                "indexer_head_dim": 16,
                "indexer_budget": 8,
                "indexer_compress_ratio": 2,
            }
        }
    ),
    "qwen2_5_omni_thinker": Entry(
        {"text_config": _rope(1, 1, 2)} | {"vision_start_token_id": OPEN, "vision_end_token_id": CLOSE}
    ),
    "qwen3_omni_moe_thinker": Entry(
        _QWEN
        | {
            "vision_start_token_id": OPEN,
            "vision_end_token_id": CLOSE,
            "vision_config": {"deepstack_visual_indexes": [0, 1]},
        }
    ),
    "qwen3_vl": Entry({"vision_config": {"deepstack_visual_indexes": [0, 1]}}),
    "qwen3_vl_moe": Entry({"vision_config": {"deepstack_visual_indexes": [0, 1]}}),
    "step3p7": Entry({"text_config": {"sliding_window": 12, "layer_types": _MIXED}}, _local(64, 64)),
    "t5gemma2": Entry({"encoder": {"mm_tokens_per_image": 16}}),
    "unlimited_ocr": Entry(
        {
            "vision_config": {
                "sam_config": {"downsample_channels": [32, 32], "output_channels": 32, "image_size": 64}
            }
        },
        lambda model, n: _local(64, 64)(model, n) | {"patches_grid": [[2, 1]] * n},
    ),
    "video_llama_3": Entry(
        {},
        lambda model, n: pixels_for(model, n) | {"image_merge_sizes": torch.tensor([2] * n)},
    ),
    "vipllava": Entry(
        {"vision_config": {"image_size": 48, "patch_size": 8}, "vision_feature_layers": [-1, -2]},
        _squares(48),
    ),
}
"""By model type of the mapping; what is not here needs nothing."""

_SETTLED = {
    "llava": "llava",
    "llava_next": "llava-next",
    "llava_onevision": "llava-onevision",
    "qwen2_vl": "qwen2-vl",
    "qwen2_5_vl": "qwen2.5-vl",
    "smolvlm": "smolvlm",
    "idefics3": "idefics3",
    "gemma3": "gemma3",
    "shieldgemma2": "gemma3",
    "mistral3": "mistral3",
    "video_llava": "video-llava",
}
"""Classes that stand among `FAMILIES` with a layout of their own."""


def specimen(model_type: str) -> Family:
    """A class of the mapping as a `Family` with one batch shape."""
    if model_type in _SETTLED:
        return replace(FAMILIES[_SETTLED[model_type]], name=model_type, shapes=("ragged",))
    name = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES[model_type]
    cls: Any = getattr(hf, name)
    entry = ZOO.get(model_type, Entry())
    return Family(
        model_type,
        lambda: tiny_config(cls.config_class(), entry.over),
        cls,
        lambda model, shape: inputs_for(model, entry),
        shapes=("ragged",),
    )
