"""The rule behind "auto": documented choices, a log line that says why, and no edge list on the way."""

import logging

import pytest
import torch

from latticegnn import aggregate
from latticegnn.aggregate import Moment, aggregator, choice, choose, tier_moments
from latticegnn.lattice import LatticeSpec, Tier, build_graph

BOTH: list[tuple[Tier, Moment]] = [
    (tier, moment) for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for moment in ("mean", "gradient")
]
MEANS = BOTH[::2]
FULL = LatticeSpec((8, 8, 8), "full")
NEAR = (0.16, 1.04, 1.6)


@pytest.mark.parametrize(
    ("spec", "functionals", "radial", "expected"),
    [
        (LatticeSpec((4, 4, 4)), BOTH, False, "sparse"),  # no neighbours at all
        (LatticeSpec((8, 8, 8)), BOTH, False, "sparse"),
        (LatticeSpec((8, 8, 8)), BOTH, True, "sparse"),
        (LatticeSpec((16, 16, 16)), BOTH, False, "sparse"),
        (LatticeSpec((16, 16, 16), boundary="periodic"), BOTH, False, "dft"),  # no padding to pay for
        (LatticeSpec((27, 27, 27)), BOTH, False, "dft"),
        (LatticeSpec((27, 27, 27)), MEANS, False, "dft"),
        (LatticeSpec((27, 27, 27)), BOTH, True, "dft"),
        (LatticeSpec((37, 37, 37)), BOTH, False, "dft"),
        (LatticeSpec((64, 64, 64), radii=NEAR), BOTH, False, "sparse"),
        (LatticeSpec((16, 16, 16), "full"), BOTH, False, "dft"),
        (LatticeSpec((4, 4, 4), "full"), BOTH, True, "dense"),
        (FULL, BOTH, False, "dense"),
        (FULL, MEANS, False, "dense"),
        (FULL, BOTH, True, "dense"),
    ],
    ids=str,
)
def test_documented_choices(spec, functionals, radial, expected) -> None:
    assert choose(tier_moments(spec, functionals, radial))[0] == expected
    assert aggregator(spec, functionals, "auto", radial).backend == expected


def test_the_rule_is_its_formula() -> None:
    # 4 of 8 functionals' rows have (6, 12) neighbours less the boundary's; 9 points on each axis.
    moments = tier_moments(LatticeSpec((8, 8, 8)), BOTH)
    found = choice.estimates(moments)
    pad = 9 / 8
    transform = 18 * (1 + pad + pad**2) / 150 + pad**3
    assert found["dft"] == pytest.approx(18 * transform)
    assert found["dense"] == pytest.approx(4 * 8 * 512 / 205)
    entries = sum(1 for value in moments.entries()[2] if value != 0)
    assert found["sparse"] == pytest.approx(0.11 * entries / 512 + 2.4)
    radial = choice.estimates(tier_moments(LatticeSpec((8, 8, 8)), BOTH, radial=True))
    assert {name: radial[name] / found[name] for name in found} == pytest.approx(
        {"sparse": 5 / 4, "dense": 3 / 2, "dft": 4 / 3}
    )


def test_the_choice_is_told_in_one_line(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="latticegnn"):
        aggregator(FULL, BOTH, "auto")
        aggregator(FULL, BOTH, "sparse")
    (record,) = caplog.records
    told = record.getMessage()
    for part in ("aggregation backend: dense", "8 functionals of 512 cells", "dense 79.9, dft ", "(backend: auto)"):
        assert part in told


def test_a_choice_must_fit_in_memory(monkeypatch) -> None:
    spec = LatticeSpec((8, 8, 8))
    assert choose(tier_moments(spec, BOTH))[0] == "sparse"
    monkeypatch.setattr(choice, "available_memory", lambda: 100_000)
    name, reason = choose(tier_moments(spec, BOTH))
    assert name == "dft"
    assert "(does not fit in memory)" in reason


def test_a_thinned_graph_is_summed_as_it_is(caplog) -> None:
    graph = build_graph(LatticeSpec((16, 16, 16), boundary="periodic"))
    assert aggregator(graph, BOTH).backend == "dft"
    source, target = graph.edge_index
    kept = source.minimum(target) > 0
    graph.edge_index, graph.edge_offset = graph.edge_index[:, kept], graph.edge_offset[kept]
    graph.edge_tier = graph.edge_tier[kept]
    with caplog.at_level(logging.INFO, logger="latticegnn"):
        module = aggregator(graph, BOTH)
    assert module.backend == "sparse"
    assert "not its spec's" in caplog.text
    assert not module(torch.ones(4096, 1, 1))[:, 0].any()


def test_no_edge_list_is_built() -> None:
    """At its default ratios this lattice has 70 million edges, about 15 GiB while they are listed."""
    spec = LatticeSpec((37, 37, 37))
    for tier in ("functional", "distant"):
        operator = aggregate.operator(spec, tier)
        x = torch.ones(1, spec.num_nodes, 1, dtype=torch.float64, requires_grad=True)
        out = operator(x)
        torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-11)
        out.sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad.sum(), out.sum(), rtol=1e-11, atol=0)
