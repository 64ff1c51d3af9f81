"""Faster decoding by name: what `tokenry.generate` and `tokenry.decoder` do."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedModel, StoppingCriteriaList, StopStringCriteria

from tokenry.hosts.upstream import GenerateDecoderOnlyOutput, attention_kernel
from tokenry.hosts.wrappers import device_of, unwrap
from tokenry.predict.lm.calibrate import Calibration, calibrate
from tokenry.predict.lm.merged import Merged
from tokenry.predict.lm.proposer import Guesser, Proposer, SizedProposer, WarmProposer
from tokenry.predict.lm.registry import DECODERS
from tokenry.predict.lm.requirements import require_drafts, try_drafts
from tokenry.predict.lm.sizing import Expected, Sizing
from tokenry.predict.lm.speculate import Speculation
from tokenry.tokens.errors import InputError, UnsupportedError
from tokenry.tokens.ids import IdsLike, id_rows

_COMBINED: Final = "+"
"""Between names of decoders: their guesses in one tree."""

_Kept = tuple[Mapping[int, float], Speculation]

# What is kept of a model holds for the model as it was: keys name all that it depends on, and may change.
_CALIBRATED: WeakKeyDictionary[PreTrainedModel, dict[tuple[Any, ...], Calibration]] = WeakKeyDictionary()
_IN_USE: WeakKeyDictionary[PreTrainedModel, dict[tuple[str, int], _Kept]] = WeakKeyDictionary()


def decoder_names() -> tuple[str, ...]:
    """The decoders that have a name: tokenry's own, and those of installed packages."""
    return DECODERS.names()


def require_decoder(name: str) -> None:
    """Refuse a name that stands for no decoder, without making one.

    Raises:
        UnknownNameError: naming those that there are.
    """
    for each in (name,) if name in decoder_names() else name.split(_COMBINED):
        DECODERS.get(each)


def decoder(
    model: nn.Module,
    how: str | Proposer | None = None,
    *,
    calibration: Calibration | Mapping[int, float] | None = None,
    sizing: Sizing | None = None,
    warm_up: bool | str | Path = False,
) -> Speculation:
    """A faster way for a model to decode: ``model.generate(**inputs, custom_generate=tk.decoder(model))``.

    The text is that of ordinary decoding: greedy token for token (up to near-ties, since a pass over several rows
    rounds otherwise than one over a single row), sampled in distribution. What a decoder learns from one text it keeps
    for the next, so hold on to it.

    Args:
        model: a causal language model, or a vision-language model; also one of peft or `torch.compile`.
        how: the name of a decoder (`tokenry.predict.decoder_names`), two of them joined by "+" for the guesses of both
            in one tree, or a proposer (`tokenry.predict.Proposer`); by default the fastest that needs no training.
        calibration: forward times on this machine, from `tokenry.predict.lm.calibrate`; measured once for a model, in
            a few seconds, if not given.
        sizing: decides how many guesses a pass judges; by default as many as the calibration says repay their time.
        warm_up: for decoders that learn from texts: ask the model beforehand for what they learn otherwise, such as
            what it expects after each token of its vocabulary (a minute for SmolLM2 on one CPU core). With a folder,
            what was found is read from there, or found and kept there.

    Returns:
        A `Speculation`; its `stats` tell what the last call took.

    Raises:
        UnknownNameError: no decoder has that name.
        UnsupportedError: the model cannot judge the guesses of a tree; the message says what it lacks.
        InputError: a model that writes no text; a warm start of a decoder that has none, or from what was found with
            another model; decoders in one tree whose guesses cannot be merged.
    """
    plain: PreTrainedModel = unwrap(model, bare=False)
    try_drafts(plain)
    proposer = _named(plain, how) if how is None or isinstance(how, str) else how
    if not isinstance(proposer, Proposer):
        raise InputError(
            f"A decoder is a name ({', '.join(decoder_names())}) or a proposer, which has begin, propose and learn; "
            f"got {proposer!r}."
        )
    if warm_up is not False:
        _warm_up(plain, proposer, None if warm_up is True else Path(warm_up))
    if sizing is None:
        latency = _latency(plain, calibration)
        sizing = proposer.sizing(latency) if isinstance(proposer, SizedProposer) else Expected(latency)
    return Speculation(proposer, sizing)


def generate(
    model: nn.Module,
    inputs: Mapping[str, Any] | IdsLike,
    *,
    decoder: str | Proposer | Speculation | None = None,
    calibration: Calibration | Mapping[int, float] | None = None,
    tokenizer: Any = None,
    streamer: Any = None,
    **options: Any,
) -> Int[Tensor, "b t"] | GenerateDecoderOnlyOutput:
    """`model.generate`, in fewer passes: ``tk.generate(model, inputs, max_new_tokens=128)``.

    Decoders given by name are kept with the model, and go on with what they have learned.

    Args:
        model: a causal language model, or a vision-language model; also one of peft or `torch.compile`, and inside
            ``with tk.reduced(model, ...)``.
        inputs: what the tokenizer or processor made, or ids without padding; ids of one text may do without a batch
            axis. `inputs_embeds` stand for tokens as in `model.generate`.
        decoder: see `tokenry.decoder`; also what that returned.
        calibration: see `tokenry.decoder`.
        tokenizer: for the option `stop_strings`.
        streamer: shows tokens as they are written, as in transformers; for one text.
        **options: of `model.generate`: max_new_tokens, do_sample, temperature, logits_processor, stopping_criteria ...

    Returns:
        As `model.generate`: ids, prompt included, padded behind the end of shorter texts.

    Raises:
        InputError: inputs that are no ids, `stop_strings` without a tokenizer, or an option that decoding with drafts
            replaces.
        UnsupportedError: what the model or an option asks for cannot be had with drafts; the message says why.
    """
    if "custom_generate" in options:
        raise InputError(
            "`custom_generate` is what this function sets; call model.generate(...) with it yourself."
        )
    if _setting("token_healing", options):
        raise UnsupportedError(
            "Transformers hands no tokenizer to a decoding loop that it is given, which `token_healing` needs. "
            "tokenry.text.byte_model goes on from a prompt that ends inside a token."
        )
    if options.get("assistant_model") is not None:
        raise InputError(
            "Here a decoder makes the guesses, and `assistant_model` would be ignored; to draft with another model "
            "call model.generate(..., assistant_model=...)."
        )
    plain: PreTrainedModel = unwrap(model, bare=False)
    require_drafts(plain)
    given = _batched(inputs, device_of(plain))
    if isinstance(decoder, Speculation) and calibration is not None:
        raise InputError("This decoder has its sizes already; give `calibration` to tokenry.decoder.")
    speculation = decoder if isinstance(decoder, Speculation) else _kept(plain, decoder, calibration)
    return cast(Any, model).generate(  # with what peft does around it
        **given | _with_stop_strings(tokenizer, options),
        custom_generate=speculation,
        stream_to=streamer,
    )


