"""Summaries of clusters: maximal marginal relevance by hand, map-reduce, what it costs, limits."""

import numpy as np
import pytest

from tests.embed.retrieval import Scribe, byte_tokenizer, words
from tokenry.embed.chat import TokenRuler
from tokenry.embed.crag.summarise import ExtractiveSummariser, Members, ModelSummariser, marginal_relevance
from tokenry.tokens.errors import InputError, UnsupportedError


def members(*texts: str) -> Members:
    rows = words(texts)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return Members(texts, rows, rows.mean(0))


def test_marginal_relevance_by_hand() -> None:
    angles = np.deg2rad([0, 5, 40, -35])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    centroid, sizes = np.array([2.0, 0.0], np.float32), np.ones(4, np.int64)
    # first 0 degrees; then .7 cos(v, c) - .3 cos(v, first): 5 -> .398, 40 -> .306, -35 -> .328;
    # then, with 5 degrees taken: 40 -> .536 - .3 cos 35 = .290, -35 -> .573 - .3 cos 35 (to the first) = .328
    assert marginal_relevance(vectors, centroid, sizes, limit=4).tolist() == [0, 1, 3, 2]
    # unlikeness alone: the farthest from all that is taken
    assert marginal_relevance(vectors, centroid, sizes, limit=3, relevance=0.0).tolist() == [0, 2, 3]
    assert marginal_relevance(vectors, centroid, np.array([9, 3, 2, 1]), limit=4).tolist() == [0]
    assert marginal_relevance(vectors, centroid, np.array([1, 9, 2, 1]), limit=4).tolist() == [0, 3, 2]


def test_quotes_stay_within_their_tokens_and_whole_where_they_can() -> None:
    summariser = ExtractiveSummariser(TokenRuler(byte_tokenizer()))
    found = members("good loud sound", "good loud sound, indeed", "bad camera")
    assert summariser([found], 30)[0].text == "good loud sound bad camera"
    assert summariser([found], 15)[0].text == "good loud sound"
    assert summariser([found], 12)[0].text == "good loud"  # not even one fits
    assert summariser([found], 12)[0].cost == 0
    with pytest.raises(InputError, match="Relevance"):
        ExtractiveSummariser(TokenRuler(byte_tokenizer()), relevance=1.5)


def test_a_cluster_that_fits_is_one_prompt() -> None:
    scribe = Scribe()
    (summary,) = ModelSummariser(scribe, noun="notes")([members("first note", "second note")], 40)
    assert scribe.asked == ["Summarize the following notes in two sentences.\n\nfirst note\n\nsecond note"]
    assert summary.text == "first note second note"
    assert summary.cost == scribe.prompt_tokens(scribe.asked[0]) + len("first note\n\nsecond note")


def test_what_does_not_fit_is_summarised_in_chunks_and_again() -> None:
    scribe = Scribe(context=400)
    texts = [f"review number {i} says that all of it is well, and more" for i in range(30)]
    summary, other = ModelSummariser(scribe)([members(*texts), members("a", "b")], 50)
    asked = [prompt for prompt in scribe.asked if "number" in prompt]
    first = [p for p in asked if any(t in p for t in texts)]
    assert sum(prompt.count(text) for prompt in first for text in texts) == 30  # each was read, once
    assert len(asked) > len(first)
    assert summary.cost == sum(map(scribe.prompt_tokens, asked)) + sum(
        scribe.count(scribe.cut(p.partition("\n\n")[2], 50)) for p in asked
    )
    assert scribe.count(summary.text) <= 50
    assert other.text == "a b"


def test_a_text_longer_than_the_context_is_read_in_pieces() -> None:
    scribe = Scribe(context=400)
    long = " ".join(f"w{i:03}" for i in range(300))
    (summary,) = ModelSummariser(scribe)([members(long)], 40)
    read = " ".join(prompt.partition("\n\n")[2] for prompt in scribe.asked)
    assert all(f"w{i:03}" in read for i in range(300))
    assert scribe.count(summary.text) <= 40


def test_a_broken_off_sentence_goes_if_a_whole_one_is_there() -> None:
    for says, kept in (
        ("It is good. It is che", "It is good."),
        ("It is good, it is che", "It is good, it is che"),
        ("It is\n good!", "It is good!"),
    ):
        assert ModelSummariser(Scribe(says=says))([members("a", "b")], 40)[0].text == kept


def test_a_context_without_room_and_a_silent_model() -> None:
    with pytest.raises(InputError, match=r"context of 150 tokens is too small for summaries of 64.*Lower"):
        ModelSummariser(Scribe(context=150))([members("a", "b")], 64)
    with pytest.raises(UnsupportedError, match="wrote no summary"):
        ModelSummariser(Scribe(says=" "))([members("a", "b")], 64)
    with pytest.raises(UnsupportedError, match="wrote no summary"):  # of no whole character
        ModelSummariser(Scribe(says="日"))([members("a", "b")], 1)
