"""FLASH drafts: the text is the model's own, greedy or sampled, whatever is guessed; better guesses, fewer passes."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from tokenry.data.questions.examples import load_scenes
from tokenry.models.load import load
from tokenry.models.vlm.embedded.model import PROMPT
from tokenry.predict.lm.acceptance import Accepted, Rejection
from tokenry.predict.lm.flash.drafter import ChainDrafter, Drafter, FlashConfig, FlashDrafter
from tokenry.predict.lm.flash.proposer import ChainDrafts, Flash, likeliest_tree, static_tree
from tokenry.predict.lm.proposer import Proposer, Verified
from tokenry.predict.lm.sizing import Expected, Fixed
from tokenry.predict.lm.speculate import Speculation
from tokenry.predict.lm.tree import Draft, DraftTree
from tokenry.tokens.errors import InputError, TokenryError

WIDTH, V = 16, 40


def llama(vocabulary: int = V, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def drafter(
    kind: type[Drafter] = FlashDrafter, width: int = WIDTH, scale: float = 3.0, **changed: Any
) -> Drafter:
    """A drafter that guesses at random, and is sure of it."""
    torch.manual_seed(1)
    config = FlashConfig(**{"width": width, "offsets": 3, "latents": 4, "heads": 4, "kv_heads": 2} | changed)
    found = kind(config).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(scale)
    return found


@pytest.fixture(scope="module")
def embedded() -> tuple[Any, dict[str, Tensor]]:
    """The embedded model, and a long and a short question about two pictures."""
    model, processor = load("embedded")
    asked = load_scenes("test", 2, per_scene=1)
    texts = [PROMPT.format(question=q) for q in ("what is there at the top left?", "what does the sign say?")]
    inputs = processor(images=[e.image for e in asked], text=texts, padding=True, return_tensors="pt")
    assert not bool(inputs["attention_mask"].all())
    return model, dict(inputs)


# ---------------------------------------------------------------------------------------- greedy: (1), (3), (5)


@pytest.mark.parametrize(
    ("kind", "changed", "rows", "sample"),
    [
        (FlashDrafter, {}, 1, False),
        (FlashDrafter, {}, 2, True),
        (FlashDrafter, {"latents": None, "offsets": 5}, 2, False),
        (FlashDrafter, {"offsets": 1, "latents": None}, 2, False),
        (ChainDrafter, {}, 2, False),
        (ChainDrafter, {"latents": None}, 2, True),
    ],
)
def test_greedy_text_about_pictures_is_the_same(
    embedded: Any, kind: type[Drafter], changed: dict[str, Any], rows: int, sample: bool
) -> None:
    model, inputs = embedded
    asked = {name: tensor[:rows] for name, tensor in inputs.items()}
    asked |= {"max_new_tokens": 16, "min_new_tokens": 16, "do_sample": False}
    expected = model.generate(**asked)
    head = drafter(kind, 192, 2.0, heads=6, **changed)
    how = (Flash if head.offsets > 1 else ChainDrafts)(head, model, sample=sample)
    assert isinstance(how, Proposer)
    for size in (0, 25):
        speculation = Speculation(how, Fixed(size))
        assert torch.equal(model.generate(**asked, custom_generate=speculation), expected)
    assert speculation.stats.nodes > 20 * speculation.stats.steps  # it did judge trees


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_text_alone_can_be_drafted_too(kind: type[Drafter]) -> None:
    model = llama()
    ids = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(0))
    asked = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 30,
        "pad_token_id": 0,
    }
    expected = model.generate(**asked, do_sample=False)
    head = drafter(kind)
    how = Flash(head, model) if head.offsets > 1 else ChainDrafts(head, model)
    for sizing in (Fixed(25), Expected({1: 1.0, 26: 1.5})):
        got = model.generate(**asked, do_sample=False, custom_generate=Speculation(how, sizing))
        assert torch.equal(got, expected)


class Knowing(FlashDrafter):
    """Guesses the true states of one text; `blur` of them is noise."""

    def __init__(self, states: Tensor, offsets: int, blur: float = 0.0) -> None:
        super().__init__(
            FlashConfig(width=states.shape[1], offsets=offsets, latents=None, heads=4, kv_heads=2)
        )
        noise = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        self.states = nn.functional.pad((1 - blur) * states + blur * noise, (0, 0, 0, offsets))
        self.at = -1

    def read(self, entered: Tensor, cache: Any = None, positions: Any = None, visible: Any = None) -> Tensor:
        self.at = cache.get_seq_length() + entered.shape[1] - 1  # without a picture or latents, that is j
        return super().read(entered, cache, positions, visible)

    def predict(self, read: Tensor) -> Tensor:
        return self.states[self.at + 1 : self.at + 1 + self.offsets]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_with_true_states_every_pass_writes_k_and_one_tokens(k: int) -> None:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # so sure of its words that the likeliest tree is a chain
    ids = torch.randint(0, V, (1, 6), generator=torch.Generator().manual_seed(0))
    asked = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
    asked["max_new_tokens"] = 1 + 6 * (k + 1)
    expected = model.generate(**asked)
    states = model.model(expected).last_hidden_state[0].detach()
    lengths = []
    for blur in (0.97, 0.6, 0.0):
        how = Speculation(Flash(Knowing(states, k, blur), model), Fixed(k))
        assert torch.equal(model.generate(**asked, custom_generate=how), expected)
        lengths.append(how.stats.acceptance_length)
    assert lengths == sorted(lengths)
    assert lengths[-1] == k + 1
    assert lengths[0] < (k + 2) / 2


def test_a_head_of_one_offset_drafts_chains_as_its_own_text() -> None:
    """k = 1 without compression: what a chain guesses is what the head says when its guesses are read again."""
    model, head = llama(), drafter(offsets=1, latents=None)
    text = [3, 1, 4, 1, 5]
    states = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(2))
    chain = ChainDrafts(head, model, tree=DraftTree.chain(4))
    chain.begin([text[:4]], [states])
    draft = chain.propose(0, text, 25)
    with torch.no_grad():
        known, tokens = states[None], list(text)
        for _ in range(4):
            guess = head(known, model.get_input_embeddings()(torch.tensor([tokens[1:]])), (0, 0))[:, -1]
            tokens.append(int(model.lm_head(guess).argmax()))
            known = torch.cat([known, guess], 1)
    assert draft.tokens.tolist() == tokens[4:]
    assert chain._texts[0].cache.get_seq_length() == 4  # what was only guessed is gone


def test_only_verified_tokens_are_remembered() -> None:
    """Drafting step by step is drafting anew from the whole text."""
    model = llama()
    for kind in (FlashDrafter, ChainDrafter):
        head = drafter(kind, latents=None)
        make = Flash if head.offsets > 1 else ChainDrafts
        states = torch.randn(16, WIDTH, generator=torch.Generator().manual_seed(2))
        text = torch.randint(0, V, (17,), generator=torch.Generator().manual_seed(3)).tolist()
        going = make(head, model)
        going.begin([text[:4]], [states[:4]])
        at = 4
        for accepted in (1, 3, 0, 2):
            draft = going.propose(0, text[: at + 1], 12)
            fresh = make(head, model)
            fresh.begin([text[:at]], [states[:at]])
            again = fresh.propose(0, text[: at + 1], 12)
            assert draft.tokens.tolist() == again.tokens.tolist()
            # The engine's states are those of the nodes; here the path is taken to be the first nodes.
            hidden = torch.full((draft.tree.n, WIDTH), torch.nan)
            hidden[: accepted + 1] = states[at : at + accepted + 1]
            path = tuple(range(accepted + 1))
            logits = torch.zeros(draft.tree.n, V)
            going.learn(0, Verified(draft, logits, Accepted(path, text[at + accepted + 1]), None, hidden))
            at += accepted + 1


# ------------------------------------------------------------------------------------------------- trees


def test_the_static_tree_is_the_papers() -> None:
    tree = static_tree()
    assert tree.n == 26
    assert [len(level) for level in tree.levels] == [4, 8, 8, 3, 2]
    assert [len(level) for level in static_tree(3).levels] == [4, 8, 8]
    with pytest.raises(InputError, match="1 to 5 levels"):
        static_tree(6)


def test_the_likeliest_tree_holds_the_best_products() -> None:
    generator = np.random.default_rng(0)
    p = np.sort(generator.dirichlet(np.ones(6), 3), 1)[:, ::-1]
    paths = [path for d in (1, 2, 3) for path in itertools.product(range(6), repeat=d)]
    worth = {path: float(np.prod([p[i, r] for i, r in enumerate(path)])) for path in paths}
    for n in (1, 9, 25):
        tree, chance = likeliest_tree(p, n)
        found = [tuple(int(tree.rank[i]) for i in tree.path(node)[1:]) for node in range(1, tree.n)]
        assert found == sorted(paths, key=worth.__getitem__, reverse=True)[:n]
        assert chance.tolist() == pytest.approx([1.0, *(worth[path] for path in found)])
    assert likeliest_tree(p[:1, :2], 25)[0].n == 3  # there is no more
    sure, _ = likeliest_tree(np.array([[1.0, 0.1]] * 3), 3)
    assert sure.parent.tolist() == [-1, 0, 1, 2]


# ----------------------------------------------------------------------------------- sampling: (4)


def test_children_are_drawn_from_what_the_draft_says() -> None:
    """Each depth's first two children, over many drafts, against draws without replacement from `proposal`."""
    model = llama(4)
    ids = [1, 2, 3, 0]
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    for kind in (FlashDrafter, ChainDrafter):
        head = drafter(kind, scale=1.0, offsets=2)
        generator = torch.Generator().manual_seed(0)
        make = Flash if kind is FlashDrafter else ChainDrafts
        first: Counter[tuple[int, int]] = Counter()
        for _ in range(400):
            how = make(head, model, sample=True, temperature=0.5, generator=generator)
            how.begin([ids[:3]], [states])
            draft = how.propose(0, ids, 12)
            assert draft.proposal is not None
            below = draft.tree.children[0]
            first[int(draft.tokens[below[0]]), int(draft.tokens[below[1]])] += 1
        q = draft.proposal[0].double().numpy()
        for a, b in itertools.permutations(range(4), 2):
            p = q[a] * q[b] / (1 - q[a])
            assert abs(first[a, b] / 400 - p) < 4.5 * (p * (1 - p) / 400) ** 0.5 + 1e-9


