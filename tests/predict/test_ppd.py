"""Parallel Prompt Decoding: trees, the chain of states, and texts that prompt tokens do not change."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from tokenry.models.load import load
from tokenry.predict.lm.acceptance import Accepted
from tokenry.predict.lm.ppd.prompts import Chains, PromptTokens, look_ahead
from tokenry.predict.lm.ppd.proposer import ParallelPromptDecoding
from tokenry.predict.lm.ppd.tree import (
    PromptTree,
    TreeSet,
    best_trees,
    choose_limit,
    likeliest_paths,
    pruned,
    static_trees,
)
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.sizing import Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.tree import Draft, Probes
from tokenry.tokens.errors import InputError, UnsupportedError

V = 48
TABLE = np.array([[0.5, 0.2], [0.4, 0.1]])
SECOND = ([0], [1], [0, 0], [1, 0])


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        eos_token_id=None,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def random_prompts(count: int, ensemble: int = 1, seed: int = 0) -> PromptTokens:
    generator = torch.Generator().manual_seed(seed)
    table = np.full((count, 4), 0.2)
    return PromptTokens(0.3 * torch.randn(count, ensemble, 32, generator=generator), table)


def asked(rows: int) -> dict[str, Any]:
    """Rows of 9, 5 and 7 tokens, padded on the left."""
    ids = torch.randint(3, V, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :4] = mask[2, :2] = 0
    return {"input_ids": ids[:rows] * mask[:rows], "attention_mask": mask[:rows], "max_new_tokens": 40,
            "do_sample": False, "pad_token_id": 0}  # fmt: skip


# ------------------------------------------------------------------------------------------------------- the search


def test_tree_of_the_likeliest_paths() -> None:
    assert likeliest_paths(TABLE, 2, 4) == [(0,), (1,), (0, 0), (1, 0)]
    tree = PromptTree.of(TABLE, SECOND)
    np.testing.assert_allclose(tree.reach, [1, 0.5, 0.2, 0.2, 0.08])
    assert tree.gain == pytest.approx(0.98)
    np.testing.assert_allclose(tree.ends, [0.3, 0.3, 0.12, 0.2, 0.08])


def test_paths_come_after_their_beginnings_and_the_shorter_first() -> None:
    certain = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    assert likeliest_paths(certain, 3, 10) == [
        (0,),
        (0, 0),
        (0, 0, 0),
        (0, 0, 1),
    ]  # what never happens is left out
    generator = np.random.default_rng(0)
    table = generator.dirichlet(np.ones(6), 3)[:, :5]
    found = likeliest_paths(table, 3, 30)
    every = [p for n in (1, 2, 3) for p in itertools.product(range(5), repeat=n)]
    values = {p: float(np.prod([table[i, r] for i, r in enumerate(p)])) for p in every}
    assert found == sorted(every, key=lambda p: (-values[p], len(p), p))[:30]


def test_chain_of_states_and_tokens_per_pass() -> None:
    none, first = PromptTree.of(TABLE, [], 2), PromptTree.of(TABLE, [[0]], [2, 1])
    trees = TreeSet((none, first, PromptTree.of(TABLE, SECOND, [2, 2, 1, 1, 1])))
    np.testing.assert_allclose(trees.transitions()[1:, 1:], [[0.5, 0.5], [0.4, 0.6]])
    np.testing.assert_allclose(trees.stationary(), [0, 4 / 9, 5 / 9], atol=1e-12)
    assert trees.tau() == pytest.approx(1.76667, abs=1e-5)
    assert trees.tau(as_coded=True) == pytest.approx(1.552)


def test_rows_of_a_pass() -> None:
    assert PromptTree.of(TABLE, SECOND, [2, 2, 1, 1, 1]).rows() == 12
    assert PromptTree.of(TABLE, [[0], [1]], [2, 1, 1]).rows() == 7
    assert PromptTree.of(TABLE, [[0], [1]], [2, 1, 1]).rows(ensemble=3) == 15


def test_chains_are_shortened_where_it_costs_least() -> None:
    tree = PromptTree.of(TABLE, SECOND)
    gains = [0, 0.5, 0.98]
    full = pruned(tree, gains, 14)
    assert full is not None
    assert full.chains.tolist() == [2, 2, 2, 2, 2]
    less = pruned(tree, gains, 12)
    # ends: .3 .12 .2 .08: the last guess goes first, then the second
    assert less is not None
    assert less.chains.tolist() == [2, 2, 1, 2, 1]
    least = pruned(tree, gains, 10)
    assert least is not None
    assert least.chains.tolist() == [2, 1, 1, 1, 1]
    assert least.rows() == 11
    assert pruned(tree, gains, 9) is None
    bare = pruned(tree, gains, 7, shortest=0)
    assert bare is not None
    assert bare.chains.tolist() == [2, 1, 0, 0, 0]


@pytest.mark.parametrize(("limit", "shortest"), [(4, 1), (7, 0), (11, 1)])
def test_search_finds_what_trying_everything_finds(limit: int, shortest: int) -> None:
    generator = np.random.default_rng(limit)
    table = np.sort(0.7 * generator.dirichlet(0.5 * np.ones(5), 2))[:, ::-1].copy()
    found = best_trees(table, limit, shortest=shortest)
    assert found.rows() <= limit + 1
    taus = [best_trees(table[:1], limit, shortest=shortest).tau()]
    for sizes in itertools.product(range(1, limit - 1), repeat=2):
        trees = [PromptTree.of(table, likeliest_paths(table, s, n)) for s, n in enumerate((0, *sizes))]
        fitted = [pruned(tree, [t.gain for t in trees], limit, shortest=shortest) for tree in trees]
        if None not in fitted:
            taus.append(TreeSet(tuple(tree for tree in fitted if tree is not None)).tau())
    assert found.tau() == pytest.approx(max(taus))


def test_dynamic_trees_beat_static_ones_and_small_limits_draft_nothing() -> None:
    table = np.array([[0.3, 0.1, 0.05, 0.03], [0.2, 0.05, 0.03, 0.02], [0.1, 0.04, 0.02, 0.01]])
    for limit in (6, 8, 24):
        dynamic, static = best_trees(table, limit), static_trees(table, limit)
        assert dynamic.tau() >= static.tau() - 1e-9
        assert max(dynamic.rows(), static.rows()) <= limit + 1
    for limit in (0, 1):
        assert best_trees(table, limit).rows() == 1
        assert best_trees(table, limit).tau() == 1
    assert best_trees(table, 24, ensemble=2).rows(2) <= 25


def test_the_machine_decides_how_many_rows_pay() -> None:
    table = np.array([[0.4, 0.1, 0.05], [0.3, 0.1, 0.05]])
    free = choose_limit(table, {1: 1.0, 5: 1.0, 9: 1.0, 33: 1.0})
    assert free.limit == 32
    assert free.speed == free.tau == pytest.approx(best_trees(table, 32).tau())
    dear = choose_limit(table, {1: 1.0, 5: 1.1, 9: 2.0, 33: 8.0})
    assert dear.limit == 4
    assert dear.speed == pytest.approx(dear.tau / 1.1)
    assert choose_limit(table, {1: 1.0, 5: 5.0}).limit == 0  # nothing pays: one token per pass
    proposer = ParallelPromptDecoding(PromptTokens(torch.zeros(2, 1, 8)), table)
    sizing = proposer.sizing({1: 1.0, 5: 1.1, 9: 2.0, 33: 8.0})
    assert sizing.most(1) == 4
    assert sizing.most(8) == 0  # eight texts fill a pass as they are: more rows cost what they bring, or more
    with pytest.raises(InputError, match="Latencies"):
        choose_limit(table, {1: 1.0, 4: 0.0})


def test_tables_that_are_none() -> None:
    for table, message in (
        (np.array([[0.7, 0.6]]), "prompt 1 .* 1.3 together"),
        (np.array([[-0.1, 0.6]]), "probability"),
        (np.array([[np.nan, 0.6]]), "probability"),
        (np.zeros((0, 4)), "probability"),
    ):
        with pytest.raises(InputError, match=message):
            best_trees(table, 8)
    with pytest.raises(InputError, match="ensemble"):
        best_trees(TABLE, 8, ensemble=0)


# ------------------------------------------------------------------------------------------------------ prompt tokens


def test_chains_of_rows_and_who_sees_whom() -> None:
    chains = Chains.behind([2, 0, 1], ensemble=2)
    assert chains.place.tolist() == [0, 0, 0, 0, 2, 2]
    assert chains.step.tolist() == [1, 1, 2, 2, 1, 1]
    assert chains.member.tolist() == [0, 1, 0, 1, 0, 1]
    expected = np.eye(6, dtype=bool)
    expected[2, 0] = expected[3, 1] = True  # the same member, one step before
    assert (chains.sees == expected).all()


def test_saved_and_loaded(tmp_path: Path) -> None:
    prompts = random_prompts(3, 2)
    prompts.about["model"] = "tiny"
    prompts.save(tmp_path / "prompts")
    again = PromptTokens.load(tmp_path / "prompts")
    assert torch.equal(again.embeddings, prompts.embeddings)
    assert again.about == {"model": "tiny"}
    assert again.acceptance is not None
    assert np.allclose(again.acceptance, 0.2)
    assert (again.count, again.ensemble, again.width) == (3, 2, 32)
    with pytest.raises(InputError, match="holds no prompt tokens"):
        PromptTokens.load(tmp_path)
    (tmp_path / "prompts" / "prompt_tokens.json").write_text("[]")
    with pytest.raises(InputError, match="holds no prompt tokens"):
        PromptTokens.load(tmp_path / "prompts")


def test_an_ensemble_of_copies_guesses_like_one(model: Any) -> None:
    one = random_prompts(2)
    copies = PromptTokens(one.embeddings.expand(-1, 3, -1))
    ids = torch.randint(3, V, (2, 12), generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[4, 9], [1, 12]])
    a, b = (look_ahead(model, prompts, ids, points).guesses for prompts in (one, copies))
    assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_many_points_in_one_pass_are_as_one_at_a_time(model: Any, attention: str) -> None:
    """Against prompt tokens appended to each context alone, and the model's own `generate`."""
    prompts = random_prompts(2)
    ids = torch.randint(3, V, (2, 12), generator=torch.Generator().manual_seed(2))
    points = torch.tensor([[4, 9], [1, 12]])
    model.set_attn_implementation(attention)
    found = look_ahead(model, prompts, ids, points)
    table = model.get_input_embeddings()
    for row, column in itertools.product(range(2), range(2)):
        context = ids[row : row + 1, : int(points[row, column])]
        with torch.no_grad():
            alone = model(inputs_embeds=torch.cat([table(context), prompts.embeddings[:, 0][None]], 1))
            own = model.generate(context, max_new_tokens=3, do_sample=False, pad_token_id=0)
            teacher = model(own).logits[0, -3:-1]
        assert torch.allclose(found.guesses[row, column], alone.logits[0, -2:], atol=1e-4)
        assert torch.equal(found.target[row, column], own[0, -2:])
        assert torch.allclose(found.teacher[row, column], teacher, atol=1e-4)
    model.set_attn_implementation("sdpa")


