"""Tiers without hard edges: two learned thresholds, and weighted means over all neighbours within the radius."""

from __future__ import annotations

import dataclasses
import math
from numbers import Real

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from torch_geometric.data import Data

from latticegnn.aggregate import Moment, Moments, aggregator, tier_moments
from latticegnn.lattice import LatticeSpec, Tier, divisors_by_distance, stencil


class SoftTiers(nn.Module):
    r"""Moments of three tiers that share all neighbours within the radius R, each by a smooth weight of the distance.

    .. math::
        w_l(d) = \sigma\Big(\frac{\tau_1 - d}{s}\Big), \qquad
        w_f(d) = \sigma\Big(\frac{\tau_2 - d}{s}\Big) - \sigma\Big(\frac{\tau_1 - d}{s}\Big), \qquad
        w_d(d) = \sigma\Big(\frac{d - \tau_2}{s}\Big)

    the cumulative logit model of ordered classes (McCullagh, 1980): the weights are positive and add up to one at every
    distance. :math:`w_f` is :math:`\sigma((d - \tau_1)/s)\,\sigma((\tau_2 - d)/s)` times a number that is the same at
    all distances, so either form gives the same

    .. math::
        \text{mean}_i^t = \frac{\sum_j w_t(d_{ij}) x_j}{\sum_j w_t(d_{ij})}, \qquad
        \text{gradient}_{i,a}^t = \frac{\sum_j w_t(d_{ij}) o_{ij,a} x_j}{\sum_j w_t(d_{ij})},

    over the cell itself (d = 0) and all neighbours up to R, boundaries as in `LatticeSpec`. The thresholds start at the
    lattice's radii :math:`r_l, r_f` and stay ordered inside of (0, R):
    :math:`(\tau_1, \tau_2 - \tau_1, R - \tau_2) = R\,\mathrm{softmax}(\log p + \theta)`, with p the parts of R at the
    start and θ learned, 0 at first. Towards s = 0 this is the lattice's own tiers, where no distance is a threshold and
    every tier holds one; a tier between two distances takes the nearest.

    The sums are those of one tier that holds everything, with a weight for each distance (`latticegnn.aggregate`), one
    call a tier; so every backend serves them.

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made, with its spec's own edges.
        softness: s in cells, > 0.
        backend: Aggregation backend, see `latticegnn.aggregate.aggregator`.

    Attributes:
        spread: Mean square offset along each axis by tier, at the first thresholds.
        moments: What the inner aggregator sums.

    Shapes:
        - input: state, nodes first, [N, B, F]
        - output: [12, N, B, F], the mean and the first moment of each tier

    Raises:
        ValueError: The softness is out of range, or a graph's edges are not its spec's.
    """

    inner: nn.Module  # an aggregator
    moments: Moments
    softness: float
    spread: dict[Tier, list[float]]
    radius: float
    shift: nn.Parameter
    shells: int = 0  # no weights of distances are passed from outside
    shares: Tensor
    distances: Tensor
    start: Tensor

    def __init__(self, lattice: LatticeSpec | Data, softness: float, backend: str = "auto") -> None:
        super().__init__()
        if not isinstance(softness, Real) or isinstance(softness, bool) or not 0 < float(softness) < math.inf:
            raise ValueError(
                f"soft_tiers is a softness in cells, a finite number above 0; got {softness!r}; write 0.1, or null for "
                "hard tiers."
            )
        if tier_moments(lattice, []).edges is not None:
            raise ValueError(
                "soft tiers weigh the neighbours that the spec defines; got a graph with other edges or another "
                "numbering; use the graph as build_graph(spec) made it, or soft_tiers: null."
            )
        spec = lattice if isinstance(lattice, LatticeSpec) else lattice.spec
        self.softness = float(softness)
        near, middle, radius = spec.thresholds
        if spec.connectivity == "full":
            radius = max(radius, float(stencil(spec).distance.max()))
        self.radius = radius
        # One tier up to R; nothing is asked of the other two, a hair's breadth further out.
        radii = (radius, radius * (1 + 1e-6), radius * (1 + 2e-6))
        whole = dataclasses.replace(spec, connectivity="radius", radii=radii, strict_tiers=False)
        functionals: list[tuple[Tier, Moment]] = [(Tier.LOCAL, "mean"), (Tier.LOCAL, "gradient")]
        self.moments = tier_moments(whole, functionals, radial=True)
        inner = aggregator(whole, functionals, backend, radial=True)
        self.inner, self.backend, self.num_nodes = inner, inner.backend, inner.num_nodes
        distances, counts = divisors_by_distance(whole)
        counts = counts[:, : inner.shells].double()
        self.register_buffer("distances", distances[: inner.shells], persistent=False)
        self.register_buffer("shares", counts / counts.sum(dim=1, keepdim=True), persistent=False)
        parts = torch.tensor([near, middle - near, radius - middle], dtype=torch.float64) / radius
        self.register_buffer("start", parts.log(), persistent=False)
        self.shift = nn.Parameter(torch.zeros(3))
        self.spread = self._spread(whole)

    def thresholds(self) -> Tensor:
        """Return τ₁ and τ₂ in cells, [2]."""
        parts = torch.softmax(self.start + self.shift, dim=0)
        return self.radius * parts.cumsum(dim=0)[:2]

    def membership(self) -> Tensor:
        """Return each tier's weight at every distance, [3, S]; the three add up to one."""
        return torch.softmax(self._logs(), dim=0)

    def forward(self, x: Tensor, weights: None = None) -> Tensor:
        """Compute the tiers' moments."""
        logs = self._logs()
        # A factor common to all distances drops out of a mean: scaled so, no tier's weights all underflow.
        weight = (logs - logs.amax(dim=1, keepdim=True).detach()).exp()
        total = self.shares @ weight.t()  # [N, 3]
        inverse = torch.where(total > 0, 1 / total.clamp_min(torch.finfo(total.dtype).tiny), 0).to(x.dtype)
        tiers = [self.inner(x, one) * inverse[:, t].view(-1, 1, 1) for t, one in enumerate(weight)]
        return torch.cat(tiers)

    def _logs(self) -> Tensor:
        """Compute the logarithm of each tier's weight at every distance [3, S], exact far out in the tails."""
        near, middle = (self.thresholds().unsqueeze(1) - self.distances) / self.softness
        between = torch.log(-torch.expm1(near[:1] - middle[:1]))
        return torch.stack([logsigmoid(near), logsigmoid(-near) + logsigmoid(middle) + between, logsigmoid(-middle)])

    @torch.no_grad()
    def _spread(self, whole: LatticeSpec) -> dict[Tier, list[float]]:
        parts = stencil(whole)
        chosen = parts.tier == int(Tier.LOCAL)
        offsets = parts.offsets[chosen]
        sides = torch.tensor(whole.shape)
        endless = torch.tensor([boundary in ("periodic", "reflecting") for boundary in whole.boundaries])
        pairs = torch.where(endless, sides, sides - offsets.abs()).prod(dim=1).double()
        shell = torch.searchsorted(self.distances, parts.distance[chosen])
        found = {}
        for tier, weight in zip(Tier, self.membership().double(), strict=True):
            edges = weight[shell] * pairs
            found[tier] = (edges.unsqueeze(1) * offsets.square()).sum(dim=0).div(edges.sum()).tolist()
        return found
