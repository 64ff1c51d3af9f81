"""The model folder that the tests of bench use."""

from tests.bench.conftest import model_folder

__all__ = ["model_folder"]
