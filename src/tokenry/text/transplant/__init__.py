"""Moving a model to another vocabulary: plans, the methods that fill new rows, and putting the rows into a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenry.tokens.faces import face

if TYPE_CHECKING:
    from tokenry.text.transplant.apply import Transplanted as Transplanted
    from tokenry.text.transplant.apply import save_transplanted as save_transplanted
    from tokenry.text.transplant.apply import transplant as transplant
    from tokenry.text.transplant.base import Context as Context
    from tokenry.text.transplant.base import Donor as Donor
    from tokenry.text.transplant.base import Mixing as Mixing
    from tokenry.text.transplant.base import Mixture as Mixture
    from tokenry.text.transplant.base import Mixtures as Mixtures
    from tokenry.text.transplant.base import Rows as Rows
    from tokenry.text.transplant.base import Transplant as Transplant
    from tokenry.text.transplant.plan import TransplantPlan as TransplantPlan
    from tokenry.text.transplant.registry import transplant_method as transplant_method
    from tokenry.text.transplant.registry import transplants as transplants

__getattr__, __dir__, __all__ = face(__name__)
