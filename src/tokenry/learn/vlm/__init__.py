"""Training of the embedded vision-language model.

1. *tower*: picture-caption contrast on [CLS] plus a per-patch objective on the layer that the language model reads.
2. *answers*, in several stages: projector and language model learn to answer questions; the tower follows slowly and
   keeps its per-patch objective. Several questions share one picture: they lie behind it in one sequence, each sees the
   picture and itself only and has the positions it would have alone, so the loss is that of separate sequences at a
   fraction of the cost.

Run ``python -m tokenry.learn.vlm recipes/embedded_vlm.yaml``; run it again after an interruption and it continues.
"""

from tokenry.learn.vlm.recipe import Recipe, Stage
from tokenry.learn.vlm.training import build, export, run, validate

__all__ = ["Recipe", "Stage", "build", "export", "run", "validate"]