def test_on_what_the_model_wrote_both_teachers_agree(model: Any) -> None:
    prompts = random_prompts(2)
    ids = torch.randint(3, V, (1, 5), generator=torch.Generator().manual_seed(3))
    text = model.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    points = torch.arange(5, 15)[None]
    greedy, plain = (look_ahead(model, prompts, text, points, t) for t in ("greedy", "text"))
    assert torch.equal(greedy.target, plain.target)
    assert torch.allclose(greedy.teacher, plain.teacher, atol=1e-4)
    assert torch.allclose(greedy.guesses, plain.guesses, atol=1e-4)
    with pytest.raises(InputError, match="between 1 and 14"):
        look_ahead(model, prompts, text, points + 1, "text")
    with pytest.raises(InputError, match="width 8; the model has 32"):
        look_ahead(model, PromptTokens(torch.zeros(2, 1, 8)), text, points)


def test_a_model_with_sliding_windows_is_refused() -> None:
    config = MistralConfig(
        vocab_size=V,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=8,
    )
    ids = torch.arange(6)[None]
    with pytest.raises(UnsupportedError, match="full attention"):
        look_ahead(MistralForCausalLM(config).eval(), random_prompts(2), ids, torch.tensor([[4]]))


# ----------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    ("count", "ensemble", "limit"), [(1, 1, 5), (2, 1, 24), (3, 2, 18), (2, 1, 2), (2, 1, 0)]
)
def test_greedy_text_is_the_same(model: Any, count: int, ensemble: int, limit: int, rows: int) -> None:
    proposer = ParallelPromptDecoding(random_prompts(count, ensemble))
    assert isinstance(proposer, Proposer)
    how = Speculation(proposer, Fixed(limit))
    expected = model.generate(**asked(rows))
    for _ in range(2):
        assert torch.equal(model.generate(**asked(rows), custom_generate=how), expected)
    assert how.stats.tokens == 40 * rows
    assert how.stats.nodes <= how.stats.steps * (limit + 1)


