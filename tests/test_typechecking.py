"""The suite checks types and shapes at run time: were the hook not there, wrong shapes would pass unseen."""

import pytest
import torch
from jaxtyping import TypeCheckError

from tokenry.tokens import Reduction


def test_wrong_dtype_in_a_signature_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Reduction.identity(torch.tensor([3])).apply(torch.ones(1, 3, 2, dtype=torch.long))


def test_wrong_rank_in_a_signature_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        Reduction.identity(torch.tensor([3])).apply(torch.ones(3, 2))