def written(draft: Draft, p: Tensor, path: tuple[int, ...] = (0,)) -> Counter[tuple[int, ...]]:
    """What rejection writes from a node on, with probabilities: its branches written out."""
    assert draft.proposal is not None
    found: Counter[tuple[int, ...]] = Counter()
    left = p[0] if len(path) == 1 else p[1 + int(draft.tokens[path[1]])]
    q, here = draft.proposal[path[-1]].double(), 1.0
    for child in draft.tree.children[path[-1]]:
        x = int(draft.tokens[child])
        accept = min(1.0, float(left[x] / q[x]))
        for rest, weight in written(draft, p, (*path, child)).items():
            found[x, *rest] += here * accept * weight
        here *= 1 - accept
        if here < 1e-12:
            return found
        left = (left - q).clamp(min=0)
        left, q = left / left.sum(), q.index_fill(0, torch.tensor([x]), 0.0)
        q = q / q.sum()
    for x in range(4):
        found[x,] += here * float(left[x])
    return found


def pairs(texts: Counter[tuple[int, ...]], p: Tensor) -> dict[tuple[int, int], float]:
    """The first two tokens; where only one was written, the model draws the second."""
    found: Counter[tuple[int, int]] = Counter()
    for text, weight in texts.items():
        if len(text) > 1:
            found[text[0], text[1]] += weight
        for b in range(4 if len(text) == 1 else 0):
            found[text[0], b] += weight * float(p[1 + text[0], b])
    return dict(found)


