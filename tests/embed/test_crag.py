"""CRAG: clusters, summaries, the knowledge block, its cache, and what it saves."""

import json
import math
import random
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.embed.retrieval import Scribe, byte_tokenizer, tiny_llama, words
from tokenry.data.packages import PackageUnavailableError
from tokenry.data.text.reviews import aspects_in, product_reviews
from tokenry.embed.chat import ChatModel, TokenRuler
from tokenry.embed.crag.clusters import k_by_silhouette, k_means
from tokenry.embed.crag.method import CRAG, Knowledge, break_even, changed, header, reduction, text_key
from tokenry.embed.crag.pipeline import ClusteredRAG
from tokenry.embed.crag.summarise import ExtractiveSummariser, Members, Summary
from tokenry.embed.encoder import SentenceEncoder
from tokenry.tokens.errors import InputError, UnknownNameError, UnsupportedError

pytest.importorskip("sklearn")

REVIEWS = tuple(review.text for review in product_reviews(75, seed=3))
SHORT = ("good loud sound", "the battery is empty", "arrived wet", "fair price")


def quoting(**settings: object) -> ClusteredRAG:
    """Extractive, a byte a token."""
    return ClusteredRAG(words, TokenRuler(byte_tokenizer()), CRAG(**settings))


def grouped(k: int, each: int = 6) -> list[str]:
    """Texts in k groups that share no word."""
    return [
        f"{'abcdefgh'[c] * 5} {'abcdefgh'[c] * 7} {'abcdefgh'[c] * (9 + i)}"
        for c in range(k)
        for i in range(each)
    ]


# --- what must hold ---------------------------------------------------------------------------------------------------


def test_the_papers_tokens_are_its_reduction() -> None:
    assert round(100 * reduction(5165, 468), 1) == 90.9
    assert reduction(100, 150) == -0.5
    with pytest.raises(InputError, match="got 0"):
        reduction(0, 3)


@pytest.mark.parametrize("writes", [False, True])
def test_the_block_is_bounded_whatever_the_number_of_texts(writes: bool) -> None:
    scribe, k, limit = Scribe(), 4, 80
    rag = ClusteredRAG(
        words, scribe, CRAG(k=k, summary_tokens=limit), None if writes else ExtractiveSummariser(scribe)
    )
    for n in (1, 2, 4, 5, 25, 75):
        block = rag.put(f"{n}", REVIEWS[:n]).block
        assert 0 < scribe.count(block) <= k * (limit + scribe.count(header(n, n, "reviews") + " \n"))


def test_as_few_texts_as_clusters_stand_for_themselves() -> None:
    for n in range(1, 5):
        knowledge = quoting().put("item", SHORT[:n])
        assert sorted(part.text for part in knowledge.parts) == sorted(SHORT[:n])
        assert [part.count for part in knowledge.parts] == [1] * n
    scribe = Scribe()
    assert ClusteredRAG(words, scribe).put("item", SHORT).cost == 0
    assert scribe.asked == []  # a summary of one short text could only lose


def test_the_order_of_the_texts_changes_nothing() -> None:
    blocks, prompts = set(), set()
    for seed in range(4):
        texts = list(REVIEWS[:30] + REVIEWS[:3])
        random.Random(seed).shuffle(texts)
        rag = quoting(summary_tokens=200)
        blocks.add(rag.put("item", texts).block)
        prompts.add(rag.prompt("item", "How is the sound?"))
        scribe = Scribe()
        ClusteredRAG(words, scribe).put("item", texts)
        prompts.add("|".join(scribe.asked))
    assert len(blocks) == 1
    assert len(prompts) == 2


