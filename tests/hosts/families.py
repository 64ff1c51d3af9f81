"""Tiny random models of every family that tokenry promises, and prompts laid out as their processors lay them out.

Weights are drawn from N(0, 0.2): with the usual 0.02 attention is all but uniform, and a wrong mask or position hardly
shows. Nothing ends a generation early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers as hf
from torch import Tensor
from transformers import PreTrainedModel

from tokenry.hosts.upstream import parameters

PAD, BOS = 0, 1
IMAGE, VIDEO, OPEN, CLOSE, BREAK = 110, 111, 112, 113, 114
VOCAB = 128

Piece = int | Sequence[int]
Inputs = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """A model family, small.

    Attributes:
        name: as tests call it.
        config: makes its configuration.
        model: its class.
        batch: makes the inputs of a shape, given a model.
        shapes: "one" (batch 1), "ragged" (two rows, left-padded), "two" (two pictures in a prompt), "video", "mixed"
            (a picture and a video in a prompt).
        has_cls: whether [CLS] attention belongs to the tokens that its language model sees.
        layer: whether tokens can leave at a decoder layer.
        peeks: whether the attention of a layer that has not run yet can be read.
        tokens: for a text model, the columns that may be dropped.
    """

    name: str
    config: Callable[[], Any]
    model: type[Any]
    batch: Callable[[Any, str], Inputs]
    shapes: tuple[str, ...] = ("one", "ragged", "two")
    has_cls: bool = False
    layer: bool = True
    peeks: bool = True
    tokens: slice | None = None

    def build(self, attn: str = "sdpa") -> PreTrainedModel:
        """A model with seeded random weights."""
        model = self.model._from_config(self.config(), attn_implementation=attn).eval()
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
        generation = getattr(model, "generation_config", None)
        for settings in filter(None, (generation, model.config, model.config.get_text_config())):
            settings.eos_token_id, settings.pad_token_id = None, PAD
        return model


def text(n: int, seed: int) -> list[int]:
    """Ordinary tokens."""
    return torch.randint(5, 100, (n,), generator=torch.Generator().manual_seed(seed)).tolist()


def pixels(*shape: int, seed: int = 7) -> Tensor:
    """Pictures of noise."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def prompts(*rows: Sequence[Piece]) -> Inputs:
    """`input_ids` and `attention_mask` of prompts put together from pieces, padded on the left."""
    flat = [[t for piece in row for t in ([piece] if isinstance(piece, int) else piece)] for row in rows]
    width = max(map(len, flat))
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in flat])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in flat])
    return {"input_ids": ids, "attention_mask": mask}


def placed(shape: str, blocks: Sequence[Sequence[int]]) -> Inputs:
    """The prompts of a shape around blocks of placeholders, one block per picture."""
    if shape == "one":
        return prompts([BOS, text(4, 1), blocks[0], text(7, 2)])
    if shape == "ragged":
        return prompts([BOS, text(6, 1), blocks[0], text(9, 2)], [BOS, text(3, 3), blocks[1], text(5, 4)])
    return prompts([BOS, text(3, 1), blocks[0], text(4, 2), blocks[1], text(6, 3)])


def pictures(shape: str) -> int:
    """How many pictures a shape has."""
    return 1 if shape == "one" else 2


# --- configurations ----------------------------------------------------------------------------------------------

_TEXT: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    vocab_size=VOCAB,
    pad_token_id=PAD,
    bos_token_id=BOS,
    eos_token_id=2,
    max_position_embeddings=512,
)
_VIT: dict[str, Any] = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    image_size=48,
    patch_size=8,
)
_TILES = [[48, 96], [96, 48], [96, 96]]


def _llava() -> Any:
    return hf.LlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_VIT), text_config=hf.LlamaConfig(**_TEXT), image_token_id=IMAGE
    )


def _llava_dinov2() -> Any:
    tower = {name: value for name, value in _VIT.items() if name != "intermediate_size"}
    return hf.LlavaConfig(
        vision_config=hf.Dinov2Config(**tower, mlp_ratio=2),
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_id=IMAGE,
        vision_feature_layer=-3,
    )


