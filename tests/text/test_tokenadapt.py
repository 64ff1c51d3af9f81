"""TokenAdapt and its baselines: the specification's examples, and oracles by brute force."""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np
import pytest
import torch

from tests.text.transplant import tiny
from tokenry.text.string_vectors import CorpusVectors
from tokenry.text.transplant import Context, Donor, TransplantPlan, transplant
from tokenry.text.transplant.aligner import align_words
from tokenry.text.transplant.counting import overlaps
from tokenry.text.transplant.focus import Focus, sparsemax, sparsemax_entries
from tokenry.text.transplant.omp import OMP, matching_pursuit
from tokenry.text.transplant.tokenadapt.method import TokenAdapt
from tokenry.text.transplant.transtokenizer import TransTokenizer, count_words, longest_inside
from tokenry.text.transplant.wechsel import Wechsel
from tokenry.text.trie import ByteTrie
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError


def plan(old: str = "byte-level", new: str = "wordpiece") -> TransplantPlan:
    kinds = tiny.kinds()
    return TransplantPlan.between(ByteVocab.from_tokenizer(kinds[old]), ByteVocab.from_tokenizer(kinds[new]))


# --- (1), (2): TokenAdapt's weights ---------------------------------------------------------------------------


def test_local_weights_of_the_specification() -> None:
    weights = TokenAdapt().local_weights(
        torch.tensor([0.9, 0.6]), torch.tensor([3 / 5, 2 / 5]), torch.tensor([0, 0]), 1
    )
    torch.testing.assert_close(weights, torch.tensor([0.7509, 0.2491]), atol=1e-4, rtol=0)


def test_global_weights_of_the_specification() -> None:
    weights = TokenAdapt().global_weights(torch.tensor([[0.8, 0.7, 0.5]]))
    torch.testing.assert_close(weights, torch.tensor([[0.4797, 0.3438, 0.1765]]), atol=1e-4, rtol=0)


def test_tokenadapt_is_what_its_definition_says() -> None:
    p, rows, method = plan(), torch.randn(400, 16), TokenAdapt()
    made = method(p, rows, None, Context(vectors=tiny.hashed)).input
    old = {i: data.decode() for i, data in enumerate(p.source.token_bytes) if data and _is_text(data)}
    vectors = dict(zip(old, tiny.hashed(list(old.values())), strict=True))
    for token, pieces in list(zip(p.unique.tolist(), p.pieces, strict=True))[:20]:
        s = (p.target.token_bytes[token] or b"").decode()
        f = tiny.hashed([s])[0]
        cos = torch.stack([f @ vectors[u] for u in pieces])
        share = torch.tensor([len(old[u]) / len(s) for u in pieces])
        w = torch.softmax((torch.softmax(cos / 0.30001, 0) + share) / 2 / 0.30001, 0)
        near = sorted(old, key=lambda i: -float(f @ vectors[i]))[:3]
        v = torch.softmax(torch.stack([f @ vectors[i] for i in near]) / 0.3, 0)
        expected = 0.7 * w @ rows[list(pieces)] + 0.3 * v @ rows[near]
        # equally near tokens ("The", " the") may be ordered differently by rounding: compare where they are not
        if (
            len(
                {
                    round(float(f @ vectors[i]), 5)
                    for i in sorted(old, key=lambda i: -float(f @ vectors[i]))[:4]
                }
            )
            == 4
        ):
            torch.testing.assert_close(made[token], expected, atol=1e-4, rtol=1e-3)


def test_a_threshold_that_nothing_reaches_leaves_the_local_part() -> None:
    p, rows, context = plan(), torch.randn(400, 16), Context(vectors=tiny.hashed)
    alone = TokenAdapt(weight=0.0)(p, rows, None, context).input
    torch.testing.assert_close(TokenAdapt(threshold=1.1)(p, rows, None, context).input, alone)


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_k": 0}, {"weight": 1.5}])
def test_tokenadapt_refuses_settings_without_meaning(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="tokenadapt"):
        TokenAdapt(**wrong)


def _is_text(data: bytes) -> bool:
    return data.decode(errors="ignore").encode() == data


# --- (3), (6): FOCUS and WECHSEL ------------------------------------------------------------------------------


def test_sparsemax_of_the_specification() -> None:
    expected = torch.tensor([0.6, 0.4, 0.0])
    torch.testing.assert_close(sparsemax(torch.tensor([0.9, 0.7, -0.5])), expected)


def test_sparsemax_by_its_definition_and_without_sorting_everything() -> None:
    scores = torch.randn(50, 40, generator=torch.Generator().manual_seed(0)) * 0.3
    weights = sparsemax(scores)
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
    for row in range(5):  # the nearest point of the simplex: over all supports
        best = _project(scores[row, :8].double().numpy())
        np.testing.assert_allclose(sparsemax(scores[row, :8]).numpy(), best, atol=1e-6)
    row, column, weight = sparsemax_entries(scores, first=2)
    dense = torch.zeros_like(scores)
    dense[row, column] = weight
    torch.testing.assert_close(dense, weights)
    assert (weight > 0).all()


