"""Properties of the cell: symmetry, light cone, batches, gates, the shift start, refusals."""

import copy

import pytest
import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec, Tier, build_graph, hops, node_grid
from latticegnn.nn import LatticeCell, MLPExpert

RADII = (0.5, 1.0, 1.5)
OPEN = LatticeSpec((4, 3, 5), radii=RADII)
TORUS = LatticeSpec((5, 4, 3), radii=RADII, boundary="periodic")
FACES = [(axis, sign) for axis in range(3) for sign in (-1.0, 1.0)]
EXPERTS = {"functional": "attention", "distant": "gated"}


def make(graph, seed: int = 0, channels: int = 4, **settings) -> LatticeCell:
    torch.manual_seed(seed)
    return LatticeCell(graph, channels, hidden=6, **settings).double()


def state(spec: LatticeSpec, batch: int = 2, channels: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, spec.num_nodes, channels, generator=generator, dtype=torch.float64)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["default", "edges"])
@pytest.mark.parametrize("backend", ["edge", "sparse"])
def test_a_batch_equals_its_samples(backend, experts) -> None:
    cell, x = make(build_graph(OPEN), backend=backend, experts=experts), state(OPEN, batch=3)
    close(cell(x), torch.cat([cell(one.unsqueeze(0)) for one in x]))
    close(cell.advance(x.transpose(0, 1)), cell(x).transpose(0, 1))


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["default", "edges"])
@pytest.mark.parametrize("backend", ["edge", "sparse"])
def test_edge_order_and_cell_numbers_do_not_matter(backend, experts) -> None:
    graph, x = build_graph(OPEN), state(OPEN)
    expected = make(graph, backend=backend, experts=experts)(x)
    order, new = torch.randperm(graph.num_edges), torch.randperm(OPEN.num_nodes)
    changed = graph.clone()
    changed.edge_index = new[graph.edge_index[:, order]]
    for name in ("edge_tier", "edge_attr", "edge_offset"):
        changed[name] = graph[name][order]
    assert not torch.equal(changed.edge_index, graph.edge_index)
    renamed = torch.empty_like(x)
    renamed[:, new] = x
    close(make(changed, backend=backend, experts=experts)(renamed)[:, new], expected)


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["default", "edges"])
@pytest.mark.parametrize("axis", range(3))
def test_translation_on_a_torus_commutes(axis, experts) -> None:
    grid, x = node_grid(TORUS), state(TORUS)
    cell = make(build_graph(TORUS), experts=experts)
    moved = grid.roll(1, axis).flatten()[grid.flatten().argsort()]
    assert not torch.equal(x[:, moved], x)
    close(cell(x[:, moved]), cell(x)[:, moved])


@pytest.mark.parametrize("experts", [None, EXPERTS], ids=["default", "edges"])
@pytest.mark.parametrize("backend", ["edge", "sparse"])
@pytest.mark.parametrize("spec", [OPEN, TORUS, LatticeSpec((6, 3, 3), radii=(1.0, 1.5, 2.0))], ids=str)
def test_the_light_cone(spec, backend, experts) -> None:
    cell, x = make(build_graph(spec), backend=backend, experts=experts), state(spec, batch=1)
    distance = hops(spec, torch.tensor([0]))
    poked = x.clone()
    poked[:, 0] += 1.0
    with torch.no_grad():
        for k in range(1, int(distance.max()) + 1):
            x, poked = cell(x), cell(poked)
            moved = (poked - x).abs().amax(dim=(0, 2))
            assert not moved[distance > k].any()
            assert moved[distance == k].any()


@pytest.mark.parametrize("spec", [OPEN, LatticeSpec((3, 3, 3))], ids=["tiers", "local only"])
def test_gates_sum_to_one(spec) -> None:
    cell, x = make(build_graph(spec)), 3 * state(spec)
    gates = cell.gates(x)
    assert gates.shape == (2, spec.num_nodes, len(cell.experts))
    assert bool((gates > 0).all())
    close(gates.sum(dim=-1), torch.ones(2, spec.num_nodes, dtype=torch.float64))


def shifted(spec: LatticeSpec, velocity: list[float], tier: Tier) -> LatticeCell:
    """A cell whose bypass shifts and in which nothing else acts."""
    cell = make(build_graph(spec), channels=2)
    with torch.no_grad():
        for parameter in (cell.bypass.weight, *cell.experts.parameters()):
            parameter.zero_()
    cell.start_shift(velocity, tier)
    return cell


