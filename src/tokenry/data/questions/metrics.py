"""How an answer is judged: the metrics of visual question answering, by name.

A metric compares what a model said with an example's references and gives a share from 0 (wrong) to 1 (right). All of
them compare texts; none understands negation or doubt ("not a cat" contains "cat").

The command line names the metrics in its help, so importing this module costs nothing: what is heavy is imported by
the metric that needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from tokenry.data.questions.choices import meant, named
from tokenry.data.questions.vqa_answers import normalise_vqa
from tokenry.tokens.errors import InputError

if TYPE_CHECKING:
    from tokenry.data.questions.examples import Example

Rule: TypeAlias = "Callable[[str, Example], float | bool]"
"""(prediction, example) -> 0..1; the example has at least one reference."""

_AGREED: Final = 3
"""People who have to have given an answer for it to count in full."""
_SIMILAR: Final = 0.5
"""Distance, as a share of the longer text, from which on two texts have nothing to do with each other."""


@dataclass(frozen=True)
class Metric:
    """A named rule that scores an answer.

    Attributes:
        name: what identifies it: results scored by metrics of different names are never mixed.
        help: what it counts as right, in one sentence.
        rule: (prediction, example) -> 0..1; asked only about examples with references.
    """

    name: str
    help: str
    rule: Rule

    def score(self, prediction: str, example: Example) -> float:
        """The share of a right answer that a prediction is, from 0 to 1.

        Raises:
            InputError: the rule gave anything else, or cannot judge this example.
        """
        given = self.rule(prediction, example)
        try:
            share = float(given)
        except (TypeError, ValueError):
            share = float("nan")
        if not 0 <= share <= 1:
            raise InputError(
                f"The metric {self.name} gave {given!r} for the answer to {example.id!r}. A score is a number from 0 "
                "(wrong) to 1 (right)."
            )
        return share


def exact(prediction: str, example: Example) -> bool:
    """Whether a prediction equals one of the references, after `normalise_answer`."""
    from tokenry.data.questions.examples import exact_match

    return any(exact_match(prediction, one) for one in example.references)


def contains(prediction: str, example: Example) -> bool:
    """Whether one of the references stands in a prediction as whole words, both after `normalise_answer`.

    Words end where Unicode's default boundaries (UAX 29) are: "3" is no part of "3.5" or "1,300", and scripts without
    spaces are compared character by character.
    """
    import regex

    from tokenry.data.questions.examples import normalise_answer

    said = normalise_answer(prediction)
    references = [normalise_answer(one) for one in example.references]
    return any(
        regex.search(rf"(?w)\b{regex.escape(one)}\b", said) is not None if one else not said
        for one in references
    )


def vqa(prediction: str, example: Example) -> float:
    """Consensus accuracy of VQA v2 (arXiv 1505.00468): right in full where three people said so.

    min(how many of the others said it / 3, 1), averaged over leaving out each of the people once; answers count as
    often as the example has them. It is defined for ten. Of two or three people the others are fewer than three: all of
    them have to agree. Where there is one answer nobody is left to agree, and the prediction has to equal it. Spellings
    of one truth, each given once, are no consensus: use `exact` or `anls` there.
    """
    said = normalise_vqa(prediction)
    same = [normalise_vqa(one) == said for one in example.answers or example.references]
    if len(same) == 1:
        return float(same[0])
    needed = min(_AGREED, len(same) - 1)
    return sum(min((sum(same) - one) / needed, 1.0) for one in same) / len(same)


def anls(prediction: str, example: Example) -> float:
    """Average normalised Levenshtein similarity (Biten et al., arXiv 1905.13648); the best of the references counts.

    1 - edits / length of the longer text, in lower case and with single spaces; 0 from half of the length on.
    """
    from rapidfuzz.distance import Levenshtein

    def similarity(reference: str) -> float:
        distance = Levenshtein.normalized_distance(_spaced(prediction), _spaced(reference))
        return 1 - distance if distance < _SIMILAR else 0.0

    return max(map(similarity, example.references))


def multiple_choice(prediction: str, example: Example) -> bool:
    """Whether a prediction names the right option and no other, by letter or by text (`choices.named`).

    A reference is a letter, an option's text, or an index from 0. Where the example lists no choices - they stand in
    its question -, letters are all there is to go by.

    Raises:
        InputError: the reference names no option.
    """
    right = {meant(one, example.choices) for one in example.references}
    found = named(prediction, example.choices)
    return len(found) == 1 and found <= right


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        name: Metric(name, help, rule)
        for name, help, rule in (
            (
                "exact",
                "equals a reference, but for case, spaces, outer punctuation and a leading article",
                exact,
            ),
            ("contains", "a reference occurs in the answer as whole words", contains),
            ("vqa", "agreement with several people's answers, as VQA v2 and TextVQA count it", vqa),
            ("anls", "similarity by edit distance, as DocVQA counts it; nothing below one half", anls),
            (
                "multiple-choice",
                "names the right option, by letter or by text, and no other",
                multiple_choice,
            ),
        )
    }
)
"""The metrics that have names."""
