"""The trie against the plain list of tokens."""

from __future__ import annotations

import numpy as np
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


@given(tokens=TOKENS, seed=st.integers(0, 1000))
def test_mass_of_the_next_byte(tokens: list[bytes | None], seed: int) -> None:
    trie = ByteTrie.build(tokens)
    mass = np.random.default_rng(seed).random(len(tokens))
    cumulative = np.concatenate([[0.0], np.cumsum(mass[trie.order])])
    for prefix in (b"", b"a", b"ab"):
        node = trie.node(prefix)
        if node < 0:
            continue
        expected = np.zeros(256)
        for i, token in enumerate(tokens):
            if token and token.startswith(prefix) and len(token) > len(prefix):
                expected[token[len(prefix)]] += mass[i]
        np.testing.assert_allclose(trie.next_byte_mass(cumulative, node), expected, atol=1e-12)


def test_nothing_to_build_from() -> None:
    with pytest.raises(InputError, match="at least one token"):
        ByteTrie.build([None, b""])