def _llava_next() -> Any:
    return hf.LlavaNextConfig(
        vision_config=hf.CLIPVisionConfig(**_VIT),
        text_config=hf.MistralConfig(**_TEXT, sliding_window=None),
        image_grid_pinpoints=_TILES,
        image_token_index=IMAGE,
    )


def _llava_onevision() -> Any:
    return hf.LlavaOnevisionConfig(
        vision_config=hf.SiglipVisionConfig(**_VIT),
        text_config=hf.Qwen2Config(**_without("head_dim")),
        image_grid_pinpoints=_TILES,
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )


def _video_llava() -> Any:
    return hf.VideoLlavaConfig(
        vision_config=hf.CLIPVisionConfig(**_VIT),
        text_config=hf.LlamaConfig(**_TEXT),
        image_token_index=IMAGE,
        video_token_index=VIDEO,
    )


def _without(*names: str) -> dict[str, Any]:
    return {k: v for k, v in _TEXT.items() if k not in names}


_MROPE = dict(rope_type="default", rope_theta=10000.0, mrope_section=[1, 1, 2])
_SIGNS = dict(
    image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=OPEN, vision_end_token_id=CLOSE
)


def _qwen2_vl() -> Any:
    return hf.Qwen2VLConfig(
        vision_config=dict(depth=2, embed_dim=32, hidden_size=32, num_heads=4, mlp_ratio=2, patch_size=4),
        text_config=dict(**_without("head_dim"), rope_parameters=_MROPE),
        **_SIGNS,
    )


def _qwen2_5_vl() -> Any:
    return hf.Qwen2_5_VLConfig(
        vision_config=dict(
            depth=2,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=48,
            num_heads=4,
            patch_size=4,
            window_size=16,
            fullatt_block_indexes=[1],
        ),
        text_config=dict(**_without("head_dim"), rope_parameters=_MROPE),
        **_SIGNS,
    )


def _qwen3_vl() -> Any:
    return hf.Qwen3VLConfig(
        vision_config=dict(
            depth=3,
            hidden_size=32,
            out_hidden_size=32,
            intermediate_size=48,
            num_heads=4,
            patch_size=4,
            num_position_embeddings=64,
            deepstack_visual_indexes=[0, 1],
        ),
        text_config=dict(**_TEXT, rope_parameters=_MROPE | {"mrope_interleaved": True}),
        **_SIGNS,
    )


def _smolvlm() -> Any:
    return hf.SmolVLMConfig(
        vision_config=_VIT, text_config=hf.LlamaConfig(**_TEXT), image_token_id=IMAGE, scale_factor=2
    )


def _idefics3() -> Any:
    return hf.Idefics3Config(
        vision_config=_VIT, text_config=hf.LlamaConfig(**_TEXT), image_token_id=IMAGE, scale_factor=2
    )


def _internvl() -> Any:
    return hf.InternVLConfig(
        vision_config=hf.InternVLVisionConfig(**_VIT | dict(image_size=(64, 64), patch_size=(8, 8))),
        text_config=hf.Qwen2Config(**_without("head_dim")),
        image_token_id=IMAGE,
    )


def _paligemma() -> Any:
    return hf.PaliGemmaConfig(
        vision_config=hf.SiglipVisionConfig(**_VIT),
        text_config=hf.GemmaConfig(**_TEXT),
        image_token_index=IMAGE,
        vocab_size=VOCAB,
        projection_dim=32,
        hidden_size=32,
    )


_LAYERS = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]


def _gemma3() -> Any:
    return hf.Gemma3Config(
        vision_config=hf.SiglipVisionConfig(**_VIT | dict(image_size=64)),
        text_config=hf.Gemma3TextConfig(
            **_TEXT, layer_types=_LAYERS, sliding_window=12, query_pre_attn_scalar=8
        ),
        mm_tokens_per_image=16,
        boi_token_index=OPEN,
        eoi_token_index=CLOSE,
        image_token_index=IMAGE,
    )


