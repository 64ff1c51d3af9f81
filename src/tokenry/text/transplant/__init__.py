"""Moving a model to another vocabulary: plans, the methods that fill new rows, and putting the rows into a model."""

from tokenry.text.transplant.apply import Transplanted, save_transplanted, transplant
from tokenry.text.transplant.base import Context, Donor, Mixing, Mixture, Mixtures, Rows, Transplant
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.text.transplant.registry import transplant_method, transplants

__all__ = [
    "Context",
    "Donor",
    "Mixing",
    "Mixture",
    "Mixtures",
    "Rows",
    "Transplant",
    "TransplantPlan",
    "Transplanted",
    "save_transplanted",
    "transplant",
    "transplant_method",
    "transplants",
]
