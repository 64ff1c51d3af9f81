"""The settings of the phases of the small LLaVA's training."""

from dataclasses import dataclass, field

from tokenry.models.vlm.answering import Shortening
from tokenry.train.phases import Phase
from tokenry.train.settings import LoopSettings


@dataclass(frozen=True)
class AlignSettings:
    """The projector alone.

    Attributes:
        batch: patches that show something, a step; a third as many of the background come along.
        loop: schedule and optimiser.
        layer: blocks of the language model behind whose states patches are brought to.
        place_weight: of saying where a patch is.
    """

    batch: int
    loop: LoopSettings
    layer: int = 3
    place_weight: float = 0.5

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, options={"settings": self})


@dataclass(frozen=True)
class AnswerSettings:
    """Projector and adapter.

    Attributes:
        batch: pictures a step.
        loop: schedule and optimiser.
        captions: how many of the lists of what a picture shows, asked for in different ways, come with each.
        questions: of different kinds asked about each picture.
        drill: rounds of further questions that mention objects by name, the hardest to learn.
        naming_weight: of the loss by which the language model must name, where a visual token stands, what it shows.
        fade: whether this weight goes down to zero over the phase.
        shortening: how much of what is seen is taken away.
    """

    batch: int
    loop: LoopSettings
    captions: int = 0
    questions: int = 7
    drill: int = 0
    naming_weight: float = 0.0
    fade: bool = False
    shortening: Shortening = field(default_factory=Shortening)

    def phase(self, name: str) -> Phase:
        """The phase of the training loop, whose objective takes these settings as its option."""
        return Phase(name=name, loop=self.loop, options={"settings": self})

    def left(self, step: int) -> float:
        """Share of the naming loss's weight at a step."""
        return 1 - step / self.loop.steps if self.fade else 1.0