def _mistral3() -> Any:
    return hf.Mistral3Config(
        vision_config=hf.PixtralVisionConfig(**_VIT | dict(image_size=96, head_dim=8)),
        text_config=hf.MistralConfig(**_TEXT, sliding_window=14),
        image_token_index=IMAGE,
    )


# --- prompts -----------------------------------------------------------------------------------------------------


def _square_batch(tokens: int, size: int = 48) -> Callable[[Any, str], Inputs]:
    """Pictures of one size, a fixed number of tokens each."""

    def batch(model: Any, shape: str) -> Inputs:
        n = pictures(shape)
        return placed(shape, [[IMAGE] * tokens] * n) | {"pixel_values": pixels(n, 3, size, size)}

    return batch


def _tiled_batch(model: Any, shape: str) -> Inputs:
    """AnyRes: a thumbnail and tiles, padding cut off, a newline token after every row. Two sizes of picture."""
    if shape == "video":
        n, frames = 2, 3
        tokens = frames * 9 + 1
        inputs = placed("ragged", [[VIDEO] * tokens] * n)
        return inputs | {"pixel_values_videos": pixels(n, frames, 3, 48, 48)}
    sizes = torch.tensor([[40, 90], [70, 60]])[: pictures(shape)]
    values = pixels(len(sizes), 5, 3, 48, 48)
    values[0, 3:] = 0  # 48 x 96 takes two tiles and the thumbnail, 96 x 96 four
    with torch.no_grad():
        lengths = [len(f) for f in model.model.get_image_features(values, sizes).pooler_output]
    return placed(shape, [[IMAGE] * n for n in lengths]) | {"pixel_values": values, "image_sizes": sizes}


def _video_llava_batch(model: Any, shape: str) -> Inputs:
    if shape == "video":
        inputs = placed("ragged", [[VIDEO] * (3 * 37)] * 2)
        return inputs | {"pixel_values_videos": pixels(2, 3, 3, 48, 48)}
    if shape == "mixed":
        inputs = placed("two", [[IMAGE] * 36, [VIDEO] * (2 * 37)])
        found = inputs | {
            "pixel_values": pixels(1, 3, 48, 48),
            "pixel_values_videos": pixels(1, 2, 3, 48, 48),
        }
    else:
        found = _square_batch(36)(model, shape)
    given = "pixel_values" if "pixel_values" in parameters(model) else "pixel_values_images"  # up to 5.20
    return {given if name == "pixel_values" else name: value for name, value in found.items()}


_GRIDS = {"image": torch.tensor([[1, 6, 8], [1, 8, 4]]), "video": torch.tensor([[3, 4, 6], [2, 6, 4]])}


