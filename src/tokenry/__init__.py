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
from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry import bench as bench
    from tokenry import catalog as catalog
    from tokenry import codecs as codecs
    from tokenry import data as data
    from tokenry import embed as embed
    from tokenry import hosts as hosts
    from tokenry import learn as learn
    from tokenry import models as models
    from tokenry import predict as predict
    from tokenry import reduce as reduce
    from tokenry import text as text
    from tokenry import tokens as tokens
    from tokenry import train as train
    from tokenry.bench.reducers.compare import compare as compare
    from tokenry.bench.reducers.tune import tune as tune
    from tokenry.catalog import get as get
    from tokenry.catalog import info as info
    from tokenry.catalog import systems as systems
    from tokenry.models.load import load as load
    from tokenry.predict.lm.generate import decoder as decoder
    from tokenry.predict.lm.generate import generate as generate
    from tokenry.reduce.base import Reducer as Reducer
    from tokenry.reduce.base import Scorer as Scorer
    from tokenry.reduce.check import check as check
    from tokenry.reduce.registry import reducer as reducer
    from tokenry.reduce.registry import reducers as reducers
    from tokenry.reduce.session import reduced as reduced
    from tokenry.text.transplant.apply import transplant as transplant
    from tokenry.tokens import Budget as Budget
    from tokenry.tokens import DenseReduction as DenseReduction
    from tokenry.tokens import Positions as Positions
    from tokenry.tokens import Reduction as Reduction
    from tokenry.tokens import TokenView as TokenView
    from tokenry.tokens.errors import BudgetError as BudgetError
    from tokenry.tokens.errors import InputError as InputError
    from tokenry.tokens.errors import ReductionError as ReductionError
    from tokenry.tokens.errors import TokenryError as TokenryError
    from tokenry.tokens.errors import UnknownNameError as UnknownNameError
    from tokenry.tokens.errors import UnsupportedError as UnsupportedError

__version__ = "0.1.0"

_MOVED = {
    "load_embedded": "models.load:load_embedded",
    "method": "reducer",
    "methods": "reducers",
}

# Loaded on first use: `import tokenry` must not cost what it does not need.
__getattr__, __dir__, __all__ = face(__name__, moved=_MOVED)

moved.install()