def test_repeated_texts_add_no_cluster() -> None:
    once, often = quoting().put("item", SHORT[:2]), quoting().put("item", [*SHORT[:1] * 9, f" {SHORT[1]}\n"])
    assert {part.text for part in once.parts} == {part.text for part in often.parts} == set(SHORT[:2])
    assert often.block == f"9 of 10 reviews: {SHORT[0]}\n1 of 10 reviews: {SHORT[1]}"
    same = quoting().put("item", ["GOOD SOUND", "good sound", "Good sound"])  # this encoder reads them alike
    assert len(same.parts) == 1


def test_a_summariser_that_does_not_keep_to_the_limit_is_cut() -> None:
    def endless(clusters: Sequence[Members], limit: int) -> list[Summary]:
        return [Summary("word\n" * 500, cost=3) for _ in clusters]

    rag = ClusteredRAG(words, TokenRuler(byte_tokenizer()), CRAG(k=2, summary_tokens=22), endless)
    knowledge = rag.put("item", grouped(2))
    assert [part.text for part in knowledge.parts] == ["word word word word"] * 2
    assert knowledge.cost == 6


def test_a_summariser_gives_one_summary_of_each_cluster() -> None:
    def lazy(clusters: Sequence[Members], limit: int) -> list[Summary]:
        return [Summary("all the same")]

    rag = ClusteredRAG(words, TokenRuler(byte_tokenizer()), CRAG(k=2), lazy)
    with pytest.raises(InputError, match="gave 1 summaries of 2 clusters"):
        rag.put("item", grouped(2))


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_k_means_finds_the_groups_and_no_more_than_there_are() -> None:
    rows = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    for k, found in ((4, 4), (9, 4), (1, 1)):
        clusters = k_means(rows, k)
        assert clusters.k == found
        assert len(np.unique(clusters.labels)) == found
    clusters = k_means(rows, 4)
    np.testing.assert_allclose(clusters.centroids[clusters.labels], rows, atol=1e-6)
    noisy = rows + np.random.default_rng(0).normal(size=rows.shape).astype(np.float32) * 0.05
    labels = k_means(noisy, 4, seed=1).labels.reshape(4, 5)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0].tolist())) == 4
    with pytest.raises(InputError, match="20 vectors cannot be divided into 0"):
        k_means(rows, 0)
    with pytest.raises(InputError, match="0 vectors"):
        k_means(rows[:0], 2)