def _qwen_batch(stamps: bool) -> Callable[[Any, str], Inputs]:
    """Packed patches with a (t, h, w) grid per picture, merged 2 x 2; videos with time stamps between frames."""

    def block(kind: str, grid: Tensor) -> list[int]:
        t, h, w = grid.tolist()
        sign = IMAGE if kind == "image" else VIDEO
        if kind == "video" and stamps:
            return [x for i in range(t) for x in [*text(2, 20 + i), OPEN, *[sign] * (h * w // 4), CLOSE]]
        return [OPEN, *[sign] * (t * h * w // 4), CLOSE]

    def batch(model: Any, shape: str) -> Inputs:
        kinds = {"video": ["video"] * 2, "mixed": ["image", "video"]}.get(shape, ["image"] * pictures(shape))
        used = {kind: _GRIDS[kind][: kinds.count(kind)] for kind in dict.fromkeys(kinds)}
        left = {kind: list(grids) for kind, grids in used.items()}
        blocks = [block(kind, left[kind].pop(0)) for kind in kinds]
        inputs = placed({"video": "ragged", "mixed": "two"}.get(shape, shape), blocks)
        ids = inputs["input_ids"]
        inputs["mm_token_type_ids"] = (ids == IMAGE).int() + 2 * (ids == VIDEO).int()
        for kind, grids in used.items():
            name = "pixel_values" if kind == "image" else "pixel_values_videos"
            inputs[name] = pixels(int(grids.prod(1).sum()), 3 * 2 * 4 * 4)
            inputs[f"{kind}_grid_thw"] = grids
        return inputs

    return batch


def _idefics_batch(model: Any, shape: str) -> Inputs:
    """Pictures cut into tiles, with marks between; rows with fewer tiles are padded with black ones."""
    tiles = {"one": [3], "ragged": [3, 2], "two": [2]}[shape]
    rows = []
    for i, n in enumerate(tiles):
        block = [x for _ in range(n) for x in [BREAK, OPEN, *[IMAGE] * 9, CLOSE]]
        rows.append([BOS, text(3 + 2 * i, i), block, text(7 - 2 * i, 5 + i)])
    values = pixels(len(tiles), max(tiles), 3, 48, 48)
    mask = torch.ones(len(tiles), max(tiles), 48, 48, dtype=torch.long)
    for i, n in enumerate(tiles):
        values[i, n:], mask[i, n:] = 0, 0
    return prompts(*rows) | {"pixel_values": values, "pixel_attention_mask": mask}


def _paligemma_batch(model: Any, shape: str) -> Inputs:
    """Pictures first, then the prefix, which is attended to in both directions."""
    block = [IMAGE] * 36
    rows = {
        "one": [[block, BOS, text(8, 1)]],
        "ragged": [[block, BOS, text(9, 1)], [block, BOS, text(5, 2)]],
        "two": [[block, block, BOS, text(8, 1)]],
    }[shape]
    inputs = prompts(*rows)
    types = torch.zeros_like(inputs["input_ids"])
    return inputs | {"token_type_ids": types, "pixel_values": pixels(pictures(shape), 3, 48, 48)}


def _gemma3_batch(model: Any, shape: str) -> Inputs:
    inputs = placed(shape, [[OPEN, *[IMAGE] * 16, CLOSE]] * pictures(shape))
    types = (inputs["input_ids"] == IMAGE).long()
    return inputs | {"token_type_ids": types, "pixel_values": pixels(pictures(shape), 3, 64, 64)}


def _mistral3_batch(model: Any, shape: str) -> Inputs:
    """Pictures of their own size, a break token after every row of tokens."""
    sizes = torch.tensor([[64, 96], [96, 48]])[: pictures(shape)]
    blocks = []
    for h, w in (sizes // 16).tolist():
        block = [x for _ in range(h) for x in [*[IMAGE] * w, BREAK]]
        blocks.append([*block[:-1], CLOSE])
    values = pixels(len(sizes), 3, int(sizes[:, 0].max()), int(sizes[:, 1].max()))
    return placed(shape, blocks) | {"pixel_values": values, "image_sizes": sizes}


def _text_batch(model: Any, shape: str) -> Inputs:
    if shape == "one":
        return prompts([BOS, text(35, 1)])
    return prompts([BOS, text(35, 1)], [BOS, text(30, 2)])


def _hybrid() -> Any:
    types = ["linear_attention", "full_attention", "linear_attention", "full_attention"]
    linear = dict(
        linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=8
    )
    return hf.Qwen3_5TextConfig(**_TEXT, **linear, layer_types=types)


def _opt() -> Any:
    return hf.OPTConfig(
        hidden_size=32,
        word_embed_proj_dim=32,
        ffn_dim=48,
        num_hidden_layers=4,
        num_attention_heads=4,
        vocab_size=VOCAB,
        pad_token_id=PAD,
    )


def _gpt_neox() -> Any:
    return hf.GPTNeoXConfig(**_without("head_dim", "num_key_value_heads"))


def _text_family(name: str, config: Callable[[], Any], model: type[Any], **options: Any) -> Family:
    return Family(name, config, model, _text_batch, shapes=("one", "ragged"), tokens=slice(8, 28), **options)


FAMILIES: dict[str, Family] = {
    f.name: f
    for f in (
        Family("llava", _llava, hf.LlavaForConditionalGeneration, _square_batch(36), has_cls=True),
        # A tower of other names, whose features leave before its last blocks; larger pictures resize its positions.
        Family(
            "llava-dinov2",
            _llava_dinov2,
            hf.LlavaForConditionalGeneration,
            _square_batch(64, 64),
            has_cls=True,
        ),
        Family("llava-next", _llava_next, hf.LlavaNextForConditionalGeneration, _tiled_batch, has_cls=True),
        Family(
            "llava-onevision",
            _llava_onevision,
            hf.LlavaOnevisionForConditionalGeneration,
            _tiled_batch,
            shapes=("one", "ragged", "two", "video"),
        ),
        Family(
            "video-llava",
            _video_llava,
            hf.VideoLlavaForConditionalGeneration,
            _video_llava_batch,
            shapes=("one", "ragged", "two", "video", "mixed"),
            has_cls=True,
        ),
        Family(
            "qwen2-vl",
            _qwen2_vl,
            hf.Qwen2VLForConditionalGeneration,
            _qwen_batch(stamps=False),
            shapes=("one", "ragged", "two", "video", "mixed"),
        ),
        Family(
            "qwen2.5-vl",
            _qwen2_5_vl,
            hf.Qwen2_5_VLForConditionalGeneration,
            _qwen_batch(stamps=False),
            shapes=("one", "ragged", "two", "video", "mixed"),
        ),
        Family(
            "qwen3-vl",
            _qwen3_vl,
            hf.Qwen3VLForConditionalGeneration,
            _qwen_batch(stamps=True),
            shapes=("one", "ragged", "two", "video", "mixed"),
        ),
        Family("smolvlm", _smolvlm, hf.SmolVLMForConditionalGeneration, _idefics_batch),
        Family("idefics3", _idefics3, hf.Idefics3ForConditionalGeneration, _idefics_batch),
        Family("internvl", _internvl, hf.InternVLForConditionalGeneration, _square_batch(16, 64)),
        Family("paligemma", _paligemma, hf.PaliGemmaForConditionalGeneration, _paligemma_batch),
        Family("gemma3", _gemma3, hf.Gemma3ForConditionalGeneration, _gemma3_batch),
        Family("mistral3", _mistral3, hf.Mistral3ForConditionalGeneration, _mistral3_batch),
        _text_family("llama", lambda: hf.LlamaConfig(**_TEXT), hf.LlamaForCausalLM),
        _text_family("qwen2", lambda: hf.Qwen2Config(**_without("head_dim")), hf.Qwen2ForCausalLM),
        _text_family("qwen3", lambda: hf.Qwen3Config(**_TEXT), hf.Qwen3ForCausalLM),
        _text_family(
            "gemma2",
            lambda: hf.Gemma2Config(**_TEXT, layer_types=_LAYERS, sliding_window=12),
            hf.Gemma2ForCausalLM,
        ),
        _text_family(
            "gemma3-text",
            lambda: hf.Gemma3TextConfig(**_TEXT, layer_types=_LAYERS, sliding_window=12),
            hf.Gemma3ForCausalLM,
        ),
        _text_family("mistral", lambda: hf.MistralConfig(**_TEXT, sliding_window=12), hf.MistralForCausalLM),
        _text_family(
            "olmo2", lambda: hf.Olmo2Config(**_without("head_dim")), hf.Olmo2ForCausalLM, peeks=False
        ),
        _text_family("opt", _opt, hf.OPTForCausalLM, peeks=False),  # its head goes past its base model
        _text_family("gpt-neox", _gpt_neox, hf.GPTNeoXForCausalLM, peeks=False),  # passes ids by position
        _text_family("qwen3.5", _hybrid, hf.Qwen3_5ForCausalLM, layer=False),
    )
}
