"""One linear operation, a sum over a tier's neighbours, in several exact backends."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable, Sequence

# First of all imports of PyG: this one expects what PyG warns of.
from latticegnn.lattice import LatticeSpec, Tier, build_graph

# isort: split
from torch import Tensor, nn
from torch_geometric.data import Data

from latticegnn.aggregate.edge import EdgeAggregator as EdgeAggregator
from latticegnn.aggregate.moments import COMPONENTS as COMPONENTS
from latticegnn.aggregate.moments import Moment as Moment
from latticegnn.aggregate.moments import Moments as Moments
from latticegnn.aggregate.moments import tier_moments as tier_moments
from latticegnn.aggregate.sparse import SparseAggregator as SparseAggregator

BACKENDS: dict[str, Callable[[Moments], nn.Module]] = {
    "edge": EdgeAggregator,
    "segment": functools.partial(EdgeAggregator, segments=True),
    "sparse": SparseAggregator,
}

logger = logging.getLogger("latticegnn")


def aggregator(graph: Data, functionals: Sequence[tuple[Tier, Moment]], backend: str = "auto") -> nn.Module:
    """Make the module that applies neighbourhood functionals to a state, nodes first: [N, B, F] -> [R, N, B, F].

    Args:
        graph: A lattice graph.
        functionals: Which moments of which tiers, in the order of the output's first axis.
        backend: "edge" (PyG's propagate, the reference), "segment" (the same, sorted and reduced by torch-scatter),
            "sparse" (CSR products), or "auto": sparse, the fastest in every regime that `benchmarks/aggregation.py`
            measures.

    Raises:
        ValueError: For an unknown backend.
    """
    name = "sparse" if backend == "auto" else backend
    if name not in BACKENDS:
        allowed = ("auto", *BACKENDS)
        near = difflib.get_close_matches(str(backend), allowed, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "choose one of them."
        raise ValueError(f"backend must be one of {', '.join(allowed)}; got {backend!r}; {hint}")
    if backend == "auto":
        logger.info("aggregation backend: sparse, the fastest in every regime measured (backend: auto)")
    return BACKENDS[name](tier_moments(graph, functionals))


class TierOperator(nn.Module):
    """The mean, or the first moment, of one tier's neighbours: see `Moments` for the formula.

    Args:
        lattice: A `LatticeSpec`, or a graph that `build_graph` made.
        tier: "local", "functional" or "distant".
        backend: See `aggregator`; the attribute `backend` says which one runs.
        moment: "mean" or "gradient".

    Shapes:
        - input: state [B, N, F]
        - output: [B, N, F] for "mean", [B, N, F, 3] for "gradient"

    Raises:
        ValueError: For an unknown tier, moment or backend, or a state of another number of cells.
    """

    def __init__(
        self, lattice: LatticeSpec | Data, tier: str | Tier, backend: str = "auto", moment: Moment = "mean"
    ) -> None:
        super().__init__()
        names = [t.name.lower() for t in Tier]
        name = tier.name.lower() if isinstance(tier, Tier) else tier
        if name not in names:
            raise ValueError(f"tier must be one of {', '.join(names)}; got {tier!r}; choose one of them.")
        if moment not in COMPONENTS:
            raise ValueError(f"moment must be one of {', '.join(COMPONENTS)}; got {moment!r}; choose one of them.")
        graph = build_graph(lattice) if isinstance(lattice, LatticeSpec) else lattice
        self.moment = moment
        self.inner = aggregator(graph, [(Tier[name.upper()], moment)], backend)
        self.backend = str(self.inner.backend)

    def forward(self, x: Tensor) -> Tensor:
        """Aggregate a state."""
        if x.dim() != 3 or x.shape[1] != self.inner.num_nodes:
            raise ValueError(
                f"the state must have shape [B, N, F] with N = {self.inner.num_nodes}; got {list(x.shape)}; "
                "pass a batch of states of this lattice."
            )
        out = self.inner(x.transpose(0, 1)).permute(2, 1, 3, 0)
        return out.squeeze(-1) if self.moment == "mean" else out


operator = TierOperator
