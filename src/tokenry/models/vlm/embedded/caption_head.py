"""The joint space of pictures and words that the embedded model's vision tower was trained in.

What CLIP's two projections are to CLIP. The language model does not use it; methods that compare visual tokens with the
text of a question do.
"""

import json
import re
import string
from functools import cache
from pathlib import Path

import torch.nn.functional as F
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor, nn

from tokenry.data.scenes.pack import load_pack
from tokenry.data.scenes.scenes import SIGN_COLOURS, Scene
from tokenry.models.pretrained import embedded_folder
from tokenry.tokens.errors import TokenryError

HEAD_FILE = "caption_head.safetensors"


@cache
def caption_words() -> tuple[str, ...]:
    """The words of captions; the position of a word is its id. Id 0 is padding, letters are those of a sign."""
    letters = tuple(f"letter {letter}" for letter in string.ascii_lowercase)
    return ("<pad>", *(item.name for item in load_pack().objects), *letters, *SIGN_COLOURS)


def caption(scene: Scene) -> list[int]:
    """What a scene shows, as word ids: its objects, its sign's letters and colour."""
    objects = len(load_pack().objects)
    ids = [1 + item.index for item in scene.items]
    if scene.sign:
        ids += [1 + objects + ord(letter) - ord("a") for letter in scene.sign.word]
        ids.append(27 + objects + list(SIGN_COLOURS).index(scene.sign.colour))
    return ids


class CaptionHead(nn.Module):
    """Projections of the tower's vectors and of bags of words into one space.

    Args:
        width: width of the vision tower.
        dimension: width of the joint space.
    """

    def __init__(self, width: int, dimension: int = 128) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(len(caption_words()), width, padding_idx=0)
        self.text = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, dimension))
        self.picture = nn.Linear(width, dimension, bias=False)

    def texts(self, ids: Int[Tensor, "n words"]) -> Float[Tensor, "n dimension"]:
        """Unit vectors of captions: the sum of their words, so that repetition counts, through an MLP."""
        return F.normalize(self.text(self.word_embedding(ids).sum(1)).float(), dim=-1)

    def pictures(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch dimension"]:
        """Unit vectors of the tower's last hidden states after its final layer norm, [CLS] or patches."""
        return F.normalize(self.picture(hidden).float(), dim=-1)

    @staticmethod
    def word_ids(text: str) -> list[int]:
        """Ids of the caption words that a text contains, in the order of the vocabulary; empty if there are none."""
        plain = f" {re.sub(r'[^a-z]+', ' ', text.lower())} "
        found: list[int] = []
        # longest first, so that "hot dog" is not taken for a dog
        for word in sorted(caption_words()[1:], key=len, reverse=True):
            if f" {word} " in plain:
                found.append(caption_words().index(word))
                plain = plain.replace(f" {word} ", " ")
        return sorted(found)


def load_caption_head(folder: Path | None = None) -> CaptionHead:
    """The head that belongs to the shipped vision tower.

    Args:
        folder: where it lies; the shipped weights by default.

    Raises:
        TokenryError: if the file is missing or belongs to another vocabulary.
    """
    path = (folder or embedded_folder()) / HEAD_FILE
    if not path.is_file():
        raise TokenryError(f"{path} is missing: reinstall tokenry, or train the embedded model again.")
    with safe_open(path, framework="pt") as stored:
        if tuple(json.loads(stored.metadata()["words"])) != caption_words():
            raise TokenryError(f"{path} belongs to another picture pack: reinstall tokenry.")
        tensors = {name: stored.get_tensor(name).float() for name in stored.keys()}  # noqa: SIM118
    dimension, width = tensors["picture.weight"].shape
    head = CaptionHead(width, dimension)
    head.load_state_dict(tensors)
    return head.eval()
