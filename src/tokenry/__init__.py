"""tokenry: everything that happens to a token.

The main job in five lines::

    import tokenry as tk

    with tk.reduced(model, "fastervlm", budget=64) as run:
        ids = model.generate(**inputs)
    print(run.cost)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens import moved
from tokenry.tokens.faces import lazy

if TYPE_CHECKING:
    from tokenry import text as text
    from tokenry.bench.reducers.compare import compare as compare
    from tokenry.bench.reducers.tune import tune as tune
    from tokenry.models import load_embedded as load_embedded
    from tokenry.predict.lm.generate import decoder as decoder
    from tokenry.predict.lm.generate import generate as generate
    from tokenry.reduce import Reducer as Reducer
    from tokenry.reduce import Scorer as Scorer
    from tokenry.reduce import method as method
    from tokenry.reduce import methods as methods
    from tokenry.reduce.check import check as check
    from tokenry.reduce.session import reduced as reduced
    from tokenry.text.transplant import transplant as transplant
    from tokenry.tokens import Budget as Budget
    from tokenry.tokens import DenseReduction as DenseReduction
    from tokenry.tokens import Positions as Positions
    from tokenry.tokens import Reduction as Reduction
    from tokenry.tokens import TokenryError as TokenryError
    from tokenry.tokens import TokenView as TokenView

__version__ = "0.1.0"

# Loaded on first use: `import tokenry` must not cost what it does not need.
_HOME = {
    "reduced": "reduce.session",
    "check": "reduce.check",
    "decoder": "predict.lm.generate",
    "generate": "predict.lm.generate",
    "compare": "bench",
    "tune": "bench",
    "load_embedded": "models.vlm.embedded",
    "transplant": "text.transplant",
    "method": "reduce",
    "methods": "reduce",
    "Reducer": "reduce",
    "Scorer": "reduce",
    "Budget": "tokens",
    "DenseReduction": "tokens",
    "Positions": "tokens",
    "Reduction": "tokens",
    "TokenView": "tokens",
    "TokenryError": "tokens",
}

_ROOMS = ("text",)

__all__ = sorted([*_HOME, *_ROOMS, "__version__"])

__getattr__, __dir__ = lazy(__name__, _HOME, _ROOMS)

moved.install()
