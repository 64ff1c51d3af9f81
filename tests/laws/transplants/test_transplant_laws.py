"""What every transplanting method keeps, over all pairs of vocabulary kinds, on real model classes."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from tests.text.transplant import tiny
from tokenry.text.transplant import Transplant, TransplantPlan, transplant, transplant_method, transplants
from tokenry.text.transplant.plan import role_ids
from tokenry.text.vocabulary import ByteVocab

NEEDS_TRAINING = {"zett"}  # its network belongs to one model: tests/text/test_zett_transfer.py
METHODS = [
    transplant_method(name, min_count=1) if name in ("focus", "wechsel") else transplant_method(name)
    for name in transplants()
    if name not in NEEDS_TRAINING
]
PAIRS = list(itertools.permutations(tiny.kinds(), 2))

every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.slug)
every_pair = pytest.mark.parametrize(("old", "new"), PAIRS, ids=["-to-".join(pair) for pair in PAIRS])


def plan_of(old: str, new: str) -> TransplantPlan:
    kinds = tiny.kinds()
    return TransplantPlan.between(ByteVocab.from_tokenizer(kinds[old]), ByteVocab.from_tokenizer(kinds[new]))


def rows_of(plan: TransplantPlan, seed: int = 1) -> torch.Tensor:
    return torch.randn(plan.source.size + 3, 16, generator=torch.Generator().manual_seed(seed))


@every_pair
def test_plans_part_the_ids_and_are_symmetric(old: str, new: str) -> None:
    plan, back = plan_of(old, new), plan_of(new, old)
    everything = [*plan.copied[:, 1], *plan.unique, *plan.idle]
    assert sorted(everything) == list(range(plan.target.size))
    assert {(b, a) for a, b in plan.shared.tolist()} == {(a, b) for a, b in back.shared.tolist()}
    for a, b in plan.shared.tolist():
        assert plan.source.token_bytes[a] == plan.target.token_bytes[b] is not None
    shared = {plan.target.token_bytes[b] for b in plan.shared[:, 1]}
    assert shared == set(plan.source.ids) & set(plan.target.ids)
    ours, theirs = (Counter(v.token_bytes) for v in (plan.source, plan.target))
    for (
        token
    ) in plan.unique.tolist():  # SentencePiece may have the same byte twice: as a character, as a byte piece
        data = plan.target.token_bytes[token]
        assert theirs[data] > ours[data]


@every_method
@every_pair
def test_rows_are_complete_and_shared_rows_are_copied(method: Transplant, old: str, new: str) -> None:
    plan = plan_of(old, new)
    rows, head = rows_of(plan).bfloat16(), rows_of(plan, 2).bfloat16()
    made = method(plan, rows, head, tiny.context(tiny.kinds()[new], untied=True))
    assert made.output is not None
    assert made.input.shape == made.output.shape == (plan.target.size, 16)
    assert made.input.dtype == torch.bfloat16
    assert torch.isfinite(made.input).all()
    assert torch.isfinite(made.output).all()
    for a, b in plan.copied.tolist():
        assert torch.equal(made.input[b], rows[a])
        assert torch.equal(made.output[b], head[a])


@every_method
def test_results_depend_on_the_seed_only(method: Transplant) -> None:
    plan = plan_of("byte-level", "wordpiece")
    rows, target = rows_of(plan), tiny.wordpiece()
    first, again = (method(plan, rows, None, tiny.context(target)) for _ in range(2))
    torch.rand(3)  # the global generator plays no part
    assert torch.equal(first.input, again.input)
    assert first.output is None
    assert first.report == again.report


@every_method
def test_tied_and_untied_heads_agree(method: Transplant) -> None:
    plan = plan_of("byte-level", "sentencepiece")
    rows, context = rows_of(plan), tiny.context(tiny.sentencepiece())
    tied, untied = method(plan, rows, None, context), method(plan, rows, rows, context)
    torch.testing.assert_close(tied.input, untied.input)


@every_method
@pytest.mark.parametrize("kind", tiny.kinds())
@pytest.mark.parametrize("tied", [True, False])
def test_the_same_tokenizer_is_the_identity(method: Transplant, kind: str, tied: bool) -> None:
    tokenizer = tiny.kinds()[kind]
    model = tiny.llama(tokenizer, tied=tied)
    moved = transplant(model, tokenizer, tokenizer, method, context=tiny.context(tokenizer))
    ids = tiny.ids_of(model)
    assert moved.model is not model
    assert torch.equal(model(ids).logits, moved.model(ids).logits)
    assert moved.tokenizer("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]


@every_method
@every_pair
def test_special_roles_and_sizes_of_the_model(method: Transplant, old: str, new: str) -> None:
    kinds = tiny.kinds()
    model = tiny.llama(kinds[old])
    moved = transplant(model, kinds[old], kinds[new], method, context=tiny.context(kinds[new]))
    assert moved.model.config.vocab_size == len(moved.tokenizer)
    assert moved.model.lm_head.weight is moved.model.get_input_embeddings().weight
    roles = role_ids(ByteVocab.from_tokenizer(moved.tokenizer))
    eos = roles.get("eos", roles.get("sep"))
    ends = moved.model.generation_config.eos_token_id
    assert eos in (ends if isinstance(ends, list) else [ends])
    assert torch.isfinite(moved.model(tiny.ids_of(moved.model)).logits).all()


def test_a_mixed_row_is_the_stated_mixture() -> None:
    plan = plan_of("byte-level", "wordpiece")
    rows = rows_of(plan)
    made = transplant_method("retok")(plan, rows).input
    for token, pieces in zip(plan.unique.tolist(), plan.pieces, strict=True):
        if pieces:
            expected = rows[list(pieces)].mean(0)
            torch.testing.assert_close(made[token], expected)
            assert np.isfinite(expected.numpy()).all()


@pytest.mark.packages
def test_smollm2_with_its_own_tokenizer_and_with_another() -> None:
    from tokenry.models.load import load
    from tokenry.models.pretrained import minilm_folder

    model, tokenizer = load("smollm2")
    ids = tokenizer("The cat sat on the mat.", return_tensors="pt")["input_ids"]
    same = transplant(model, tokenizer, tokenizer, "retok")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, same.model(ids).logits)
    del same
    moved = transplant(model, tokenizer, minilm_folder(), "retok")
    assert (
        len(moved.tokenizer) == moved.model.config.vocab_size == 30_524
    )  # and two control tokens of the chat
    chat = moved.tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    assert chat == tokenizer.apply_chat_template([{"role": "user", "content": "hello"}], tokenize=False)
    with torch.no_grad():
        out = moved.model(moved.tokenizer("the cat sat", return_tensors="pt")["input_ids"]).logits
    assert torch.isfinite(out).all()
