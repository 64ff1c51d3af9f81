"""What decoding with drafts asks of a model, and of the options that `generate` is called with."""

from __future__ import annotations

from typing import Any, Final

from torch import nn
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from tokenry.hosts.treepass import require_trees, try_tree
from tokenry.hosts.upstream import (
    SynthIDTextWatermarkLogitsProcessor,
    UnbatchedClassifierFreeGuidanceLogitsProcessor,
    require_generation,
    special_search,
)
from tokenry.tokens.errors import InputError, UnsupportedError

_STATEFUL: Final = (UnbatchedClassifierFreeGuidanceLogitsProcessor, SynthIDTextWatermarkLogitsProcessor)
"""Logits processors that remember their calls, and take each for one more token of the text."""

_NOT_KEPT: Final = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")


def require_drafts(model: nn.Module) -> None:
    """Refuse a model that cannot judge the guesses of a draft tree in one pass, by what it lacks for it.

    Raises:
        InputError: no model that writes text.
        UnsupportedError: as `require_trees`; a release of transformers whose `generate` is not known.
    """
    if not isinstance(model, PreTrainedModel):
        raise InputError(f"Expected a transformers model, got {type(model).__name__}.")
    if not model.can_generate():
        raise InputError(
            f"{type(model).__name__} writes no text. Load the model with its language-model head: "
            "AutoModelForCausalLM, or AutoModelForImageTextToText."
        )
    require_trees(model)
    require_generation(model)


def try_drafts(model: Any) -> None:
    """Refuse a model that cannot judge drafts, also for a reason that shows in a pass only: it makes a small one.

    Raises:
        InputError, UnsupportedError: as `require_drafts` and `try_tree`.
    """
    require_drafts(model)
    try_tree(model)


def require_options(
    config: GenerationConfig, processors: LogitsProcessorList, columns: int, streams: int
) -> None:
    """Refuse what the options of `generate` ask for and guesses would change.

    Args:
        config: the options.
        processors: of the logits.
        columns: of the prompt.
        streams: texts for which a streamer was handed in; 0 without one.

    Raises:
        InputError, UnsupportedError: by the option, and what to do.
    """
    if config.num_beams > 1:
        raise UnsupportedError(
            f"Draft trees decode one text a row; num_beams={config.num_beams} does not fit."
        )
    search = special_search(config)
    if search is not None:
        raise UnsupportedError(
            f"These options ask for {search}, a way of decoding of its own; draft trees stand for greedy search "
            "and sampling. Leave them off, or the decoder."
        )
    asked = [name for name in _NOT_KEPT if getattr(config, name)]
    if asked and config.return_dict_in_generate:
        raise UnsupportedError(f"{asked[0]} is not kept while guesses are judged; leave it off.")
    stateful = next((type(each).__name__ for each in processors if isinstance(each, _STATEFUL)), None)
    if stateful is not None:
        raise UnsupportedError(
            f"{stateful} counts its calls as tokens of the text, but guesses are processed too; leave "
            "guidance_scale (or the watermark) off, or decode without drafts."
        )
    if not config.use_cache:
        raise UnsupportedError("Draft trees are judged against the cached text; leave use_cache on.")
    if not columns:
        raise InputError("The prompt is empty: give at least one token, such as the model's start token.")
    if streams > 1:
        raise InputError("A streamer shows one text; hand in one prompt, or leave the streamer off.")
