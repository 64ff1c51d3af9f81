"""Product reviews from templates: many short texts about one item, of which it is known what they say."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, get_args

from tokenry.tokens.errors import InputError

Aspect = Literal["battery", "screen", "sound", "camera", "price", "delivery"]
ASPECTS: Final[tuple[Aspect, ...]] = get_args(Aspect)

# aspect -> what is said of it if it is good, and if it is bad
_SAID: Final[Mapping[Aspect, tuple[tuple[str, ...], tuple[str, ...]]]] = MappingProxyType(
    {
        "battery": (
            (
                "The battery easily lasts {days} days.",
                "One charge keeps it going for {hours} hours, which is more than I need.",
                "I am impressed by the battery, it never let me down on a trip.",
                "It charges fully within an hour and stays charged.",
            ),
            (
                "The battery is empty after {hours} hours.",
                "I have to charge it every evening, and sometimes at noon too.",
                "The battery got weak within {days} weeks and now dies without warning.",
                "Battery life is the worst I have seen in years.",
            ),
        ),
        "screen": (
            (
                "The screen is bright and sharp, even outdoors.",
                "I love the display, the colours look natural.",
                "Text on the screen is crisp and my eyes do not get tired.",
                "The display reacts to every touch at once.",
            ),
            (
                "The screen is so dim that I cannot read it in the sun.",
                "My display had {days} dead pixels when I unpacked it.",
                "The screen scratches if you only look at it.",
                "The display flickers at low brightness and gives me a headache.",
            ),
        ),
        "sound": (
            (
                "The sound is full and clear, and the speaker gets loud enough for a party.",
                "Music sounds great, with a deep bass.",
                "Voices come out of the speaker clearly during calls.",
                "I did not expect such rich sound from something so small.",
            ),
            (
                "The sound is thin and tinny.",
                "The speaker rattles as soon as I turn the volume above half.",
                "Music sounds as if it came out of a bucket.",
                "On calls the sound keeps cutting out.",
            ),
        ),
        "camera": (
            (
                "The camera takes lovely pictures, at night as well.",
                "My photos have never looked so good.",
                "The camera focuses fast and catches my children running.",
                "Videos from the camera are steady and detailed.",
            ),
            (
                "The camera is a disappointment, every picture is blurred.",
                "Photos taken indoors are full of noise.",
                "The camera needs {days} seconds to start, and the moment is gone.",
                "Pictures have a yellow tint that I cannot get rid of.",
            ),
        ),
        "price": (
            (
                "For this price you will not find anything better.",
                "It was cheap, I paid less than {hours} dollars.",
                "Good value for the money.",
                "I got it at half the price of the big brands and miss nothing.",
            ),
            (
                "It is far too expensive for what you get.",
                "At this price I expected more.",
                "Not worth the money, I want a refund.",
                "The price went down by {hours} dollars the week after I bought it.",
            ),
        ),
        "delivery": (
            (
                "Delivery took only {days} days and the parcel was well packed.",
                "It arrived a day early.",
                "Shipping was fast and free.",
                "The courier was friendly and the box came undamaged.",
            ),
            (
                "Delivery took {days} weeks and nobody answered my mails.",
                "The parcel arrived crushed and wet.",
                "Shipping cost extra and was late anyway.",
                "The courier left the box in the rain.",
            ),
        ),
    }
)
_WORDS: Final[Mapping[Aspect, str]] = MappingProxyType(
    {
        "battery": r"batter|charg",
        "screen": r"screen|display",
        "sound": r"sound|speaker|music|bass",
        "camera": r"camera|photo|picture|video",
        "price": r"pric|money|cheap|expensive|dollar|refund|value",
        "delivery": r"deliver|shipp|parcel|courier|arriv|packag",
    }
)
_OPENINGS: Final = (
    "Bought this for my {who} in {month}.",
    "I have been using it every day for {days} months now.",
    "My {who} recommended this one to me.",
    "After my old one broke I ordered this in {month}.",
    "I read many reviews before I decided on this model.",
    "This is my second one of this brand.",
)
_CLOSINGS: Final = (
    "I would buy it again.",
    "I am still not sure whether I will keep it.",
    "My {who} says the same.",
    "Hope this helps somebody.",
    "That is my honest opinion after {days} weeks.",
    "Read the manual first, it saves you trouble.",
)
_WHO: Final = ("daughter", "father", "neighbour", "husband", "wife", "boss", "sister", "colleague")
_MONTHS: Final = ("January", "March", "May", "July", "October", "December")


@dataclass(frozen=True)
class Review:
    """One review.

    Attributes:
        text: Three to six sentences.
        opinions: Aspect -> whether the review finds it good; only those it speaks of.
    """

    text: str
    opinions: Mapping[Aspect, bool]


def product_reviews(n: int, seed: int = 0) -> tuple[Review, ...]:
    """Make reviews of one product: each speaks of two to four of six aspects, in one of several wordings.

    Opinions on an aspect lean the same way from review to review (the share of good ones is drawn for the product), so
    that there is something to sum up. The first reviews of a longer series are those of a shorter one.

    Args:
        n: How many.
        seed: Which product.

    Raises:
        InputError: If n is negative.
    """
    if n < 0:
        raise InputError(f"The number of reviews cannot be negative, got {n}")
    draw = random.Random(seed)
    goodness = {aspect: draw.choice((0.15, 0.5, 0.85)) for aspect in ASPECTS}
    return tuple(_review(draw, goodness) for _ in range(n))


def aspects_in(text: str) -> frozenset[Aspect]:
    """The aspects a text speaks of, by their words ("battery", "charge"; "screen", "display" ...)."""
    return frozenset(aspect for aspect, words in _WORDS.items() if re.search(words, text.lower()))


def _review(draw: random.Random, goodness: Mapping[Aspect, float]) -> Review:
    about = draw.sample(ASPECTS, draw.randint(2, 4))
    opinions: dict[Aspect, bool] = {aspect: draw.random() < goodness[aspect] for aspect in about}
    said = [draw.choice(_SAID[aspect][0 if good else 1]) for aspect, good in opinions.items()]
    sentences = [draw.choice(_OPENINGS), *said, draw.choice(_CLOSINGS)]
    if draw.random() < 0.3:
        sentences = sentences[1:]  # some come to the point
    filled = (
        sentence.format(
            days=draw.randint(2, 6),
            hours=draw.choice((3, 8, 12, 20, 30)),
            who=draw.choice(_WHO),
            month=draw.choice(_MONTHS),
        )
        for sentence in sentences
    )
    return Review(" ".join(filled), MappingProxyType(opinions))
