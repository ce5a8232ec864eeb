"""The convolution and the matrix are the reference's sums, on every boundary, in any numbering."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latticegnn.aggregate import aggregator, tier_moments
from latticegnn.aggregate.plain import PlainAggregator
from latticegnn.lattice import LatticeSpec, Tier, build_graph

FUNCTIONALS = [(tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in ("mean", "gradient")]
BOUNDARIES = st.sampled_from(["open", "periodic", "reflecting", "absorbing"])


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 3), boundary=st.tuples(BOUNDARIES, BOUNDARIES, BOUNDARIES),
    order=st.sampled_from(["raster", "morton"]), full=st.booleans(), radial=st.booleans(),
)  # fmt: skip
def test_it_is_the_edge_list(shape, boundary, order, full, radial) -> None:
    spec = LatticeSpec(
        shape, boundary=boundary, order=order, connectivity="full" if full else "radius", radii=(0.5, 1.1, 1.5)
    )
    moments = tier_moments(spec, FUNCTIONALS, radial)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(spec.num_nodes, 2, 3, dtype=torch.float64, generator=generator)
    weights = torch.rand(moments.shells, dtype=torch.float64, generator=generator) if radial else None
    plain = PlainAggregator(moments)
    wanted = aggregator(spec, FUNCTIONALS, "edge", radial)(x, weights)
    torch.testing.assert_close(plain(x, weights), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("connectivity", "radial", "backend"),
    [("radius", False, "convolution"), ("full", False, "matrix"), ("full", True, "convolution")],
)
def test_it_is_a_matrix_where_the_kernel_is_larger_than_the_lattice(connectivity, radial, backend) -> None:
    moments = tier_moments(
        LatticeSpec((4, 4, 4), connectivity=connectivity, radii=(0.5, 1.1, 1.5)), FUNCTIONALS, radial
    )
    assert PlainAggregator(moments).backend == backend


def test_edges_that_are_not_the_specs_are_refused(refuses) -> None:
    graph = build_graph(LatticeSpec((3, 3, 3), radii=(0.5, 1.1, 1.5)))
    kept = torch.ones(graph.num_edges, dtype=torch.bool)
    source, target = graph.edge_index
    kept[(source * 27 + target == 1) | (source * 27 + target == 27)] = False
    for name in ("edge_index", "edge_offset", "edge_attr", "edge_tier"):
        value = graph[name]
        graph[name] = value[:, kept] if name == "edge_index" else value[kept]
    with refuses("the neighbours that the spec defines", "with other edges", "use the graph as build_graph"):
        PlainAggregator(tier_moments(graph, FUNCTIONALS))
