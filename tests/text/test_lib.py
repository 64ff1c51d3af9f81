"""LiB: the specification's examples, the ranked lexicon, and both rules of segmentation against brute force."""

from __future__ import annotations

import random
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tokenry.text.kinds import train
from tokenry.text.lib.learning import Lexicon, Lib, Reader, fit, train_lib
from tokenry.text.lib.ranked import RankedLexicon
from tokenry.text.vocabulary import ByteVocab
from tokenry.tokens.errors import InputError

EXAMPLE = ("ab", "abc", "cd", "a", "b", "c", "d")


# --- the specification's example --------------------------------------------------------------------------------------


def test_the_path_with_the_smaller_sum_of_ranks_wins() -> None:
    assert Lexicon(EXAMPLE).segment("abcd") == ["ab", "cd"]  # [abc, d] has ranks 1 + 6, [ab, cd] 0 + 2


def test_fewer_chunks_win_before_ranks() -> None:
    # "abc|d" against "ab|cd|"; with "abcd" itself in the lexicon, one chunk of the worst rank wins.
    assert Lexicon((*EXAMPLE, "abcd")).segment("abcd") == ["abcd"]


def test_the_longest_match_is_taken_where_it_is_the_only_one() -> None:
    assert Lexicon(("xyz",)).segment("xyz!") == ["xyz", "!"]  # as coded by the authors: x, y, z


def test_a_comparison_is_rewarded_only_if_the_sentence_goes_on() -> None:
    reader = Reader(Lib(in_rate=0.0), EXAMPLE)
    reader.read("abcd")
    assert reader.rewards == []
    reader.read("abcda")
    assert reader.rewards == [("ab", -1), ("abc", 1)]
    reader.lexicon.rerank(reader.rewards, rate=0.1)
    assert list(reader.lexicon) == ["ab", "cd", "abc", "a", "b", "c", "d"]


# --- reading ----------------------------------------------------------------------------------------------------------


def test_without_memorising_pairs_only_characters_are_learned(texts: tuple[str, ...]) -> None:
    # A character that comes back in its old context is read as part of a longer chunk, which is memorising, too.
    lexicon = Lib(in_rate=0.0, inspect_context=False, article=20).learn(texts[1:2])
    assert lexicon.chunks
    assert {len(chunk) for chunk in lexicon.chunks} == {1}


def test_a_new_character_is_memorised_with_its_context() -> None:
    reader = Reader(Lib(in_rate=0.0), ("ab", "cd"))
    reader.read("abxcd")
    assert reader.probation["x"].context == ("ab", "cd")
    reader.read("abx")  # the same neighbour: "x" is part of something longer
    assert "abx" in reader.lexicon
    assert "x" in reader.probation
    reader.read("cdxx")  # other neighbours: it stands by itself
    assert "x" not in reader.probation


def test_the_same_seed_gives_the_same_lexicon(texts: tuple[str, ...]) -> None:
    first, again, other = (Lib(seed=seed, article=20).learn(texts[1:2]) for seed in (0, 0, 1))
    assert first == again != other


def test_what_does_not_come_back_is_forgotten() -> None:
    reader = Reader(Lib(in_rate=0.0, life=2))
    reader.read("q")
    assert "q" in reader.lexicon
    reader.update()
    reader.read("z")
    reader.update()
    assert "q" not in reader.lexicon
    assert "z" in reader.lexicon
    assert set(reader.probation) == {"z"}


def test_a_chunk_that_comes_back_in_its_old_context_is_read_as_part_of_a_longer_one() -> None:
    reader = Reader(Lib(in_rate=0.0), ("x", "y", "z"))
    reader.memorise("xy", ("", "z"))
    reader.read("xyz")
    assert "xyz" in reader.lexicon
    assert "xy" in reader.probation  # (it is rewarded all the same, for being shorter than x|y)


def test_a_chunk_that_comes_back_in_a_new_context_has_passed() -> None:
    reader = Reader(Lib(in_rate=0.0), ("x", "y", "z"))
    reader.memorise("xy", ("z", "z"))
    reader.read("xy")
    assert "xy" not in reader.probation
    assert reader.rewards == [("xy", -1)]


def test_chunks_are_no_longer_than_asked(texts: tuple[str, ...]) -> None:
    lexicon = Lib(max_chunk_length=4, article=20).learn(texts[1:2])
    assert max(map(len, lexicon.chunks)) == 4


def test_it_learns_words_and_phrases() -> None:
    draw = random.Random(0)
    words = ("the cat", "the dog", "sees", "hears", "a mouse", "no one", "and then", "at night")
    text = "\n".join(" ".join(draw.choices(words, k=8)) for _ in range(600))
    lexicon = Lib(article=20).learn([text])
    cut = lexicon.segment("the cat sees no one and then the dog hears a mouse")
    assert len(cut) <= 9  # ten words and a half: less than one chunk a word
    assert any(" " in chunk.strip() for chunk in lexicon.chunks[:40])


