"""The settings of the phases of the small LLaVA's training."""

from dataclasses import dataclass

from tokenry.models.vlm.learning import AnswerSettings
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
class RealAnswerSettings(AnswerSettings):
    """Projector and adapter.

    Attributes:
        captions: how many of the lists of what a picture shows, asked for in different ways, come with each.
    """

    captions: int = 0