@pytest.mark.parametrize("tier", [Tier.FUNCTIONAL, Tier.DISTANT])
@pytest.mark.parametrize(("axis", "sign"), FACES)
def test_the_shift_carries_a_pulse_at_its_speed(axis, sign, tier) -> None:
    spec = LatticeSpec((7, 7, 7), radii=RADII, boundary="periodic")
    velocity = [0.0, 0.0, 0.0]
    velocity[axis] = 0.8 * sign
    cell, x = shifted(spec, velocity, tier), torch.zeros(1, 343, 2, dtype=torch.float64)
    place = build_graph(spec).pos.double() - 3
    x[:, place.eq(0).all(dim=1)] = torch.tensor([1.0, -2.0], dtype=torch.float64)
    with torch.no_grad():
        for steps in (1, 2):
            x = cell(x)
            for channel, mass in ((0, 1.0), (1, -2.0)):
                centre = (place * x[0, :, channel : channel + 1]).sum(dim=0) / mass
                assert x[0, :, channel].sum() == pytest.approx(mass)
                assert centre.tolist() == pytest.approx([steps * v for v in velocity], abs=1e-6)


def test_a_full_speed_shift_moves_the_pulse_one_layer() -> None:
    spec = LatticeSpec((1, 1, 9), radii=(0.5, 1.0, 2.0), boundary="periodic")
    cell, x = shifted(spec, [0.0, 0.0, 1.0], Tier.FUNCTIONAL), torch.zeros(1, 9, 2, dtype=torch.float64)
    x[0, 2] = 1.0
    expected = torch.zeros_like(x)
    expected[0, 3] = 1.0
    torch.testing.assert_close(cell(x), expected, rtol=0, atol=1e-6)


def test_tiers_without_edges_have_no_expert() -> None:
    assert list(make(build_graph(LatticeSpec((3, 3, 3)))).experts) == ["local"]
    assert list(make(build_graph(LatticeSpec((5, 5, 5)))).experts) == ["local", "distant"]
    default = make(build_graph(LatticeSpec()), channels=8)
    assert list(default.experts) == ["local", "functional", "distant"]
    assert default.reaching == (Tier.FUNCTIONAL, Tier.DISTANT)
    assert default.experts["local"].inner.in_features == 8
    assert default.experts["functional"].inner.in_features == 8 + 32


def test_a_used_cell_can_be_copied() -> None:
    cell, x = make(build_graph(OPEN)), state(OPEN)
    assert torch.equal(cell(x), copy.deepcopy(cell)(x))
    assert cell.backend == "sparse"


class Narrow(MLPExpert):
    """Forgets a channel."""

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        return super().forward(x, moments)[..., 1:]


@pytest.mark.parametrize("backend", ["fft", "dft"])
def test_a_backend_without_edges_refuses_what_works_on_edges(backend, refuses) -> None:
    rule = f"backend '{backend}' works without edges"
    with refuses(rule, "the functional tier has AttentionExpert", "choose another backend"):
        make(OPEN, backend=backend, experts=EXPERTS)
    assert make(OPEN, backend="auto", experts=EXPERTS)(state(OPEN)).shape == state(OPEN).shape


def test_a_lattice_whose_edges_do_not_fit_has_a_cell() -> None:
    """37³ at the default ratios: 70 million edges, none of them made."""
    cell = LatticeCell(LatticeSpec((37, 37, 37)), 2, hidden=2)
    assert cell.backend == "dft"
    assert cell.advance(torch.ones(37**3, 1, 2)).shape == (37**3, 1, 2)


def test_refusals(refuses) -> None:
    graph = build_graph(OPEN)
    with refuses("tiers local, functional, distant", "'functoinal'", "use these names"):
        make(graph, experts={"functoinal": "mlp"})
    with refuses("must name a torch module", "'fractions.Fraction'", "name a layer's class"):
        make(graph, experts={"functional": "fractions.Fraction"})
    with refuses("local tier: an expert must return the shape", "Narrow returned [1, 1, 3]", "output width to 4"):
        make(graph, experts={"local": f"{__name__}.Narrow"})
    with refuses("backend must be one of", "'sparce'", "did you mean 'sparse'?"):
        make(graph, backend="sparce")
    cell = make(graph)
    for wrong in (torch.zeros(60, 4), torch.zeros(1, 59, 4), torch.zeros(1, 60, 5)):
        for call in (cell, cell.gates):
            with refuses("[B, N, F] = [B, 60, 4]", f"got {list(wrong.shape)}", "pass a batch of states"):
                call(wrong)