def disagreeing(kind: type[Drafter], **how: Any) -> tuple[Any, Tensor]:
    """Proposer and model distributions: after the root, and after each first token."""
    make = Flash if kind is FlashDrafter else ChainDrafts
    p = (1.5 * torch.randn(5, 4, generator=torch.Generator().manual_seed(1))).double().softmax(-1)
    return make(drafter(kind, scale=1.5, offsets=2), llama(4), sample=True, **how), p


@pytest.mark.parametrize("nodes", [3, 5, 12])
def test_all_drafts_together_write_what_the_model_would(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every outcome of the draws, exactly: two tokens on a vocabulary of 4."""
    how, p = disagreeing(FlashDrafter)
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    total: Counter[tuple[int, ...]] = Counter()
    accepted = 0.0
    for orders in itertools.product(itertools.permutations(range(4)), repeat=2):
        monkeypatch.setattr(how, "_candidates", lambda q, n, orders=orders: np.array(orders)[:, :n])
        how.begin([[1, 2, 3]], [states])
        draft = how.propose(0, [1, 2, 3, 0], nodes)
        assert draft.proposal is not None
        deep = int(draft.tree.children[0][0])
        chance = 1.0
        for order, q in zip(orders, draft.proposal[[0, deep]].double(), strict=True):
            for i, x in enumerate(order[:3]):  # the fourth is what is left
                chance *= float(q[x] / q[list(order[i:])].sum())
        for text, weight in written(draft, p).items():
            total[text] += chance * weight
            accepted += chance * weight * (len(text) > 1)
    assert accepted > 0.2
    for (a, b), weight in pairs(total, p).items():
        assert weight == pytest.approx(float(p[0, a] * p[1 + a, b]), abs=1e-6)


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_accepted_text_is_distributed_as_the_models(kind: type[Drafter]) -> None:
    """The same with real draws, through the engine's rule."""
    generator = torch.Generator().manual_seed(1)
    how, p = disagreeing(kind, generator=generator)
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    texts: Counter[tuple[int, ...]] = Counter()
    draws = 600
    for _ in range(draws):
        how.begin([[1, 2, 3]], [states])
        draft = how.propose(0, [1, 2, 3, 0], 9)

        def scores(path: list[int], draft: Draft = draft) -> Tensor:
            return p[0 if len(path) == 1 else 1 + int(draft.tokens[path[1]])].log()

        found = Rejection(generator).walk(draft, scores)
        texts[*(int(draft.tokens[node]) for node in found.path[1:]), found.token] += 1
    assert sum(count for text, count in texts.items() if len(text) > 1) > 0.2 * draws
    for (a, b), count in pairs(texts, p).items():
        expected = float(p[0, a] * p[1 + a, b])
        assert abs(count / draws - expected) < 4.5 * (expected * (1 - expected) / draws) ** 0.5


def test_the_shape_of_a_drawn_tree_does_not_depend_on_the_draws() -> None:
    model, head = llama(), drafter()
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    shapes, tokens = set(), set()
    for seed in range(20):
        how = Flash(head, model, sample=True, temperature=3.0, generator=torch.Generator().manual_seed(seed))
        how.begin([[1, 2, 3]], [states])
        draft = how.propose(0, [1, 2, 3, 4], 25)
        shapes.add(tuple(draft.tree.parent))
        tokens.add(tuple(draft.tokens))
    assert len(shapes) == 1
    assert len(tokens) > 10


@pytest.mark.parametrize("kind", [FlashDrafter, ChainDrafter])
def test_sampled_text_through_the_engine_repeats_with_its_seed(kind: type[Drafter]) -> None:
    model = llama()
    ids = torch.randint(0, V, (2, 6), generator=torch.Generator().manual_seed(0))
    asked = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "max_new_tokens": 20,
        "pad_token_id": 0,
    }
    texts = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        head = drafter(kind)
        make = Flash if kind is FlashDrafter else ChainDrafts
        how = Speculation(make(head, model, sample=True, temperature=2.0), Fixed(12))
        torch.manual_seed(seed)
        texts.append(model.generate(**asked, do_sample=True, custom_generate=how))
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