def _project(z: np.ndarray) -> np.ndarray:
    best, found = np.inf, z
    for size in range(1, len(z) + 1):
        for support in itertools.combinations(range(len(z)), size):
            p = np.zeros_like(z)
            p[list(support)] = z[list(support)] - (z[list(support)].sum() - 1) / size
            if p.min() >= -1e-12 and ((p - z) ** 2).sum() < best:
                best, found = ((p - z) ** 2).sum(), p
    return found


@pytest.mark.parametrize("method", [Focus(min_count=1), Wechsel(min_count=1)], ids=lambda m: m.slug)
def test_rows_lie_in_the_convex_hull_of_source_rows(method: Focus | Wechsel) -> None:
    p = plan("sentencepiece", "byte-level")
    mixture = method.mix(p, torch.randn(p.source.size, 4), None, tiny.context(tiny.byte_level()))
    assert len(mixture.ids) > 0
    assert (mixture.weights >= 0).all()
    row = torch.repeat_interleave(torch.arange(len(p.unique)), mixture.counts)
    sums = torch.zeros(len(p.unique)).index_add_(0, row, mixture.weights)
    torch.testing.assert_close(sums[mixture.counts > 0], torch.ones(int((mixture.counts > 0).sum())))


def test_wechsel_aligns_two_languages_by_a_dictionary() -> None:
    words = sorted(set(tiny.TEXT.split()))
    generator = np.random.default_rng(0)
    starts = generator.integers(0, len(words), 400)
    other = [" ".join(words[(start + k) % len(words)] for k in range(6)) for start in starts]
    lines = [" ".join(f"{word}s" for word in line.split()) for line in other]
    p = plan("sentencepiece", "byte-level")
    context = Context(
        texts=("\n".join(other),),
        source_texts=("\n".join(lines),),
        dictionary=tuple((f"{word}s", word) for word in words),
    )
    mixture = Wechsel().mix(p, torch.randn(p.source.size, 4), None, context)
    assert len(mixture.ids) > 0
    one_language = Wechsel().mix(p, torch.randn(p.source.size, 4), None, Context(texts=context.texts))
    assert torch.equal(mixture.unset, one_language.unset)
    without = Context(texts=("\n".join(other),), source_texts=("\n".join(lines),))
    with pytest.raises(InputError, match="dictionary"):
        Wechsel().mix(p, torch.randn(p.source.size, 4), None, without)


def test_corpus_vectors_know_company_and_spelling() -> None:
    # a and b stand in the same places, so do x and y, and neither pair with the other
    pattern = [[0, 4, 5, 4], [1, 4, 5, 4], [2, 6, 7, 6], [3, 6, 7, 6]] * 20
    fitted = CorpusVectors.fit(
        (np.array(p) for p in pattern), ["alpha", "beta", "xi", "ypsilon", *"cdef"], min_count=1
    )
    a, b, x = fitted(["alpha", "beta", "xi"])
    assert float(a @ b) > 0.9 > 0.5 > float(a @ x)
    near, nothing = fitted(["alphas", "qqqq"])
    assert float(near @ a) > 0.9
    assert float(nothing.norm()) == 0
    with pytest.raises(InputError, match="too little text"):
        CorpusVectors.fit([np.array([0])], ["a"], min_count=1)


# --- (4) ------------------------------------------------------------------------------------------------------


def test_the_same_tokenizer_is_the_identity_on_logits() -> None:
    tokenizer = tiny.byte_level()
    model = tiny.llama(tokenizer, tied=False)
    moved = transplant(model, tokenizer, tokenizer, "tokenadapt", context=Context(vectors=tiny.hashed))
    ids = tiny.ids_of(model)
    assert torch.equal(model(ids).logits, moved.model(ids).logits)


