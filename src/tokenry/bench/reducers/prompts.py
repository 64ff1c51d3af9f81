"""How an example's question is put: the question as it is, with its options, or in a template of the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tokenry.data.questions.choices import list_choices
from tokenry.data.questions.examples import Example
from tokenry.tokens import InputError

QUESTION = "{question}"
CHOICES = "{choices}"
OPEN = QUESTION
"""The template of a question without options, unless the user says otherwise."""
CLOSED = f"{QUESTION}\n{CHOICES}\nAnswer with the option's letter from the given choices directly."
"""That of a question with options, as LLaVA and those after it were trained on."""


@dataclass(frozen=True)
class Template:
    """A text with ``{question}`` in it and, if wanted, ``{choices}``: the options, one a line.

    Attributes:
        text: the user's; None for `OPEN`, and `CLOSED` for examples with choices. Other braces are left alone.

    Raises:
        InputError: there is no ``{question}`` in the text.
    """

    text: str | None = None

    def __post_init__(self) -> None:
        if self.text is not None and QUESTION not in self.text:
            raise InputError(
                f"A prompt is a text with {QUESTION} in it, where an example's question goes (and {CHOICES} for its "
                f"options); got {self.text[:80]!r}."
            )

    def __str__(self) -> str:
        return self.text or f"{OPEN}; with choices: {CLOSED}"

    def apply(self, example: Example) -> Example:
        """The example with its question as the model is asked it.

        Raises:
            InputError: more choices than letters.
        """
        text = self.text or (CLOSED if example.choices else OPEN)
        parts = {QUESTION: lambda: example.question, CHOICES: lambda: list_choices(example.choices)}
        # In one pass: braces in a question or an option are the user's own.
        asked = re.sub("|".join(map(re.escape, parts)), lambda found: parts[found[0]](), text)
        return replace(example, question=asked)
