"""Soft tiers against a loop over pairs, towards hard ones, on every backend and boundary, and in the model."""

import copy
import dataclasses
import logging
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latticegnn.aggregate import BACKENDS, aggregator
from latticegnn.analysis.ladder import mean_field, shuffled_edges, single_expert
from latticegnn.lattice import LatticeSpec, Tier, build_graph
from latticegnn.model import LatticeModel
from latticegnn.nn import FusedStep, LatticeCell, SoftTiers

RADII = (1.2, 1.8, 2.5)
SPECS = [
    LatticeSpec((4, 3, 5), radii=RADII),
    LatticeSpec((4, 3, 5), radii=RADII, boundary="periodic", order="morton"),
    LatticeSpec((4, 3, 5), radii=RADII, boundary=("reflecting", "open", "reflecting")),
    LatticeSpec((3, 2, 3), "full", radii=RADII),
]
EVERY = pytest.mark.parametrize("spec", SPECS, ids=str)


def state(spec: LatticeSpec, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(spec.num_nodes, 2, channels, generator=generator, dtype=torch.float64)


def moved(spec: LatticeSpec, softness: float, backend: str = "sparse") -> SoftTiers:
    """Thresholds elsewhere than at their start."""
    soft = SoftTiers(spec, softness, backend).double()
    with torch.no_grad():
        soft.shift.copy_(torch.tensor([0.3, -0.4, 0.1]))
    return soft


def loop(soft: SoftTiers, spec: LatticeSpec, x: Tensor) -> Tensor:
    """Weighted means over the edges of the built graph, cell by cell, with the weights as products of sigmoids."""
    graph, s = build_graph(spec), soft.softness
    near, middle = soft.thresholds()
    out = []
    for cell in range(spec.num_nodes):
        own = graph.edge_index[1] == cell
        d, offset, source = graph.edge_attr[own, 0], graph.edge_offset[own].double(), x[graph.edge_index[0, own]]
        d = offset.norm(dim=1)
        weights = (
            torch.sigmoid((near - d) / s),
            torch.sigmoid((d - near) / s) * torch.sigmoid((middle - d) / s),
            torch.sigmoid((d - middle) / s),
        )
        for weight in weights:
            part = (weight / weight.sum()).view(-1, 1, 1)
            out.append(
                torch.stack([(part * source).sum(0), *((part * o.view(-1, 1, 1) * source).sum(0) for o in offset.T)])
            )
    return torch.stack(out).view(spec.num_nodes, 12, *x.shape[1:]).transpose(0, 1)


@EVERY
@pytest.mark.parametrize("softness", [0.05, 0.4, 3.0])
def test_the_moments_are_weighted_means_over_the_edges(spec, softness) -> None:
    soft, x = moved(spec, softness), state(spec)
    torch.testing.assert_close(soft(x), loop(soft, spec, x), rtol=1e-11, atol=1e-11)


@EVERY
def test_backends_agree_forward_and_backward(spec) -> None:
    results = {}
    for backend in BACKENDS:
        if backend == "dense" and any(spec.reflecting):
            continue
        soft, x = moved(spec, 0.3, backend), state(spec).requires_grad_()
        out = soft(x)
        direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        results[backend] = [out, *torch.autograd.grad((out * direction).sum(), (x, soft.shift))]
    for backend, found in results.items():
        assert bool(found[2].abs().min() > 1e-3)
        for one, other in zip(found, results["edge"], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, msg=lambda m, b=backend: f"{b}: {m}")


@pytest.mark.parametrize("boundary", ["open", "absorbing"])
def test_gradients_are_right(boundary) -> None:
    spec = LatticeSpec((2, 1, 4), radii=RADII, boundary=boundary)
    soft, x = moved(spec, 0.4), state(spec, 1).requires_grad_()

    def at(x: Tensor, shift: Tensor) -> Tensor:
        return torch.func.functional_call(soft, {"shift": shift}, (x,))

    assert torch.autograd.gradcheck(at, (x, soft.shift.detach().clone().requires_grad_()))


@pytest.mark.parametrize("boundary", ["open", "periodic", "reflecting", "absorbing"])
def test_towards_no_softness_they_are_the_hard_tiers(boundary) -> None:
    spec = LatticeSpec((4, 3, 5), radii=RADII, boundary=boundary)
    x, hard = state(spec), aggregator(spec, [(t, m) for t in Tier for m in ("mean", "gradient")], "edge")
    expected = hard(x)
    with torch.no_grad():
        gaps = [float((SoftTiers(spec, s).double()(x) - expected).abs().max()) for s in (0.3, 0.1, 0.03, 0.003)]
    assert gaps[0] > gaps[1] > gaps[2] > gaps[3]
    assert gaps[3] < 1e-6
    # And so with a whole cell: no number of it changes.
    torch.manual_seed(0)
    one, other = LatticeCell(spec, 2, 4).double(), LatticeCell(spec, 2, 4, soft_tiers=1e-3).double()
    other.load_state_dict(one.state_dict() | {"aggregator.shift": torch.zeros(3)})
    torch.testing.assert_close(other.advance(x), one.advance(x), rtol=0, atol=1e-12)
    assert {t: pytest.approx(v) for t, v in one.spread.items()} == other.spread


@settings(deadline=None, max_examples=60)
@given(
    shift=st.lists(st.floats(-6, 6), min_size=3, max_size=3),
    softness=st.floats(1e-3, 10),
    radii=st.lists(st.floats(0.2, 4), min_size=3, max_size=3, unique_by=lambda r: round(r, 2)),
)
def test_thresholds_stay_ordered_and_weights_add_up_to_one(shift, softness, radii) -> None:
    spec = LatticeSpec((3, 3, 3), radii=tuple(sorted(radii)))
    soft = SoftTiers(spec, softness)
    assert soft.thresholds().tolist() == pytest.approx(spec.thresholds[:2])
    with torch.no_grad():
        soft.shift.copy_(torch.tensor(shift))
    near, middle = soft.thresholds().tolist()
    assert 0 < near < middle < spec.max_radius
    s, d = softness, soft.distances
    weights = soft.membership()
    torch.testing.assert_close(weights.sum(0), torch.ones(len(d), dtype=weights.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(weights[0], torch.sigmoid((near - d) / s), rtol=0, atol=1e-9)
    torch.testing.assert_close(weights[2], torch.sigmoid((d - middle) / s), rtol=0, atol=1e-9)
    assert bool(torch.isfinite(soft(state(spec))).all())


def test_a_threshold_moves_towards_what_the_loss_wants() -> None:
    """The functional mean is asked to be that of another, wider tier."""
    spec = LatticeSpec((5, 5, 5), radii=(0.5, 1.2, 2.5), boundary="periodic")
    wide = SoftTiers(spec, 0.15).double()
    with torch.no_grad():
        wide.shift.copy_(torch.tensor([0.0, 1.0, 0.0]))
    soft, x = SoftTiers(spec, 0.15).double(), state(spec)
    wanted, start = wide(x)[4].detach(), soft.thresholds().tolist()
    optimizer = torch.optim.Adam(soft.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        (soft(x)[4] - wanted).square().sum().backward()
        optimizer.step()
    end, goal = soft.thresholds().tolist(), wide.thresholds().tolist()
    assert start[1] == pytest.approx(1.2)
    assert end[1] == pytest.approx(goal[1], abs=0.05)
    assert abs(goal[1] - start[1]) > 0.3


class TestInTheModel:
    SPEC = LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 2.0))

    def model(self, **settings) -> LatticeModel:
        return LatticeModel(self.SPEC, embedding_dim=12, channels=3, hidden=4, steps=4, **settings)

    def test_off_is_what_it_was(self) -> None:
        plain = self.model()
        assert "cell.aggregator.shift" not in plain.state_dict()
        assert plain.settings["soft_tiers"] is None

    def test_it_learns_saves_and_says_why_it_is_not_fused(self, tmp_path, caplog) -> None:
        model, x = self.model(soft_tiers=0.2), torch.randn(5, 12)
        with caplog.at_level(logging.INFO, logger="latticegnn"):
            model(x).embedding.square().sum().backward()
        assert "the cell as it reads, for its tiers are soft" in caplog.text
        assert bool(model.cell.aggregator.shift.grad.abs().max() > 0)
        with torch.no_grad():
            model.cell.aggregator.shift.add_(torch.tensor([0.5, 0.0, 0.0]))
        model.save_pretrained(tmp_path)
        again = LatticeModel.from_pretrained(tmp_path)
        assert torch.equal(again(x).embedding, model.eval()(x).embedding)
        assert again.cell.aggregator.thresholds().tolist() == pytest.approx(model.cell.aggregator.thresholds().tolist())
        assert torch.equal(copy.deepcopy(model)(x).embedding, model(x).embedding)

    def test_a_checkpointed_rollout_has_the_same_gradient(self) -> None:
        found = []
        for gradient in ("full", "checkpointed"):
            model = self.model(soft_tiers=0.2, gradient=gradient)
            model(torch.ones(2, 12)).embedding.square().sum().backward()
            found.append(model.cell.aggregator.shift.grad)
        assert torch.equal(*found)

    def test_refusals(self, refuses) -> None:
        for wrong in (0, -1.0, math.inf, "soft", True):
            with refuses("soft_tiers is a softness in cells", f"got {wrong!r}", "null for hard tiers"):
                self.model(soft_tiers=wrong)
        with refuses("one by one (radial) or by soft tiers", "radial: true beside soft_tiers: 0.1", "leave one"):
            self.model(soft_tiers=0.1, radial=True)
        sage = {"functional": {"class_path": "torch_geometric.nn.SAGEConv"}}
        with refuses("soft tiers need experts that are linear", "SAGEConv", "soft_tiers: null"):
            self.model(soft_tiers=0.1, experts=sage)
        with refuses("tiers with hard ends", "its tiers are soft", "execution: reference"):
            self.model(soft_tiers=0.1, execution="fused")(torch.ones(1, 12))
        with refuses("takes a LatticeCell", "its tiers are soft", "execution: reference"):
            FusedStep(LatticeCell(self.SPEC, 2, 4, soft_tiers=0.1))
        graph = build_graph(self.SPEC)
        kept = graph.edge_attr[:, 0] < 1.5
        graph.edge_index, graph.edge_tier = graph.edge_index[:, kept], graph.edge_tier[kept]
        graph.edge_offset, graph.edge_attr = graph.edge_offset[kept], graph.edge_attr[kept]
        with refuses("soft tiers weigh the neighbours that the spec defines", "other edges", "soft_tiers: null"):
            LatticeCell(graph, 2, 4, soft_tiers=0.1)

    def test_the_ladder_keeps_or_refuses_them(self, refuses) -> None:
        model = self.model(soft_tiers=0.2)
        assert single_expert(model).settings["soft_tiers"] is None
        for rung in (shuffled_edges, mean_field):
            with refuses("needs hard tiers", "got soft ones", "leave"):
                rung(model)

    def test_an_own_graph_and_full_connectivity(self) -> None:
        spec = dataclasses.replace(self.SPEC, connectivity="full", shape=(3, 3, 3))
        cell = LatticeCell(build_graph(spec), 2, 4, soft_tiers=0.1)
        assert cell.aggregator.radius == pytest.approx(12**0.5)
        assert cell.aggregator.thresholds().tolist() == pytest.approx([0.5, 1.0])