# --- the ranked lexicon -----------------------------------------------------------------------------------------------


def _consistent(lexicon: RankedLexicon, text: str) -> None:
    """List, ranks and trie say the same."""
    chunks = list(lexicon)
    assert len(set(chunks)) == len(chunks) == len(lexicon)
    assert [lexicon.rank(chunk) for chunk in chunks] == list(range(len(chunks)))
    for start in range(len(text)):
        lengths = sorted(len(c) for c in chunks if text.startswith(c, start))
        small, big = ([0, 0, *lengths])[-2:]
        assert lexicon.two_longest(text, start) == (small, big)


@pytest.mark.parametrize("seed", range(3))
def test_a_thousand_random_changes_keep_it_consistent(seed: int) -> None:
    draw = random.Random(seed)
    lexicon = RankedLexicon()
    for _ in range(1000):
        chunk = "".join(draw.choices("abc", k=draw.randint(1, 5)))
        known = list(lexicon) or ["a"]
        match draw.randrange(4):
            case 0 | 1:
                lexicon.append(chunk)
            case 2:
                lexicon.forget([draw.choice(known), chunk])
            case 3:
                lexicon.rerank([(draw.choice(known), draw.choice((-1, 1))) for _ in range(5)], 0.1)
        _consistent(lexicon, "".join(draw.choices("abc", k=12)))


@settings(deadline=None)
@given(
    st.integers(2, 600),
    st.lists(st.tuples(st.integers(0, 620), st.sampled_from((-1, 1))), max_size=40),
    st.floats(0, 1),
)
def test_moving_in_blocks_is_moving_in_a_list(size: int, moves: list[tuple[int, int]], rate: float) -> None:
    plain = [str(i) for i in range(size)]
    lexicon = RankedLexicon(plain)
    rewards = [(str(i), sign) for i, sign in moves]
    lexicon.rerank(rewards, rate)
    last = size - 1
    for chunk, sign in rewards:
        if chunk not in plain or (rank := plain.index(chunk)) == 0:
            continue
        del plain[rank]
        target = max(0, rank + sign * (int(rank * rate) + 1))
        if target <= last:
            plain.insert(target, chunk)
        else:
            last -= 1
    assert list(lexicon) == plain
    _consistent(lexicon, "12")


# --- segmentation and its export --------------------------------------------------------------------------------------

chunk_lists = st.lists(st.from_regex(r"[abé ]{0,3}[abé \n]", fullmatch=True), unique=True, max_size=30)
written = st.text("abcé \n€", max_size=30)


def _cost(lexicon: Lexicon, chunks: list[str]) -> tuple[int, int]:
    """Chunks and sum of ranks; a character outside the lexicon is one chunk of the worst rank."""
    rank = {chunk: i for i, chunk in enumerate(lexicon.chunks)}
    return len(chunks), sum(rank.get(chunk, len(rank)) for chunk in chunks)


def _best(lexicon: Lexicon, text: str) -> tuple[int, int]:
    """Cost of the best of all ways to cut a text, by dynamic programming."""
    rank = {chunk: i for i, chunk in enumerate(lexicon.chunks)}
    best = [(0, 0)]
    for end in range(1, len(text) + 1):
        known = ((start, text[start:end]) for start in range(end))
        ways = [(s, rank.get(c, len(rank))) for s, c in known if c in rank or len(c) == 1]
        best.append(min((best[s][0] + 1, best[s][1] + r) for s, r in ways))
    return best[-1]


def _pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """What a text is cut into, bytes of one character taken together."""
    spans = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    ends = sorted({0, *(start for start, _ in spans), len(text)})
    return [text[a:b] for a, b in pairwise(ends)]


@settings(deadline=None)
@given(chunk_lists, written)
def test_segments_are_the_text(chunks: list[str], text: str) -> None:
    lexicon = Lexicon(tuple(chunks))
    cut = lexicon.segment(text)
    assert "".join(cut) == text
    assert all(chunk in lexicon.chunks or len(chunk) == 1 for chunk in cut)


@settings(deadline=None)
@given(chunk_lists, written)
def test_the_tokenizer_finds_the_best_of_all_ways(chunks: list[str], text: str) -> None:
    lexicon = Lexicon(tuple(chunks))
    tokenizer = lexicon.tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert _cost(lexicon, _pieces(tokenizer, text)) == _best(lexicon, text)
    assert _best(lexicon, text) <= _cost(lexicon, lexicon.segment(text))


