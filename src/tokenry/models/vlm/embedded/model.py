"""The embedded vision-language model: small, real, and shipped with the package.

It is the transformers class ``LlavaForConditionalGeneration``: a CLIP vision tower with a [CLS] token (96 x 96 pixels,
patch 8: 144 visual tokens), the two-layer projector of LLaVA, and a Llama language model with grouped-query attention
and a tokenizer of its own. It answers questions about the composed pictures of :mod:`tokenry.data.scenes.scenes`.

The shipped folder (`tokenry.models.pretrained.embedded_folder`) is an ordinary checkpoint, and is loaded by name::

    model, processor = tk.load("embedded")

``recipes/embedded_vlm.yaml`` trains the next version; how the shipped one was trained stands in its ``training.json``.
"""

import string
from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from tokenry.data.scenes.scenes import DIRECTIONS, PLACES, reserved_words
from tokenry.data.scenes.style import SMALL
from tokenry.hosts.upstream import CLIPImageProcessorPil
from tokenry.tokens.moved import former_names

__getattr__ = former_names(__name__)

PROMPT = "<image>\n{question}"
PATCH = 8
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded model."""
    return word_tokenizer([], {"image_token": "<image>"})


def word_tokenizer(more: Sequence[str], pictures: Mapping[str, str]) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, places ("top left") and directions as one token each, other words by letters.

    Args:
        more: words beside those of questions about scenes.
        pictures: name -> token of what stands for something seen.
    """
    phrases = [text for text in (*PLACES, *DIRECTIONS) if " " in text]
    words = (
        sorted(reserved_words()) + [text.replace(" ", "-") for text in phrases] + list("123?") + list(more)
    )
    pieces = list(string.ascii_lowercase) + ["##" + letter for letter in string.ascii_lowercase]
    special = [*_SPECIAL, *pictures.values()]
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*special, *words, *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="<unk>", max_input_chars_per_word=32))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"\s+"), " "),
            # longest first: "to the left of" must not lose its "left"; whole words: "laptop left" is no "top left"
            *(
                normalizers.Replace(Regex(rf"\b{text}\b"), text.replace(" ", "-"))
                for text in sorted(phrases, key=len, reverse=True)
            ),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("?", "isolated")]
    )
    tokenizer.decoder = decoders.Sequence([decoders.WordPiece(cleanup=False), decoders.Replace("-", " ")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", vocabulary["<bos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens=dict(pictures),
        padding_side="left",  # the model generates
        model_input_names=["input_ids", "attention_mask"],
    )


def build_processor() -> LlavaProcessor:
    """The processor: CLIP's PIL image processor (no torchvision needed) and the tokenizer."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SMALL.side}, crop_size={"height": SMALL.side, "width": SMALL.side}
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def build_config(
    processor: LlavaProcessor,
    *,
    tower_width: int = 192,
    tower_layers: int = 7,
    tower_heads: int = 3,
    width: int = 192,
    layers: int = 8,
    heads: int = 6,
    kv_heads: int = 2,
    feed_forward: int = 512,
) -> LlavaConfig:
    """The configuration of the embedded model; the sizes can be changed, the shape of the thing cannot."""
    tokenizer = processor.tokenizer
    return LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=tower_width,
            intermediate_size=4 * tower_width,
            num_hidden_layers=tower_layers,
            num_attention_heads=tower_heads,
            projection_dim=tower_width,
            image_size=SMALL.side,
            patch_size=PATCH,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=feed_forward,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=2048,
            initializer_range=0.04,  # the usual 0.02, scaled from a width of 768 to one of 192
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(SMALL.side // PATCH) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