# --- (5): OMP -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_orthonormal_atoms_are_recovered_after_as_many_steps_as_there_are(exact: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.linalg.qr(torch.randn(32, 32, generator=generator)).Q
    true = torch.zeros(6, 32)
    for row in range(6):
        true[row, torch.randperm(32, generator=generator)[:5]] = torch.tensor([3.0, -2.5, 2.0, -1.5, 1.0])
    chosen, coefficients = matching_pursuit(true @ atoms, atoms, 5, exact=exact)
    found = torch.zeros(6, 32).scatter_(1, chosen, coefficients)
    torch.testing.assert_close(found, true, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("atoms", [8, 20])
def test_as_many_steps_as_the_rank_leave_nothing(atoms: int) -> None:
    generator = torch.Generator().manual_seed(1)
    d = torch.randn(atoms, 8, generator=generator)
    x = torch.randn(5, 8, generator=generator)
    chosen, coefficients = matching_pursuit(x, d, atoms)
    rebuilt = (coefficients[..., None] * d[chosen.clamp_min(0)]).sum(1)
    torch.testing.assert_close(rebuilt, x, atol=1e-3, rtol=1e-3)


def test_pursuit_is_greedy_with_least_squares_after_every_step() -> None:
    generator = torch.Generator().manual_seed(2)
    d, x = torch.randn(30, 10, generator=generator), torch.randn(7, 10, generator=generator)
    chosen, coefficients = matching_pursuit(x, d, 4)
    for row in range(7):
        picked: list[int] = []
        residual = x[row]
        for _ in range(4):
            score = (d @ residual).abs()
            score[picked] = -1
            picked.append(int(score.argmax()))
            solution = torch.linalg.lstsq(d[picked].T, x[row][:, None]).solution[:, 0]
            residual = x[row] - solution @ d[picked]
        assert chosen[row].tolist() == picked
        torch.testing.assert_close(coefficients[row], solution, atol=1e-4, rtol=1e-3)


def test_dependent_atoms_add_nothing() -> None:
    d = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 1.0, 0]])
    chosen, coefficients = matching_pursuit(torch.tensor([[4.0, 1.0, 5.0]]), d, 3)
    assert coefficients.isfinite().all()
    rebuilt = (coefficients[..., None] * d[chosen.clamp_min(0)]).sum(1)
    torch.testing.assert_close(rebuilt, torch.tensor([[4.0, 1.0, 0.0]]))


def test_a_donor_equal_to_the_model_gives_its_rows_back() -> None:
    p = plan("byte-level", "sentencepiece")
    truth = torch.randn(p.target.size, 6)
    rows = torch.randn(p.source.size, 6)
    rows[torch.from_numpy(p.shared[:, 0])] = truth[torch.from_numpy(p.shared[:, 1])]
    made = OMP()(p, rows, None, Context(donor=Donor(truth))).input
    unique = torch.from_numpy(p.unique)
    torch.testing.assert_close(made[unique], truth[unique], atol=1e-3, rtol=1e-3)


def test_omp_says_what_it_lacks() -> None:
    p = plan()
    with pytest.raises(InputError, match="donor"):
        OMP()(p, torch.randn(p.source.size, 4))
    with pytest.raises(InputError, match="uses the target tokenizer"):
        OMP()(p, torch.randn(p.source.size, 4), None, Context(donor=Donor(torch.randn(12, 4))))
    with pytest.raises(InputError, match="k and batch"):
        OMP(k=0)


# --- TransTokenizer -------------------------------------------------------------------------------------------


def test_overlaps_by_counting_bytes() -> None:
    p = plan("sentencepiece", "byte-level")
    line = "the cat sat there, the other mother\n"
    expected: dict[tuple[int, int], float] = defaultdict(float)
    old, new = p.source.encode(line.encode()), p.target.encode(line.encode())
    owner_old = [t for t in old for _ in p.source.token_bytes[t] or b""]
    place = 0
    for token in new:
        size = len(p.target.token_bytes[token] or b"")
        for source in owner_old[place : place + size]:
            expected[token, source] += 1 / size
        place += size
    found = overlaps(p.source, p.target, [line])
    assert {(a, b): c for a, b, c in zip(*(x.tolist() for x in found), strict=True)} == pytest.approx(
        expected
    )


def test_pieces_of_aligned_words_are_paired_in_order() -> None:
    source, target = (ByteVocab.from_tokenizer(tiny.byte_level(size)) for size in (258, 310))
    counts: dict[int, dict[int, float]] = {}
    count_words(counts, source, target, [("at", "there", 6)])
    old, new = source.encode(b" at"), target.encode(b" there")
    assert len(old) == 3
    expected: dict[tuple[int, int], float] = defaultdict(float)
    common = int(np.lcm(len(old), len(new)))
    for o, n in zip(np.repeat(old, common // len(old)), np.repeat(new, common // len(new)), strict=True):
        expected[int(n), int(o)] += max(1, 6 // (common // len(new)))
    assert {(n, o): c for n, found in counts.items() for o, c in found.items()} == expected


def test_tokens_without_counts_inherit_from_longest_tokens_inside_and_from_those_that_begin_with_them() -> (
    None
):
    names = [b"th", b"the", b"he", b"re", b"r", None]
    trie = ByteTrie.build(names)
    assert longest_inside(trie, names, b"there") == [1, 3]
    assert longest_inside(trie, names, b"xx") == []


def test_words_are_aligned_across_languages() -> None:
    pairs = [
        ("the house", "das haus"),
        ("the book", "das buch"),
        ("a book", "ein buch"),
        ("a house", "ein haus"),
    ] * 3
    counts = {(a, b): n for a, b, n in align_words(pairs)}
    assert counts == {("the", "das"): 6, ("house", "haus"): 6, ("book", "buch"): 6, ("a", "ein"): 6}
    with pytest.raises(InputError, match="nothing can be aligned"):
        align_words([("", "x")])


def test_methods_that_count_say_that_they_need_text() -> None:
    p = plan()
    for method in (Focus(), Wechsel(), TransTokenizer()):
        with pytest.raises(InputError, match="given none"):
            method(p, torch.randn(p.source.size, 4))
