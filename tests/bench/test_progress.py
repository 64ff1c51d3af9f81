"""The progress bar of comparisons: how far it is, and silence where it is not shown."""

from __future__ import annotations

import pytest

from tokenry.bench.progress import progress_bar


def test_a_bar_says_how_far_it_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("decoding", shown=True) as bar:
        bar.at(0, 12)
        bar.advance(3)
        bar.at(9, 12)
        bar.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert "decoding" in err
    assert "10/12" in err


def test_a_bar_that_is_not_shown_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("decoding", shown=False) as bar:
        bar.at(1, 2)
        bar.advance()
    assert capsys.readouterr() == ("", "")