def _batched(inputs: Any, device: torch.device) -> dict[str, Any]:
    """Inputs with a batch axis: what belongs to the tokens of a single text gets one, lists become tensors."""
    if not isinstance(inputs, Mapping):
        ids = id_rows(inputs, device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    found = dict(inputs)
    if found.get("input_ids") is None:
        return found
    ids = found["input_ids"] = id_rows(found["input_ids"], device)
    for name, value in found.items():
        if isinstance(value, list | tuple | np.ndarray) and np.ndim(value) in (1, 2):
            found[name] = value = torch.as_tensor(np.asarray(value), device=device)
        if isinstance(value, Tensor) and value.shape == ids.shape[1:] and len(ids) == 1:
            found[name] = value[None]
    return found


def _kept(
    model: PreTrainedModel, how: str | Proposer | None, calibration: Calibration | Mapping[int, float] | None
) -> Speculation:
    """The decoder of that name which this model has used before, if any, sized for the machine as it is now."""
    how = DECODERS.default if how is None else how
    if not isinstance(how, str):
        return decoder(model, how, calibration=calibration)
    known = _IN_USE.setdefault(model, {})
    # What was learned of ids goes with the vocabulary.
    key = how, int(model.config.get_text_config().vocab_size)
    before = known.get(key)
    proposer = _named(model, how) if before is None else before[1].proposer
    latency = _latency(model, calibration)
    if before is None or before[0] != latency:  # other sizes are worth their time; what was learned holds
        known[key] = latency, decoder(model, proposer, calibration=latency)
    return known[key][1]


def _named(model: PreTrainedModel, name: str | None) -> Proposer:
    """The proposer of a name, or of several that are joined."""
    name = DECODERS.default if name is None else name
    if name in decoder_names() or _COMBINED not in name:
        return DECODERS.get(name).for_model(model)
    parts = [(each, DECODERS.get(each).for_model(model)) for each in name.split(_COMBINED)]
    guessers = [part for _, part in parts if isinstance(part, Guesser)]
    if len(guessers) < len(parts):
        alone = next(each for each, part in parts if not isinstance(part, Guesser))
        raise InputError(f"The guesses of {alone!r} cannot be merged with others; use it alone.")
    return Merged(guessers)


def _warm_up(model: PreTrainedModel, proposer: Proposer, folder: Path | None) -> None:
    parts = proposer.guessers if isinstance(proposer, Merged) else (proposer,)
    warm = [part for part in parts if isinstance(part, WarmProposer)]
    if not warm:
        raise InputError(f"{type(proposer).__name__} has no warm start; leave warm_up off.")
    for part in warm:
        part.warm_up(model, folder)


def _latency(
    model: PreTrainedModel, calibration: Calibration | Mapping[int, float] | None
) -> Mapping[int, float]:
    """As given, or measured once for a model as it is now: anew where a pass has become another one."""
    if calibration is not None:
        return calibration.latency if isinstance(calibration, Calibration) else calibration
    weights = [*model.parameters()]
    key = (
        frozenset((weight.dtype, weight.device) for weight in weights),
        sum(weight.numel() for weight in weights),  # changes with layers, tokens and adapters
        attention_kernel(model.config.get_text_config()),
        torch.get_num_threads(),
    )
    known = _CALIBRATED.setdefault(model, {})
    if key not in known:
        known[key] = calibrate(model)
    return known[key].latency


def _setting(name: str, options: Mapping[str, Any]) -> Any:
    """An option of `generate`, from the call or from the configuration that it hands in."""
    return options.get(name, getattr(options.get("generation_config"), name, None))


def _with_stop_strings(tokenizer: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Options in which stop strings have become a stopping criterion.

    transformers does not hand the tokenizer on to a decoding loop that it is given (5.20 to 5.24).
    """
    config = options.get("generation_config")
    strings = _setting("stop_strings", options)
    if strings is None:
        return options
    if tokenizer is None:
        raise InputError(
            f"To stop at {strings!r}, hand in the tokenizer too: generate(..., tokenizer=tokenizer)."
        )
    options = {name: value for name, value in options.items() if name != "stop_strings"}
    if config is not None:
        options["generation_config"] = copy.copy(config)
        options["generation_config"].stop_strings = None
    criterion: Any = StopStringCriteria(tokenizer, strings)
    options["stopping_criteria"] = StoppingCriteriaList([*options.get("stopping_criteria", ()), criterion])
    return options