def test_a_text_weighs_as_often_as_it_is_there() -> None:
    def on_a_circle(texts: Sequence[str]) -> np.ndarray:
        angles = np.deg2rad([{"one": 0, "two": 20, "three": 44}[text] for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1)

    def members(k: int, ones: int) -> list[list[str]]:
        rag = ClusteredRAG(on_a_circle, TokenRuler(byte_tokenizer()), CRAG(k=k))
        names = {text_key(text): text for text in ("one", "two", "three")}
        parts = rag.put("item", [*["one"] * ones, "two", "three"]).parts
        return [[names[key] for key in part.members] for part in parts]

    # squared distances to the centroids: {one, two} .060, {two, three} .086; with nine of the first .109 and .086
    assert sorted(map(sorted, members(2, 1))) == [["one", "two"], ["three"]]
    assert sorted(map(sorted, members(2, 9))) == [["one"], ["three", "two"]]
    assert members(1, 1)[0][0] == "two"  # the nearest to the centroid comes first
    assert members(1, 9)[0][0] == "one"


def test_the_silhouette_finds_the_number_of_groups() -> None:
    assert len(quoting(k="silhouette").put("item", grouped(5)).parts) == 5
    assert len(quoting(k="silhouette").put("item", grouped(3)).parts) == 3
    assert k_by_silhouette(np.eye(2, dtype=np.float32)) == 1


def test_long_texts_do_not_make_a_cluster_of_their_own() -> None:
    # counts of words grow with the text; what the texts are about does not
    texts = [
        f"{word} {'other ' * other}{word} " * many
        for word, other in (("aa", 0), ("bb", 0))
        for many in (1, 2, 90)
    ]
    knowledge = quoting(k=2).put("item", texts)
    assert [part.count for part in knowledge.parts] == [3, 3]


# --- the cache --------------------------------------------------------------------------------------------------------


def test_change_is_what_came_and_went() -> None:
    assert changed({"a": 2, "b": 1}, {"a": 2, "b": 1}) == 0
    assert changed({"a": 2, "b": 2}, {"a": 1, "b": 2, "c": 1}) == 0.5
    assert changed({}, {"a": 1}) == 1


def test_summaries_are_kept_until_more_than_a_tenth_has_changed() -> None:
    embedded: list[str] = []

    def encoder(texts: Sequence[str]) -> np.ndarray:
        embedded.extend(texts)
        return words(texts)

    scribe = Scribe()
    rag = ClusteredRAG(encoder, scribe)
    first = rag.put("item", REVIEWS[:40])
    asked = len(scribe.asked)
    assert rag.put("item", REVIEWS[:44]) is first
    assert rag.put("item", REVIEWS[:44][::-1]) is first
    assert rag.plain_prompt("item", "?").count("- ") == 44  # the texts are the new ones all the same
    assert len(scribe.asked) == asked
    second = rag.put("item", REVIEWS[:45])  # five came since the summaries were made
    assert len(scribe.asked) > asked
    assert second.texts == 45
    assert second.cost > first.cost  # what was paid before is not forgotten
    assert len(embedded) == 45  # each was embedded once


def test_clusters_that_stay_keep_their_summaries() -> None:
    scribe = Scribe()
    rag = ClusteredRAG(words, scribe, CRAG(k=3, summary_tokens=40))
    first = rag.put("item", grouped(3))
    second = rag.put("item", grouped(2) + grouped(4)[18:])  # the third group goes, a fourth comes
    assert len({part.text for part in first.parts} & {part.text for part in second.parts}) == 2
    assert len(scribe.asked) == 4


def test_saved_and_loaded_nothing_is_paid_again(tmp_path: Path) -> None:
    scribe = Scribe()
    rag = ClusteredRAG(words, scribe, CRAG(k="silhouette", hybrid=True, noun="notes"))
    rag.put("a/b ü", REVIEWS[:20])
    rag.put("other", SHORT)
    rag.save(tmp_path / "items")
    again = ClusteredRAG.load(tmp_path / "items", words, fresh := Scribe())
    assert again.settings == rag.settings
    assert again.knowledge("a/b ü") == rag.knowledge("a/b ü")
    assert again.prompt("a/b ü", "How is the sound?") == rag.prompt("a/b ü", "How is the sound?")
    assert again.put("other", SHORT) == rag.knowledge("other")
    assert fresh.asked == []
    quoting().save(tmp_path / "none")
    ClusteredRAG.load(tmp_path / "none", words, fresh)


def test_another_encoder_is_noticed_where_its_vectors_have_another_width(tmp_path: Path) -> None:
    rag = quoting()
    rag.put("item", SHORT)
    rag.save(tmp_path)
    again = ClusteredRAG.load(tmp_path, lambda texts: words(texts)[:, :32], TokenRuler(byte_tokenizer()))
    with pytest.raises(InputError, match=r"'item' was put with \(32 and 64\).*`forget`"):
        again.put("item", [*SHORT, "new sound"])
    assert again.knowledge("item") == rag.knowledge("item")


def test_what_holds_no_items_is_refused(tmp_path: Path) -> None:
    quoting().save(tmp_path)
    content = json.loads((tmp_path / "crag.json").read_text())
    for broken in (
        {**content, "format": 99},
        {**content, "settings": {"unknown": 1}},
        {**content, "items": []},
        [],
    ):
        (tmp_path / "crag.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"format 99|does not hold saved items"):
            ClusteredRAG.load(tmp_path, words, TokenRuler(byte_tokenizer()))
    with pytest.raises(InputError, match="does not hold saved items"):
        ClusteredRAG.load(tmp_path / "nowhere", words, TokenRuler(byte_tokenizer()))


# --- prompts, answers, reports ----------------------------------------------------------------------------------------


def test_the_block_says_shares_and_the_largest_cluster_comes_first() -> None:
    knowledge = quoting(k=2, noun="notes").put("item", [*grouped(1, 2), *grouped(2, 4)[4:]])
    assert [line.partition(":")[0] for line in knowledge.block.splitlines()] == [
        "4 of 6 notes",
        "2 of 6 notes",
    ]


def test_both_ways_ask_alike_and_differ_in_what_they_show() -> None:
    rag = quoting()
    rag.put("item", SHORT)
    plain, clustered = rag.plain_prompt("item", " How? "), rag.prompt("item", " How? ")
    for text in SHORT:
        assert f"- {text}\n" in plain
    assert rag.knowledge("item").block in clustered
    shown = "\n".join(f"- {text}" for text in SHORT)
    assert plain.replace(shown, rag.knowledge("item").block) == clustered
    mine = quoting(prompt="Q: {question} {{sic}}\n{knowledge}")
    mine.put("item", ["{brace} and {question}"])
    assert mine.plain_prompt("item", "How?") == "Q: How? {sic}\n- {brace} and {question}"


def test_the_baseline_retrieves_what_is_nearest_and_hybrid_the_nearest() -> None:
    rag = quoting(hybrid=True, k=1, summary_tokens=20)
    rag.put("item", SHORT)
    assert rag.plain_prompt("item", "was it wet", top=1) == "- arrived wet\n\nwas it wet"
    assert "The nearest of them: arrived wet\n" in rag.prompt("item", "was it wet")
    assert rag.plain_prompt("item", "wet battery", top=99).count("- ") == 4


def test_a_report_counts_prompts_summaries_and_break_even() -> None:
    scribe = Scribe()
    rag = ClusteredRAG(words, scribe, CRAG(summary_tokens=40, answer_tokens=30))
    cost = rag.put("item", REVIEWS[:12]).cost
    read = scribe.asked.copy()
    report = rag.compare("item", ["How is the sound?", "How is it?"])
    assert report.summary_cost == cost
    written = [scribe.count(scribe.cut(p.partition("\n\n")[2], 40)) for p in read]
    assert cost == sum(map(scribe.prompt_tokens, read)) + sum(written)
    for compared in report.comparisons:
        q = compared.question
        assert compared.plain.prompt_tokens == scribe.prompt_tokens(rag.plain_prompt("item", q))
        assert compared.clustered == rag.answer("item", q)
        assert compared.plain == rag.plain_answer("item", q)
    saved = report.plain_tokens - report.clustered_tokens
    assert report.reduction == pytest.approx(saved / report.plain_tokens)
    assert report.break_even == math.ceil(cost / saved)
    assert report.cosine == pytest.approx(1.0)  # this model echoes the question
    counted = rag.compare("item", ["How is the sound?", "How is it?"], answers=False)
    assert (counted.plain_tokens, counted.clustered_tokens) == (report.plain_tokens, report.clustered_tokens)
    assert math.isnan(counted.cosine)


def test_break_even_by_hand() -> None:
    assert break_even(1000, 500, 100) == 3
    assert break_even(0, 500, 100) == 0
    assert break_even(1000, 100, 100) is None


def test_blank_answers_are_not_alike() -> None:
    rag = ClusteredRAG(words, Scribe(says=""), summariser=ExtractiveSummariser(Scribe()))
    rag.put("item", SHORT)
    assert rag.compare("item", ["?"]).cosine == 0


def test_a_real_model_answers_through_generate() -> None:
    chat = ChatModel(tiny_llama(), byte_tokenizer())
    rag = ClusteredRAG(words, chat, CRAG(k=2, summary_tokens=16, answer_tokens=8))
    knowledge = rag.put("item", REVIEWS[:6])
    assert len(knowledge.parts) == 2
    assert knowledge.cost > 0
    answer = rag.answer("item", "How is the sound?")
    assert answer.prompt_tokens == chat.prompt_tokens(rag.prompt("item", "How is the sound?"))
    assert 1 <= answer.new_tokens <= 8


# --- bad input --------------------------------------------------------------------------------------------------------


def test_no_texts_blank_texts_and_half_characters() -> None:
    rag = quoting()
    before = rag.put("item", SHORT)
    for texts, said in (
        ([], "has no reviews"),
        ("good", "reviews of 'item' are one text: put a list"),
        (["fine", " \n"], "Text 1 of 'item' is blank"),
        (["\ud800"], "surrogate"),
    ):
        with pytest.raises(InputError, match=said):
            rag.put("item", texts)
    assert rag.knowledge("item") is before


def test_blank_questions_unknown_items_and_nothing_to_compare() -> None:
    rag = quoting(hybrid=True)
    rag.put("item", SHORT)
    for ask in (rag.prompt, rag.plain_prompt):
        with pytest.raises(InputError, match="question is blank"):
            ask("item", "  ")
        with pytest.raises(UnknownNameError, match="'itm'"):
            ask("itm", "How?")
    with pytest.raises(InputError, match="at least one question"):
        rag.compare("item", [])
    with pytest.raises(InputError, match="at least 1"):
        rag.plain_prompt("item", "How?", top=0)
    rag.forget("item")
    with pytest.raises(UnknownNameError, match="'item'"):
        rag.forget("item")


def test_more_texts_than_the_context_holds() -> None:
    chat = ChatModel(tiny_llama(), byte_tokenizer(), context=900)
    rag = ClusteredRAG(words, chat, CRAG(k=2, summary_tokens=32, answer_tokens=4))
    rag.put("item", REVIEWS[:12])  # summarised in chunks
    assert rag.answer("item", "How is the sound?").new_tokens <= 4
    assert rag.plain_answer("item", "How is the sound?", top=1).new_tokens <= 4
    with pytest.raises(InputError, match=r"context of 900.*smaller `top`"):
        rag.plain_answer("item", "How is the sound?")


def test_a_ruler_answers_nothing_and_says_so() -> None:
    rag = quoting()
    rag.put("item", SHORT)
    with pytest.raises(UnsupportedError, match="TokenRuler counts tokens"):
        rag.answer("item", "How?")


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"prompt": "{question}"},
        {"prompt": "{question} {knowledge} {x}"},
        {"prompt": "{question} {knowledge.x}"},
        {"summary_tokens": 0},
        {"answer_tokens": 0},
        {"relevance": 2.0},
        {"refresh": -0.1},
    ],
)
def test_settings_that_mean_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError, match=re.escape(str(next(iter(wrong.values()))))):
        CRAG(**wrong)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    rag = quoting()
    for part in ("sklearn", "sklearn.cluster", "sklearn.metrics"):
        monkeypatch.setitem(sys.modules, part, None)
    with pytest.raises(UnsupportedError, match=r"scikit-learn.*pip install 'tokenry\[retrieval\]'"):
        rag.put("item", REVIEWS[:20])


# --- with MiniLM ------------------------------------------------------------------------------------------------------


@pytest.mark.packages
def test_minilm_quotes_most_of_what_reviews_speak_of() -> None:
    try:
        encoder = SentenceEncoder.load("minilm")
    except PackageUnavailableError as error:
        pytest.skip(f"MiniLM cannot be had here: {error}")
    ruler = TokenRuler(encoder.tokenizer)
    rag = ClusteredRAG(encoder, ruler)
    knowledge: Knowledge = rag.put("phone", REVIEWS)
    report = rag.compare("phone", ["What do reviewers say about the battery?"], answers=False)
    assert report.reduction > 0.8
    assert report.break_even == 0
    assert len(aspects_in(knowledge.block)) >= 5
    assert knowledge.membership == {text_key(text): 1 for text in REVIEWS}
