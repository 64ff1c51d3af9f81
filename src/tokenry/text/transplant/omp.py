"""OMP: a new token is a few shared tokens in a model that knows it, and the same few in the model that does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tokenry.text.transplant.base import Context, Mixing, Mixture, Mixtures
from tokenry.text.transplant.plan import TransplantPlan
from tokenry.tokens.errors import InputError

_CANDIDATES = 8
_DEPENDENT = 1e-5
"""An atom whose part outside the span of those chosen is shorter than this share of it adds nothing but noise."""


@dataclass(frozen=True, kw_only=True)
class OMP(Mixing):
    """Orthogonal matching pursuit in a donor's embedding space.

    *Training-Free Tokenizer Transplantation via Orthogonal Matching Pursuit*, arXiv 2506.06607 (mergekit's
    tokensurgeon). A donor model already uses the target tokenizer. Each new token's donor row is written as a sum of k
    donor rows of shared tokens, chosen greedily by the size of their inner product with what is left; the same sum of
    the base model's rows is the new row. Input and head are solved separately where both models have both. Needs
    ``context.donor``. Cost per new token: k products with all shared rows, batched over tokens.

    As coded, rows are not scaled to unit length, so a long row may be taken first even where the token itself is a
    candidate. Every new direction is made orthogonal twice, instead of all of them every 256 steps.

    Attributes:
        k: shared tokens per new token.
        batch: new tokens solved at a time.
        exact: choose atoms by float32 products throughout; by default bfloat16 products choose eight candidates, of
            which float32 products choose one.
    """

    slug: ClassVar[str] = "omp"

    k: int = 64
    batch: int = 512
    exact: bool = False

    def __post_init__(self) -> None:
        if self.k < 1 or self.batch < 1:
            raise InputError(f"omp: k and batch must be at least 1, got {self.k} and {self.batch}.")

    def mix(
        self,
        plan: TransplantPlan,
        input_rows: Float[Tensor, "source width"],
        output_rows: Float[Tensor, "source out_width"] | None,
        context: Context,
    ) -> Mixtures:
        """Coefficients for the input and, where the donor has a head of its own, for the head."""
        donor = context.donor
        if donor is None:
            raise InputError(
                "omp needs a donor: a model that already uses the target tokenizer "
                "(donor=, on the command line --donor)."
            )
        mixture = self._solve(plan, donor.input)
        separate = output_rows is not None and donor.output is not None
        return Mixtures(
            mixture, self._solve(plan, donor.output) if separate and donor.output is not None else mixture
        )

    def _solve(self, plan: TransplantPlan, rows: Float[Tensor, "target width"]) -> Mixture:
        """Coefficients over source ids for every unique token that the donor has a row for."""
        n = len(plan.unique)
        wanted = plan.unique[plan.unique < len(rows)]
        shared = plan.shared[plan.shared[:, 1] < len(rows)]
        if not len(shared):
            raise InputError("omp: the vocabularies share no token, so nothing can stand for a new one.")
        if len(wanted) < 0.5 * n:
            raise InputError(
                f"omp: the donor has {len(rows):,} rows, the target tokenizer {plan.target.size:,} tokens: the donor "
                "must be a model that uses the target tokenizer."
            )
        atoms = rows[torch.from_numpy(shared[:, 1])].float()
        row, ids, weights = [], [], []
        for start in range(0, len(wanted), self.batch):
            block = torch.from_numpy(wanted[start : start + self.batch])
            chosen, coefficients = matching_pursuit(rows[block].float(), atoms, self.k, exact=self.exact)
            at, place = (chosen >= 0).nonzero(as_tuple=True)
            row.append(at.cpu() + start)
            ids.append(chosen[at, place].cpu())
            weights.append(coefficients[at, place].cpu())
        if not row:
            return Mixture.empty(n)
        # `unique` ascends, so the tokens beyond the donor's rows are the last ones.
        return Mixture.of(
            torch.cat(row), torch.from_numpy(shared[:, 0])[torch.cat(ids)], torch.cat(weights), n
        )


def matching_pursuit(
    targets: Float[Tensor, "batch width"],
    atoms: Float[Tensor, "atoms width"],
    k: int,
    *,
    exact: bool = True,
) -> tuple[Int[Tensor, "batch steps"], Float[Tensor, "batch steps"]]:
    """Write each target as a sum of at most k atoms, chosen greedily (orthogonal matching pursuit).

    All targets take their step together: one product of the residuals with all atoms, then one new column of each
    target's own QR factorisation. The coefficients are solved for at the end.

    Args:
        targets: vectors to write.
        atoms: vectors to write them with.
        k: steps.
        exact: compare with all atoms in float32; else with the 8 best by bfloat16 products, which is several times
            faster on processors that have them.

    Returns:
        The chosen atoms and their coefficients, in the order of the choice; -1 and 0 where nothing was left to add.
    """
    batch, width = targets.shape
    steps = min(k, len(atoms), width)
    chosen = torch.full((batch, steps), -1, device=targets.device)
    q = targets.new_zeros(batch, steps, width)  # orthonormal directions, as rows
    r = targets.new_zeros(batch, steps, steps)
    r.diagonal(dim1=1, dim2=2).fill_(1.0)  # a step that adds nothing solves to 0
    along = targets.new_zeros(batch, steps)
    residual = targets.clone()
    screen = atoms.float() if exact else atoms.bfloat16()
    for step in range(steps):
        best = _best_atom(residual, atoms, screen, chosen[:, :step])
        atom = atoms[best]
        direction, column = _orthogonal(atom, q[:, :step])
        length = direction.norm(dim=1)
        repeated = (chosen[:, :step] == best[:, None]).any(1)
        useful = (length > _DEPENDENT * atom.norm(dim=1)) & (residual.norm(dim=1) > 0) & ~repeated
        direction = torch.where(useful[:, None], direction / length.clamp_min(1e-30)[:, None], 0.0)
        q[:, step] = direction
        r[:, :step, step] = column * useful[:, None]
        r[:, step, step] = torch.where(useful, length, 1.0)
        along[:, step] = (direction * residual).sum(1)
        residual = residual - along[:, step : step + 1] * direction
        chosen[:, step] = torch.where(useful, best, -1)
    coefficients = torch.linalg.solve_triangular(r, along[..., None], upper=True)[..., 0]
    return chosen, coefficients


def _best_atom(
    residual: Float[Tensor, "batch width"],
    atoms: Float[Tensor, "atoms width"],
    screen: Float[Tensor, "atoms width"],
    chosen: Int[Tensor, "batch step"],
) -> Int[Tensor, " batch"]:
    """The atom with the largest inner product, in float32, of the few best by the screen's precision."""
    score = (residual.to(screen.dtype) @ screen.T).abs_()
    candidates = score.topk(min(_CANDIDATES, len(atoms)), dim=1).indices
    exact = torch.einsum("bcw,bw->bc", atoms[candidates], residual).abs_()
    # What is left is orthogonal to the atoms chosen so far: they come up again only when it is nearly nothing.
    again = (candidates[:, :, None] == chosen[:, None]).any(2)
    exact.masked_fill_(again, -1.0)
    return candidates.gather(1, exact.argmax(1, keepdim=True))[:, 0]


def _orthogonal(
    atom: Float[Tensor, "batch width"], q: Float[Tensor, "batch step width"]
) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch step"]]:
    """What of an atom is outside the directions so far, and its coordinates in them; projected twice, for rounding."""
    total = atom.new_zeros(q.shape[:2])
    for _ in range(2):
        part = torch.einsum("bsw,bw->bs", q, atom)
        atom = atom - torch.einsum("bs,bsw->bw", part, q)
        total = total + part
    return atom, total