# ---------------------------------------------------------------------------------------------- errors


def test_what_cannot_be_drafted_from() -> None:
    model, head = llama(), drafter()
    with pytest.raises(InputError, match="trained for another model"):
        Flash(drafter(width=32), model)
    with pytest.raises(InputError, match="temperature above 0"):
        Flash(head, model, sample=True, temperature=0.0)
    with pytest.raises(InputError, match="one token a pass; this drafter has 3"):
        ChainDrafts(head, model)
    with pytest.raises(InputError, match="ranks 0, 1, 2"):
        ChainDrafts(drafter(ChainDrafter), model, tree=DraftTree(np.array([-1, 0]), np.array([0, 1])))
    how = Flash(head, model, image_token=7)
    with pytest.raises(InputError, match="was given none"):
        how.begin([[1, 2]], None)
    with pytest.raises(InputError, match="4 tokens came with 3 hidden states"):
        how.begin([[1, 7, 2, 3]], [torch.zeros(3, WIDTH)])
    how.begin([[1, 7, 2, 3]], [torch.zeros(4, WIDTH)])
    with pytest.raises(InputError, match="was given none"):
        how.learn(0, Verified(Draft.of(3, []), torch.zeros(1, V), Accepted((0,), 4)))
    nothing = drafter(scale=float("nan"))
    how = Flash(nothing, model)
    how.begin([[1, 2, 3]], [torch.zeros(3, WIDTH)])
    with pytest.raises(TokenryError, match="not numbers"):
        how.propose(0, [1, 2, 3, 4], 5)
