"""Octopus v4: templates of queries for each worker, and topics to chat about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

from reproductions.predict.octopus_workers import (
    GENERAL,
)

# worker -> (templates, paraphrases held out); {x} is what is asked for, {e} an emoji, {y} a unit
TEMPLATES: Final[Mapping[str, tuple[Sequence[str], Sequence[str]]]] = MappingProxyType(
    {
        "search_manual_pages": (
            (
                "What does the {x} system call do?",
                "Show me the manual page of {x}.",
                "man {x}",
                "How is {x} described in the Linux manual?",
                "Explain the {x} command on Linux.",
                "What is {x} for, according to its man page?",
                "I forgot what {x} does in a C program on Linux.",
                "Look up {x} in section 2 of the manual.",
            ),
            (
                "Could you tell me the purpose of the syscall {x}?",
                "I need the man entry for {x}, please.",
                "On a Unix machine, what would calling {x} do?",
                "Give me a one-line summary of {x} from the kernel's manual.",
            ),
        ),
        "look_up_python_docs": (
            (
                "What does {x} do in Python?",
                "Show the docstring of {x}.",
                "How do I use {x} from the standard library?",
                "Explain the Python function {x}.",
                "help({x})",
                "What does the Python documentation say on {x}?",
                "Which arguments does Python's {x} take?",
                "I am reading Python code that calls {x}. What is that?",
            ),
            (
                "In a Python script, what happens when I run {x}?",
                "Find me the pydoc text about {x}.",
                "A colleague's module uses {x}; please describe it.",
                "Python standard library: {x}?",
            ),
        ),
        "find_bible_verse": (
            (
                'Which Bible verse says "{x}"?',
                'Find the verse with the words "{x}".',
                'Where in scripture is "{x}" written?',
                "Complete this passage from the Bible: {x} ...",
                'Quote the Bible verse that contains "{x}".',
                'What is the full verse of "{x}"?',
                'I remember "{x}" from the Bible. How does it go on?',
                'Search the gospels and prophets for "{x}".',
            ),
            (
                'My pastor quoted "{x}"; which verse was it?',
                'Look through the Old and the New Testament for "{x}".',
                "Holy Scripture somewhere reads {x}. Please give the whole sentence.",
                'What biblical line includes "{x}"?',
            ),
        ),
        "explain_licence": (
            (
                "What does the {x} licence allow?",
                "Show me the text of the {x} license.",
                "Is {x} approved by the OSI?",
                "Explain the licence {x} to me.",
                "My project is under {x}. What does that mean?",
                "Which software license has the identifier {x}?",
                "May I sell software that is under {x}?",
                "Summarise the terms of {x}.",
            ),
            (
                "We ship a library licensed under {x}; what are our obligations?",
                "What is the full name of SPDX's {x}?",
                "Does {x} count as an open source license?",
                "Read me the legal conditions of {x}.",
            ),
        ),
        "convert_units": (
            (
                "Convert {x} to {y}.",
                "How many {y} are {x}?",
                "What is {x} in {y}?",
                "{x} in {y}",
                "Express {x} in {y}.",
                "I have {x}. How much is that in {y}?",
                "Change {x} into {y}, please.",
                "How much is {x} measured in {y}?",
            ),
            (
                "If something measures {x}, what is it in {y}?",
                "Give me the equivalent of {x} in {y}.",
                "{x} equals how many {y}?",
                "The instructions say {x}, but I think in {y}.",
            ),
        ),
        "name_emoji": (
            (
                "Which emoji shows a {x}?",
                "Give me the {x} emoji.",
                "What is the emoji for {x}?",
                "How is the emoji {e} called?",
                "What does {e} mean?",
                "I want to send a {x} symbol to a friend.",
                "What is {e} called in German?",
                "Show the pictogram of a {x}.",
            ),
            (
                "Name this little picture: {e}",
                "Is there a smiley-like icon of a {x}?",
                "My sister texted me {e}, what is that?",
                "I am looking for a {x} emoji for my message.",
            ),
        ),
        GENERAL: (
            (
                "Tell me a joke about {x}.",
                "Write a short poem about {x}.",
                "Why do people like {x}?",
                "What do you think of {x}?",
                "Give me some advice on {x}.",
                "Help me write an email about {x}.",
                "Explain {x} to a child.",
                "Can you recommend a book on {x}?",
            ),
            (
                "Let's chat about {x}.",
                "Compose a limerick on {x}.",
                "I feel uncertain about {x}, any thoughts?",
                "Describe {x} in one paragraph.",
            ),
        ),
    }
)


# Some are near what the other workers know, so that a word alone does not decide.
TOPICS: Final = (
    "gardening", "the sea", "job interviews", "black holes", "a first date", "cooking pasta", "moving house",
    "friendship", "the Roman Empire", "learning the piano", "early mornings", "long train journeys",
    "democracy", "cheese", "jealousy", "saving money", "winter", "meditation", "volcanoes", "my new neighbours",
    "chess", "photosynthesis", "the moon", "modern art", "raising a puppy", "homework", "running a marathon",
    "old books", "city life", "inflation", "public speaking", "snow", "the French Revolution",
    "a healthy breakfast", "electric cars", "jazz", "small talk", "time management", "dinosaurs",
    "a lost umbrella", "pythons in the jungle", "reading the Bible as literature", "emojis in business letters",
    "living miles away from work", "Linux enthusiasts", "software engineers", "writing user manuals",
    "driving licences", "losing a few pounds", "code reviews", "religious holidays",
    "the history of the metric system", "lawyers", "programming as a career", "pictures of cats",
)  # fmt: skip
