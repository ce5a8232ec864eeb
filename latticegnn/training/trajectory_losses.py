"""Terms of the loss on the states of a rollout, each a small module with its formula, range, scale and source."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latticegnn.aggregate import operator
from latticegnn.lattice import LatticeSpec, Tier, degrees, divisors


class Emergence(nn.Module):
    r"""How much of the cells' states a linear read-out of their own input explains; minimised, the rest grows.

    The quantity is the information that a cell adds to what reaches it: with z the cell's own and its neighbours' mean
    states one step before, and W the least-squares read-out over all cells and samples of the batch,

    .. math::
        R^2 = 1 - \frac{\sum \|x^T_i - W [1 \,\|\, z^{T-1}_i]\|^2}{\sum \|x^T_i - \bar x^T\|^2}

    The term is R², in [0, 1], free of scale: 1 for cells that pass on what they receive, 0 for states that no linear
    read-out finds in it. For Gaussian variables :math:`-\tfrac12 \log(1 - R^2)` nats a channel is the information that
    the input holds of the state (Barnett, Barrett and Seth, 2009); what it does not hold is modification in the sense
    of Lizier, Flecker and Williams (2013).

    Args:
        spec: The lattice.

    Shapes:
        - input: trajectory [T + 1, B, N, F], T ≥ 1
        - output: a number
    """

    def __init__(self, spec: LatticeSpec) -> None:
        super().__init__()
        self.means = nn.ModuleList(operator(spec, tier) for tier in _reaching(spec))

    def forward(self, trajectory: Tensor) -> Tensor:
        """Compute the term."""
        _require_steps(trajectory, 1, "emergence")
        before, after = trajectory[-2], trajectory[-1]
        seen = torch.cat([before, *(mean(before) for mean in self.means)], dim=-1).flatten(0, 1)
        state = after.flatten(0, 1)
        seen, state = seen - seen.mean(dim=0), state - state.mean(dim=0)
        gram = seen.T @ seen
        # Channels may repeat each other; the ridge is a rounding error of their variance and keeps the solution finite.
        ridge = gram.diagonal().mean() * 100 * torch.finfo(gram.dtype).eps + torch.finfo(gram.dtype).tiny
        gram = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram, seen.T @ state)
        error = (state - seen @ weights).square().sum()
        return 1 - error / state.square().sum().clamp_min(torch.finfo(gram.dtype).tiny)


class Dynamics(nn.Module):
    r"""The relative change a step: :math:`\big\langle \sum_k \|x^{k+1} - x^k\|^2 / \sum_k \|x^{k+1}\|^2 \big\rangle_B`.

    In [0, 4) where states do not shrink, 0 for a rollout at rest; free of scale. Asks for rollouts that settle.

    Shapes:
        - input: trajectory [T + 1, B, N, F], T ≥ 1
        - output: a number
    """

    def forward(self, trajectory: Tensor) -> Tensor:
        """Compute the term."""
        _require_steps(trajectory, 1, "dynamics")
        return _ratio(_energy(trajectory.diff(dim=0)), _energy(trajectory[1:]))


class Temporal(nn.Module):
    r"""How unsteadily states change: second differences against first, each counted as often as it occurs.

    .. math::
        \Big\langle \frac{\sum_{k=1}^{T-1} \|x^{k+1} - 2 x^k + x^{k-1}\|^2}
        {\sum_{k=1}^{T-1} (\|x^{k+1} - x^k\|^2 + \|x^k - x^{k-1}\|^2)} \Big\rangle_B

    In [0, 2]: 0 for a steady drift, 1 for changes that know nothing of each other, 2 for states that swing to and fro;
    free of scale.

    Shapes:
        - input: trajectory [T + 1, B, N, F], T ≥ 2
        - output: a number
    """

    def forward(self, trajectory: Tensor) -> Tensor:
        """Compute the term."""
        _require_steps(trajectory, 2, "temporal")
        first = trajectory.diff(dim=0)
        return _ratio(_energy(first.diff(dim=0)), _energy(first[1:]) + _energy(first[:-1]))


class Spatial(nn.Module):
    r"""How much neighbours differ at the last step: the Dirichlet energy over the edges of each tier.

    .. math::
        \Big\langle \frac{\langle \|x_j - x_i\|^2 \rangle_{(j, i) \in E_t}}
        {2 \langle \|x_i\|^2 \rangle_N} \Big\rangle_{t, B}

    0 for a uniform state, about 1 for cells that know nothing of each other, at most twice the ratio of the largest to
    the mean degree; free of scale. The zeros beyond an absorbing boundary are neighbours, from both sides. No edge list
    is made: as tiers are symmetric, the sum over edges is
    :math:`2 \sum_i c_i (\|x_i\|^2 - x_i \cdot \text{mean}_i)` with c what the means divide by.

    Args:
        spec: The lattice.

    Shapes:
        - input: trajectory [T + 1, B, N, F]
        - output: a number
    """

    count: Tensor

    def __init__(self, spec: LatticeSpec) -> None:
        super().__init__()
        tiers = _reaching(spec)
        self.means = nn.ModuleList(operator(spec, tier) for tier in tiers)
        counted = divisors(spec)[:, [int(tier) for tier in tiers]].T.double()  # [tiers, N]
        # The local tier's mean counts the cell itself.
        itself = torch.tensor([[float(tier is Tier.LOCAL)] for tier in tiers], dtype=torch.float64)
        neighbours = (counted - itself).sum(dim=1, keepdim=True)
        self.register_buffer("count", counted / neighbours, persistent=False)

    def forward(self, trajectory: Tensor) -> Tensor:
        """Compute the term."""
        state = trajectory[-1]
        size = state.square().sum(dim=-1)  # [B, N]
        counts = self.count.to(state)
        parts = [
            _ratio(((size - (state * mean(state)).sum(dim=-1)) * count).sum(dim=1), size.mean(dim=1))
            for mean, count in zip(self.means, counts, strict=True)
        ]
        return torch.stack(parts).mean()


def _reaching(spec: LatticeSpec) -> list[Tier]:
    """Return the tiers that hold other cells."""
    found = degrees(spec).sum(dim=0)
    return [tier for tier in Tier if found[int(tier)] > 0]


def _energy(states: Tensor) -> Tensor:
    """Sum squares over steps, cells and channels: [K, B, N, F] -> [B]."""
    return states.square().sum(dim=(0, 2, 3))


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Divide and average over the batch; nothing of nothing is nothing."""
    return (part / whole.clamp_min(torch.finfo(whole.dtype).tiny)).mean()


def _require_steps(trajectory: Tensor, steps: int, name: str) -> None:
    if len(trajectory) <= steps:
        raise ValueError(
            f"the term {name} needs a rollout of {steps} steps or more; got {len(trajectory) - 1}; set model.steps, or "
            f"loss.{name} to 0."
        )
