"""One linear operation, a sum over a tier's neighbours, in several exact backends."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Sequence

# First of all imports of PyG: this one expects what PyG warns of.
from latticegnn.lattice import LatticeSpec, Tier

# isort: split
import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from latticegnn.aggregate.aggregator import Aggregator as Aggregator
from latticegnn.aggregate.choice import choose as choose
from latticegnn.aggregate.dense import DenseAggregator as DenseAggregator
from latticegnn.aggregate.dft import DFT
from latticegnn.aggregate.edge import EdgeAggregator as EdgeAggregator
from latticegnn.aggregate.fft import FFT
from latticegnn.aggregate.moments import COMPONENTS as COMPONENTS
from latticegnn.aggregate.moments import Moment as Moment
from latticegnn.aggregate.moments import Moments as Moments
from latticegnn.aggregate.moments import tier_moments as tier_moments
from latticegnn.aggregate.sparse import SparseAggregator as SparseAggregator
from latticegnn.aggregate.spectral import SpectralAggregator as SpectralAggregator

BACKENDS: dict[str, Callable[[Moments], Aggregator]] = {
    "edge": EdgeAggregator,
    "segment": functools.partial(EdgeAggregator, segments=True),
    "sparse": SparseAggregator,
    "dense": DenseAggregator,
    "fft": functools.partial(SpectralAggregator, backend="fft", transform=FFT),
    "dft": functools.partial(SpectralAggregator, backend="dft", transform=DFT),
}

logger = logging.getLogger("latticegnn")


def aggregator(
    lattice: LatticeSpec | Data,
    functionals: Sequence[tuple[Tier, Moment]],
    backend: str = "auto",
    radial: bool = False,
) -> Aggregator:
    """Make the module that applies neighbourhood functionals to a state, nodes first: [N, B, F] -> [R, N, B, F].

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made. No backend but "edge" and "segment" makes an edge
            list; a graph's own is used only where it is not all of its spec's.
        functionals: Which moments of which tiers, in the order of the output's first axis.
        backend: "edge" (PyG's propagate, the reference), "segment" (the same, sorted and reduced by torch-scatter),
            "sparse" (CSR products), "dense" (one matrix product), "fft" (PyTorch's fast Fourier transform), "dft"
            (Fourier transforms as matrix products), or "auto": the cheapest by the rule in `choice.estimates`.
        radial: Give each distinct distance of the tiers concerned a weight, passed with the state: [S] in the order of
            rising distance.

    Raises:
        ValueError: For an unknown backend, one that cannot serve this lattice, or tables that do not fit in memory.
    """
    if backend != "auto" and backend not in BACKENDS:
        allowed = ("auto", *BACKENDS)
        near = difflib.get_close_matches(str(backend), allowed, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "choose one of them."
        raise ValueError(f"backend must be one of {', '.join(allowed)}; got {backend!r}; {hint}")
    moments = tier_moments(lattice, functionals, radial)
    if backend == "auto":
        backend, reason = choose(moments)
        logger.info("aggregation backend: %s, %s (backend: auto)", backend, reason)
    return BACKENDS[backend](moments)


class TierOperator(nn.Module):
    """The mean, or the first moment, of one tier's neighbours: see `Moments` for the formula.

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made.
        tier: "local", "functional" or "distant".
        backend: See `aggregator`; the attribute `backend` says which one runs.
        moment: "mean" or "gradient".
        radial: Learn a weight for each distinct distance of the tier: the parameter ``weights`` [S], ones at first.

    Shapes:
        - input: state [B, N, F]
        - output: [B, N, F] for "mean", [B, N, F, 3] for "gradient"

    Raises:
        ValueError: For an unknown tier, moment or backend, or a state of another number of cells.
    """

    def __init__(
        self,
        lattice: LatticeSpec | Data,
        tier: str | Tier,
        backend: str = "auto",
        moment: Moment = "mean",
        radial: bool = False,
    ) -> None:
        super().__init__()
        names = [t.name.lower() for t in Tier]
        name = tier.name.lower() if isinstance(tier, Tier) else tier
        if name not in names:
            raise ValueError(f"tier must be one of {', '.join(names)}; got {tier!r}; choose one of them.")
        if moment not in COMPONENTS:
            raise ValueError(f"moment must be one of {', '.join(COMPONENTS)}; got {moment!r}; choose one of them.")
        self.moment = moment
        self.inner = aggregator(lattice, [(Tier[name.upper()], moment)], backend, radial)
        self.backend = self.inner.backend
        self.weights: nn.Parameter | None
        self.register_parameter("weights", nn.Parameter(torch.ones(self.inner.shells)) if radial else None)

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate a state."""
        if x.dim() != 3 or x.shape[1] != self.inner.num_nodes:
            raise ValueError(
                f"the state must have shape [B, N, F] with N = {self.inner.num_nodes}; got {list(x.shape)}; "
                "pass a batch of states of this lattice."
            )
        out = self.inner(x.transpose(0, 1), self.weights).permute(2, 1, 3, 0)
        return out.squeeze(-1) if self.moment == "mean" else out


operator = TierOperator
