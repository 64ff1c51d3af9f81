"""Answers as the VQA evaluation compares them (arXiv 1505.00468; https://visualqa.org/evaluation.html).

Written from the description of the evaluation. Where the published script does otherwise in odd cases (with a comma
between digits anywhere, it closes up every other mark in the answer, too), the description is followed.
"""

from __future__ import annotations

import re
from itertools import product
from typing import Final

_ARTICLES: Final = frozenset({"a", "an", "the"})
_NUMBERS: Final = {
    name: str(number)
    for number, name in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
} | {"none": "0"}
_CONTRACTIONS: Final = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's i'd've i'm i've isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't
    must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's
    there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't
    what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Those that are no other word without their apostrophes ("its", "well" and "ill" are)."""


def _misspelt(contraction: str) -> set[str]:
    """A contraction with some or all of its apostrophes left out."""
    first, *parts = contraction.split("'")
    ways = product(("'", ""), repeat=len(parts))
    return {first + "".join(mark + part for mark, part in zip(marks, parts, strict=True)) for marks in ways}


_SPELT: Final = {wrong: right for right in _CONTRACTIONS.split() for wrong in _misspelt(right)}
_BETWEEN_DIGITS: Final = re.compile(r"(?<=\d),(?=\d)")
_PERIOD: Final = re.compile(r"\.(?!\d)")
_MARKS: Final = re.compile(r"""[;/\[\]"{}()=+\\_\-><@`,?!]""")


def normalise_vqa(text: str) -> str:
    """An answer in lower case, with digits for number words, apostrophes in contractions, and no articles or marks.

    Commas between digits are closed up ("1,000"), other marks become spaces; periods go, but for decimal points;
    apostrophes and colons ("girl's", "2:50") stay, as do signs such as $ and %. An answer that is nothing but an
    article - the option "a" - stays what it is.
    """
    text = _BETWEEN_DIGITS.sub("", text.lower().replace("’", "'"))
    words = _MARKS.sub(" ", _PERIOD.sub("", text)).split()
    kept = [word for word in words if word not in _ARTICLES] or words
    return " ".join(_SPELT.get(found := _NUMBERS.get(word, word), found) for word in kept)