def test_sampling_and_a_text_that_changes_its_limit(model: Any) -> None:
    class Wavering:
        def __init__(self) -> None:
            self.sizes = itertools.cycle([12, 0, 9, 3, 20])

        def most(self, texts: int) -> int:
            return next(self.sizes)

        def choose(self, drafts: Any) -> int:
            return next(self.sizes)

    how = Speculation(ParallelPromptDecoding(random_prompts(2)), Wavering())
    assert torch.equal(model.generate(**asked(3), custom_generate=how), model.generate(**asked(3)))
    sampled = model.generate(**asked(3) | {"do_sample": True}, custom_generate=how)
    assert sampled.shape == (3, 49)


def test_probes_are_the_prompt_tokens_as_they_are_now() -> None:
    prompts = PromptTokens(torch.zeros(2, 1, 8), TABLE)
    proposer = ParallelPromptDecoding(prompts)
    for value in (0.0, 1.0):  # trained between two drafts
        with torch.no_grad():
            prompts.embeddings.fill_(value)
        draft = proposer.propose(0, [3], 8)
        assert draft.probes is not None
        assert (draft.probes.embeddings == value).all()
        assert not draft.probes.embeddings.requires_grad


def test_guesses_are_those_of_the_accepted_nodes_chain() -> None:
    prompts = PromptTokens(torch.zeros(2, 2, 32), TABLE)
    search = TreeSet(
        (
            PromptTree.of(TABLE, [], 2),
            PromptTree.of(TABLE, [[0]], [2, 1]),
            PromptTree.of(TABLE, SECOND, [2, 2, 1, 1, 1]),
        )
    )
    proposer = ParallelPromptDecoding(prompts, search=lambda table, limit, ensemble: search)
    proposer.begin([[3]], None)
    draft = proposer.propose(0, [3, 4], 11)
    assert draft.tokens.tolist() == [4]
    assert draft.probes is not None
    assert draft.probes.depth.tolist() == [1, 1, 2, 2]
    logits = torch.zeros(4, V)
    logits[0, 7], logits[1, 9] = 3.0, 4.0  # the members of prompt 1, averaged: 9, then 7
    logits[2, 5] = logits[3, 5] = 1.0
    logits[2, 6] = 1.5
    proposer.learn(0, Verified(draft, torch.zeros(1, V), Accepted((0,), 8), logits))
    draft = proposer.propose(0, [3, 4, 8], 11)
    assert draft.tokens.tolist() == [8, 9, 7, 5, 5]
    assert draft.probes is not None
    assert draft.probes.after.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3] * 2 + [4] * 2
    logits = torch.zeros(14, V)
    logits[10:12, 11], logits[10:12, 12] = 2.0, 1.0  # behind node 3
    proposer.learn(0, Verified(draft, torch.zeros(5, V), Accepted((0, 1, 3), 1), logits))
    draft = proposer.propose(0, [3, 4, 8, 9, 5, 1], 11)  # one prompt stood behind node 3: state 1
    assert draft.tokens.tolist() == [1, 11]
    proposer.begin([[3]], None)
    assert proposer.propose(0, [3, 4], 11).tree.n == 1  # nothing is kept from one text to the next