def test_the_two_rules_differ_where_the_third_longest_match_is_best() -> None:
    """The paper's rule looks at two ways; the tokenizer at all of them."""
    lexicon = Lexicon(("a", "ab", "abc", "bcdef"))
    assert lexicon.segment("abcdef") == ["abc", "d", "e", "f"]
    assert _pieces(lexicon.tokenizer(), "abcdef") == ["a", "bcdef"]


@settings(deadline=None)
@given(chunk_lists, written)
def test_the_other_tokenizer_takes_the_longest_match(chunks: list[str], text: str) -> None:
    lexicon = Lexicon(tuple(chunks))
    tokenizer = lexicon.tokenizer(rule="longest")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    ranked, at, expected = RankedLexicon(lexicon.chunks), 0, []
    while at < len(text):
        line = text.find("\n", at) + 1 or len(text)
        size = ranked.longest(text[at:line]) or 1
        expected.append(text[at : at + size])
        at += size
    assert _pieces(tokenizer, text) == expected


def test_a_long_line_is_cut_by_the_longest_match_in_no_time() -> None:
    tokenizer = Lexicon(("a", "ab", "abcd", "€b", " (a|b)*")).tokenizer(rule="longest")
    line = "abc€b(ab*€ (a|b)*abcd" * 4000  # the model alone: minutes
    started = time.process_time()
    cut = _pieces(tokenizer, line)
    assert time.process_time() - started < 20
    assert cut == ["ab", "c", "€b", "(", "ab", "*", "€", " (a|b)*", "abcd"] * 4000


def test_ids_are_bytes_then_ranks_then_special_tokens() -> None:
    tokenizer = Lexicon(("the ", "q", "é")).tokenizer(special_tokens=("<s>", "<p>"))
    assert tokenizer.convert_tokens_to_ids(["Ā", "theĠ", "Ã©", "<s>", "<p>"]) == [0, 256, 257, 258, 259]
    assert tokenizer.encode("the q") == [256, ord("q")]
    vocab = ByteVocab.from_tokenizer(tokenizer)
    data = b"the \xff\xfe <s> \xc3"
    assert vocab.decode(vocab.encode(data)) == data
    assert not set(vocab.encode(data)) & {258, 259}


def test_a_chunk_is_split_into_parts_of_better_rank() -> None:
    lexicon = Lexicon(("ab", "cd", "a", "abcd", "b"))
    assert lexicon.split("abcd") == ("ab", "cd")
    assert lexicon.split("ab") == ("ab",)  # its parts have worse ranks
    assert Lexicon(("a", "b", "ab", "c", "d", "cd", "abcd")).split("abcd") == ("a", "b", "c", "d")
    assert Lexicon(("a", "b", "ab", "c", "d", "cd", "abcd")).split("abcd", levels=1) == ("ab", "cd")


def test_efficiency_is_length_over_bits() -> None:
    assert Lexicon(("ab", "c", "d", "e")).efficiency(["abab"]) == pytest.approx(2 / 2)
    for chunks, texts in ((("ab", "c"), [""]), (("ab",), ["ab"])):
        with pytest.raises(InputError, match="at least two chunks"):
            Lexicon(chunks).efficiency(texts)


# --- training to a size -----------------------------------------------------------------------------------------------


def test_fitting_keeps_the_best_and_counts_no_byte_twice() -> None:
    lexicon = Lexicon(("ab", "x", "é", "cd", "ef"))
    assert fit(lexicon, 2).chunks == ("ab", "x", "é")
    with pytest.raises(InputError, match=r"Only 5 chunks.*2 too few"):
        fit(lexicon, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"in_rate": 1.5}, "in_rate is 1.5; it is a share"),
        ({"life": 0}, "life is 0; it is at least 1"),
        ({"max_chunk_length": 0}, "max_chunk_length is 0"),
        ({"alpha": 0.25}, "its settings: in_rate"),
    ],
)
def test_settings_that_mean_nothing_are_told(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_lib(["some text"], 300, **settings)


def test_what_the_error_advises_can_be_done_by_name(texts: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match=r"raise `passes` or `in_rate`"):
        train("lib", ["some text"], 300)
    corpus, settings = [texts[1][:6000]], {"passes": 2, "in_rate": 0.5, "article": 20}
    by_name = train("lib", corpus, 300, **settings)
    assert by_name.get_vocab() == train_lib(corpus, 300, **settings).get_vocab()
    with pytest.raises(InputError, match=r"LiB has no setting passses; its settings: .*in_rate.*passes"):
        train("lib", corpus, 300, passses=2)


def test_too_little_text_is_told() -> None:
    with pytest.raises(InputError, match=r"Only .* chunks were learned"):
        train_lib(["some text"], 300)
    with pytest.raises(InputError, match="no text"):
        train_lib([], 300)


def test_a_lexicon_with_a_chunk_twice_is_refused() -> None:
    with pytest.raises(InputError, match="twice"):
        Lexicon(("a", "a"))
