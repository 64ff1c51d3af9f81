"""The trie against the plain list of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenry.text.trie import ByteTrie
from tokenry.tokens.errors import InputError

TOKENS = st.lists(
    st.none() | st.text("ab\xff", max_size=5).map(lambda s: s.encode("latin-1")), min_size=1, max_size=30
).filter(any)


@given(tokens=TOKENS, prefix=st.text("ab\xff", max_size=4).map(lambda s: s.encode("latin-1")))
def test_a_prefix_is_one_range(tokens: list[bytes | None], prefix: bytes) -> None:
    trie = ByteTrie.build(tokens)
    lo, hi = trie.range(prefix)
    below = [i for i, token in enumerate(tokens) if token and token.startswith(prefix)]
    assert sorted(trie.order[lo:hi].tolist()) == below
    node = trie.node(prefix)
    assert (node >= 0) == bool(below)
    if node >= 0:
        a, b = trie.ends(node)
        assert sorted(trie.order[a:b].tolist()) == [i for i in below if tokens[i] == prefix]
        following, nodes = trie.children(node)
        assert bytes(following) == bytes(
            sorted({tokens[i][len(prefix)] for i in below if len(tokens[i]) > len(prefix)})
        )
        assert [trie.child(node, int(byte)) for byte in following] == nodes.tolist()
        assert trie.child(node, ord("z")) == -1


@given(
    tokens=TOKENS,
    text=st.text("ab\xff", max_size=12).map(lambda s: s.encode("latin-1")),
    start=st.integers(0, 5),
)
def test_tokens_that_stand_in_a_text(tokens: list[bytes | None], text: bytes, start: int) -> None:
    trie = ByteTrie.build(tokens)
    rest = text[start:]
    here = sorted(((len(t), i) for i, t in enumerate(tokens) if t and rest.startswith(t)))
    assert trie.prefixes(text, start) == [i for _, i in here]
    token, length = trie.longest_prefix(text, start)
    assert length == max((n for n, _ in here), default=0)
    assert token == (min(i for n, i in here if n == length) if here else -1)


@given(tokens=TOKENS)
def test_what_a_node_ends_and_its_children_are_all_below_it(tokens: list[bytes | None]) -> None:
    trie = ByteTrie.build(tokens)
    for node in range(len(trie.lo)):
        lo, hi = trie.span(node)
        at, end = trie.ends(node)
        assert at == lo
        for byte, child in zip(*trie.children(node), strict=True):
            assert trie.child(node, int(byte)) == child
            assert trie.span(int(child))[0] == end
            end = trie.span(int(child))[1]
        assert end == hi


def test_nothing_to_build_from() -> None:
    with pytest.raises(InputError, match="at least one token"):
        ByteTrie.build([None, b""])