def test_prompt_rows_change_no_logits_of_guesses(model: Any) -> None:
    seen: list[tuple[torch.Tensor, ...]] = []

    class Watched(ParallelPromptDecoding):
        asks = True

        def propose(self, row: int, text: Any, limit: int) -> Draft:
            draft = Draft.of(text[-1], [[5, 6], [7], [8, 9, 10]])
            if not self.asks:
                return draft
            chains = Chains.behind([3, 2, 1, 2, 3, 1, 1], self.prompts.ensemble)
            rows = self.prompts.rows(chains).detach()
            return Draft(draft.tree, draft.tokens, Probes(chains.place, chains.step, chains.sees, rows))

        def learn(self, row: int, verified: Verified) -> None:
            seen[-1] += (verified.logits.clone(),)

    for asks in (True, False):
        proposer = Watched(random_prompts(3, 2))
        proposer.asks = asks
        seen.append(())
        model.generate(**asked(1) | {"max_new_tokens": 12}, custom_generate=Speculation(proposer, Fixed(40)))
    with_rows, without = seen
    assert len(with_rows) == len(without) > 3
    for a, b in zip(with_rows, without, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_a_proposer_wants_to_know_how_well_it_guesses() -> None:
    with pytest.raises(InputError, match="acceptance_table"):
        ParallelPromptDecoding(PromptTokens(torch.zeros(2, 1, 8)))
    with pytest.raises(InputError, match="2 prompt tokens need as many rows of acceptance, got 3"):
        ParallelPromptDecoding(PromptTokens(torch.zeros(2, 1, 8)), np.full((3, 4), 0.1))
    with pytest.raises(InputError, match="as many rows"):
        PromptTokens(torch.zeros(2, 1, 8), np.full((3, 4), 0.1))


@pytest.mark.packages
def test_smollm2_writes_what_it_writes_without_prompt_tokens() -> None:
    smollm2, tokenizer = load("smollm2")
    prompts = PromptTokens.from_words(smollm2, tokenizer, 2)
    assert (prompts.count, prompts.ensemble, prompts.width) == (2, 1, 576)
    given = tokenizer("one two three four one two three four one two", return_tensors="pt")
    expected = smollm2.generate(**given, max_new_tokens=12, do_sample=False)
    how = Speculation(ParallelPromptDecoding(prompts, TABLE), Fixed(8))
    assert torch.equal(
        smollm2.generate(**given, max_new_tokens=12, do_sample=False, custom_generate=how), expected
    )
