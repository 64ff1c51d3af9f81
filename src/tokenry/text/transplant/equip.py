"""What a model expects of its tokenizer besides rows: control tokens, a chat template, how a text is framed."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from tokenizers import processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tokenry.text.training import as_fast, special
from tokenry.text.transplant.plan import ROLES, role_ids, special_names
from tokenry.text.vocabulary import ByteVocab


def equip(
    tokenizer: PreTrainedTokenizerBase, source: ByteVocab, model: PreTrainedModel
) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """Make a copy of a new tokenizer that fits a model.

    It gets the source's longest input, padding side and names of inputs (a Llama takes no token types); its chat
    template; the control tokens that the template or the configuration names; for a model
    that reads both ways, the source's classification, separation and mask tokens where it has none of its own; a
    padding token, if it has none where the source has one; and it frames a text as the source does (a language model's
    prompt must not end in [SEP] because the new vocabulary is WordPiece).

    Args:
        tokenizer: the new tokenizer.
        source: the old vocabulary.
        model: the model.

    Returns:
        The tokenizer, and the names of the tokens that were added.
    """
    tokenizer = copy.deepcopy(tokenizer)
    for name in ("model_max_length", "padding_side", "model_input_names"):
        setattr(tokenizer, name, getattr(source.tokenizer, name))
    names, before = special_names(source), set(tokenizer.get_vocab())
    wanted = set(control_ids(model, source).values())
    template = source.tokenizer.chat_template
    if template is not None:
        text = template if isinstance(template, str) else json.dumps(template, ensure_ascii=False)
        wanted |= {token for name, token in names.items() if name in text}
        # What a template calls eos_token is, in its model, the old one: the model ends its turns with it.
        wanted |= {token for role, token in role_ids(source).items() if f"{role}_token" in text}
        tokenizer.chat_template = _spelled_out(template, source, tokenizer)
    if not model.can_generate():
        lacking = [r for r in ("cls", "sep", "mask") if getattr(tokenizer, f"{r}_token_id", None) is None]
        roles = {r: str(getattr(source.tokenizer, f"{r}_token")) for r in lacking if r in role_ids(source)}
        wanted |= {names[name] for name in roles.values()}
        tokenizer.add_special_tokens({f"{role}_token": name for role, name in roles.items()})
    _pad(tokenizer, source)
    vocabulary = tokenizer.get_vocab()
    missing = [name for name, token in names.items() if token in wanted and name not in vocabulary]
    if missing:
        tokenizer.add_tokens([special(name) for name in missing], special_tokens=True)
    added = [name for name in names if name in tokenizer.get_vocab() and name not in before]
    return _framed(tokenizer, source), added


def _pad(tokenizer: PreTrainedTokenizerBase, source: ByteVocab) -> None:
    """Let a tokenizer pad batches as the source does: with the end of a text where that is its padding token, too."""
    roles = role_ids(source)
    if "pad" not in roles or tokenizer.pad_token_id is not None:
        return
    also = [role for role in ROLES if role != "pad" and roles.get(role) == roles["pad"]]
    own = (getattr(tokenizer, f"{role}_token", None) for role in also)
    # A padding token of its own stays one: to train with the end of a text as padding is to unlearn the end.
    name = next((name for name in own if name is not None), str(source.tokenizer.pad_token))
    tokenizer.add_special_tokens({"pad_token": name})


def _framed(tokenizer: PreTrainedTokenizerBase, source: ByteVocab) -> PreTrainedTokenizerBase:
    """Let a tokenizer put around a text what the source puts there: its own tokens of the same name or role."""
    names = {token: name for name, token in special_names(source).items()}
    by_role = {token: role for role, token in reversed(role_ids(source).items())}
    vocabulary = tokenizer.get_vocab()

    def own(token: int) -> str | None:
        if names.get(token) in vocabulary:
            return names[token]
        found = getattr(tokenizer, f"{by_role.get(token)}_token", None)
        return None if found is None else str(found)

    before, after = ([n for n in map(own, part) if n is not None] for part in _framing(source.tokenizer))
    mine = [[str(tokenizer.convert_ids_to_tokens(t)) for t in part] for part in _framing(tokenizer)]
    if mine == [before, after]:
        return tokenizer
    single = " ".join([*before, "$A", *after])
    used = sorted({*before, *after})
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=single,
        pair=" ".join([single, "$B:1", *(f"{name}:1" for name in after)]),
        special_tokens=[(name, vocabulary[name]) for name in used],
    )
    # Classes such as BertTokenizer build their own framing anew when they are loaded; the general class keeps this one.
    return as_fast(
        tokenizer.backend_tokenizer,
        **{f"{role}_token": getattr(tokenizer, f"{role}_token", None) for role in ROLES},
        chat_template=tokenizer.chat_template,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        model_input_names=tokenizer.model_input_names,
    )


def _framing(tokenizer: PreTrainedTokenizerBase) -> tuple[Sequence[int], Sequence[int]]:
    """Ids of the special tokens that a tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    framed = tokenizer("a")["input_ids"]
    at = next((i for i in range(len(framed)) if framed[i : i + len(bare)] == bare), 0)
    return framed[:at], framed[at + len(bare) :]


def _spelled_out(template: Any, source: ByteVocab, target: PreTrainedTokenizerBase) -> Any:
    """A chat template that sets the variables which the target would fill with its own special tokens."""
    if not isinstance(template, str):
        return {name: _spelled_out(one, source, target) for name, one in dict(template).items()}
    names = {role: getattr(source.tokenizer, f"{role}_token", None) for role in ROLES}
    return (
        "".join(
            f"{{%- set {role}_token = {json.dumps(str(name))} -%}}"
            for role, name in names.items()
            if name is not None
            and f"{role}_token" in template
            and name != getattr(target, f"{role}_token", None)
        )
        + template
    )


def control_ids(model: PreTrainedModel, source: ByteVocab) -> dict[str, int]:
    """Ids of control tokens that the configuration names besides the usual roles, such as a picture's placeholder."""
    usual = {f"{role}_token_id" for role in ROLES} | {"decoder_start_token_id"}
    return {
        key: value
        for key, value in vars(model.config).items()
        if key.endswith(("_token_id", "_token_index"))
        and key not in usual
        and isinstance(value, int)
        and value in source.special_ids
    }
