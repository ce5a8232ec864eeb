"""Every rung takes one thing from the lattice and leaves the rest: shape, light cone, degrees, parameters, start."""

import copy

import pytest
import torch

from latticegnn.aggregate import aggregator
from latticegnn.analysis import ladder
from latticegnn.analysis.ladder import RUNGS
from latticegnn.lattice import LatticeSpec, Ports, Tier, build_graph, degrees, steps_needed
from latticegnn.model import LatticeModel
from latticegnn.nn.cell import MOMENTS

SPEC = LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5))


def lattice(spec=SPEC, **settings) -> LatticeModel:
    model = LatticeModel(spec, embedding_dim=12, channels=4, hidden=6, steps=5, seed=3, **settings).double()
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(2, 40, 12, generator=generator, dtype=torch.float64)
    model.fit_maps(inputs, targets)
    return model


def embeddings(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def rung(name: str, model: LatticeModel) -> LatticeModel:
    return RUNGS[name](model).double()


def parameters(model: LatticeModel, part: str) -> dict[str, torch.Tensor]:
    return dict(getattr(model, part).named_parameters())


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_starts_from_the_same_maps_and_leaves_the_lattice_alone(name) -> None:
    model = lattice()
    before = copy.deepcopy(model.state_dict())
    made = rung(name, model)
    for part in ("transformer", "mapper", "extractor"):
        mine, own = parameters(made, part), parameters(model, part)
        assert mine.keys() == own.keys()
        assert all(torch.equal(mine[key], own[key]) for key in own)
        assert all(mine[key] is not own[key] for key in own)
    made(embeddings()).embedding.square().sum().backward()
    with torch.no_grad():
        for value in made.parameters():
            value.add_(1)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_computed_alike_by_every_execution(name) -> None:
    results = []
    for execution in ("reference", "fused"):
        made = rung(name, lattice(execution=execution))
        embedding = embeddings().requires_grad_()
        out = made(embedding).embedding
        learned = [value for value in made.parameters() if value.requires_grad]
        results.append([out, *torch.autograd.grad(out.square().sum(), [embedding, *learned], allow_unused=True)])
    for one, other in zip(*results, strict=True):
        if one is None or other is None:  # a gate with nothing to choose
            assert not torch.any(other if one is None else one)
        else:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", RUNGS)
def test_a_rung_is_the_same_from_the_same_seed_and_takes_its_own_weights_back(name) -> None:
    one, again = rung(name, lattice()), rung(name, lattice())
    expected = one(embeddings()).embedding
    assert torch.equal(again(embeddings()).embedding, expected)
    with torch.no_grad():
        for value in again.parameters():
            value.mul_(2)
    again.load_state_dict(one.state_dict())
    assert torch.equal(copy.deepcopy(again)(embeddings()).embedding, expected)


def test_parameters_that_are_trained() -> None:
    model = lattice()
    counts = {name: sum(p.numel() for p in rung(name, model).parameters() if p.requires_grad) for name in RUNGS}
    own = model.parameter_counts()
    gate = sum(p.numel() for p in model.cell.gate.parameters())
    assert counts["frozen_random"] == own["maps"]
    assert counts["shuffled_edges"] == counts["mean_field"] == counts["sheet"] == own["total"]
    assert counts["no_gate"] == own["total"] - gate
    assert own["maps"] < counts["single_expert"] < own["total"]


def test_a_random_cell_is_in_the_units_of_the_lattice_it_stands_in_for() -> None:
    model = lattice(port_map="bilinear", code_shape=(2, 3)).resized((6, 6, 6), keep="ratios")
    for name in ("frozen_random", "mean_field"):
        assert torch.equal(rung(name, model).cell.units, model.cell.units)


def test_frozen_random_has_no_shift() -> None:
    model = lattice()
    start = rung("frozen_random", model).cell.bypass.weight
    assert start.abs().max() < 0.1 < model.cell.bypass.weight.abs().max()
    assert torch.equal(start, lattice(initialisation="random").cell.bypass.weight)


def matrices(cell) -> torch.Tensor:
    """The cell's functionals as matrices [R, N, N], column by column."""
    eye = torch.eye(cell.num_nodes, dtype=torch.float64).unsqueeze(-1)
    return torch.cat([cell.aggregator(column.unsqueeze(1)) for column in eye], dim=2).squeeze(-1)


@pytest.mark.parametrize("backend", ["sparse", "dense", "dft"])
def test_shuffled_edges_keep_degrees_and_weights_and_lose_the_places(backend) -> None:
    model = lattice(backend=backend)
    own, shuffled = matrices(model.cell), matrices(rung("shuffled_edges", model).cell)
    close = {"rtol": 1e-9, "atol": 1e-12}
    torch.testing.assert_close(shuffled.sort(dim=2).values, own.sort(dim=2).values, **close)
    assert not torch.allclose(shuffled, own)
    for tier in range(2):
        rows = slice(4 * tier, 4 * tier + 4)
        columns = [[own[rows, :, j] for j in range(64)], [shuffled[rows, :, j] for j in range(64)]]
        for column in columns[0][:5]:
            assert any(torch.allclose(column, other, **close) for other in columns[1]), "read through a permutation"
    order = rung("shuffled_edges", model).cell.aggregator.order
    assert not torch.equal(order[0], order[1])


@pytest.mark.parametrize("name", ["shuffled_edges", "mean_field"])
@pytest.mark.parametrize("radial", [False, True])
def test_the_adjoint_and_the_weights_gradient_belong_to_the_map(name, radial) -> None:
    cell = rung(name, lattice(radial=radial)).cell
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(64, 2, 3, generator=generator, dtype=torch.float64)
    g = torch.randn(cell.aggregator.count, 64, 2, 3, generator=generator, dtype=torch.float64)
    weights = torch.rand(cell.aggregator.shells, generator=generator, dtype=torch.float64) if radial else None
    product = (cell.aggregator(x, weights) * g).sum()
    torch.testing.assert_close((cell.aggregator.adjoint(g, weights) * x).sum(), product)
    if weights is not None and name == "shuffled_edges":
        torch.testing.assert_close((cell.aggregator.weights_gradient(x, g) * weights).sum(), product)
    torch.testing.assert_close(cell.aggregator.by_cells(x, weights)(5, 9), cell.aggregator(x, weights)[:, 5:9])


def test_a_signal_leaves_the_light_cone_over_shuffled_edges() -> None:
    model = lattice()
    made, state = rung("shuffled_edges", model), torch.zeros(1, 64, 4, dtype=torch.float64)
    state[0, 0] = 1
    reached = [
        (cell(state) - cell(torch.zeros_like(state))).abs().sum(-1)[0] > 1e-9 for cell in (model.cell, made.cell)
    ]
    graph = build_graph(SPEC)
    neighbours = set(graph.edge_index[1][graph.edge_index[0] == 0].tolist())
    assert set(reached[0].nonzero().flatten().tolist()) == neighbours
    assert not set(reached[1].nonzero().flatten().tolist()) <= neighbours


def test_mean_field_sees_the_mean_of_all_cells() -> None:
    found = matrices(rung("mean_field", lattice()).cell)
    expected = torch.zeros(8, 64, 64, dtype=torch.float64)
    expected[[0, 4]] = 1 / 64
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("shape", "faces", "flat"),
    [((4, 4, 4), "zz", (16, 4, 1)), ((3, 4, 5), "zz", (12, 5, 1)), ((3, 4, 5), "xx", (20, 3, 1))],
)
def test_a_sheet_has_as_many_cells_ports_and_layers(shape, faces, flat) -> None:
    ends = {"inputs": Ports(face=f"{faces[0]}+"), "outputs": Ports(face=f"{faces[1]}-")}
    model = lattice(LatticeSpec(shape, radii=(0.5, 1.0, 1.5)), **ends)
    made = rung("sheet", model)
    assert made.spec.shape == flat
    assert made.spec.thresholds == model.spec.thresholds
    assert (len(made.input_nodes), len(made.output_nodes)) == (len(model.input_nodes), len(model.output_nodes))
    assert steps_needed(made.spec, made.inputs, made.outputs) == steps_needed(model.spec, model.inputs, model.outputs)
    assert int(degrees(made.spec).sum(1).max()) == 8 < int(degrees(model.spec).sum(1).max())


@pytest.mark.parametrize(
    "ends",
    [
        {"outputs": Ports(face="z-")},
        {"outputs": Ports(face="x-")},
        {"inputs": Ports(face="surface")},
        {"inputs": Ports(face="z-", placement="corners")},
        {"port_map": "bilinear", "code_shape": (2, 3)},
    ],
)
def test_a_sheet_needs_two_opposite_faces(ends, refuses) -> None:
    with refuses("needs full ports on two opposite faces", "got", "leave sheet out of baselines"):
        ladder.sheet(lattice(**ends))


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        LatticeSpec((4, 4, 4), connectivity="full"),
        LatticeSpec((8, 8, 8)),
        LatticeSpec((5, 5, 5), radii=(1, 2, 3)),
    ],
    ids=str,
)
def test_a_single_expert_has_all_neighbours_in_one_tier(spec) -> None:
    model = LatticeModel(spec, embedding_dim=12, channels=4, hidden=6, steps=8)
    made = ladder.single_expert(model)
    assert list(made.cell.experts) == ["local"]
    assert made.cell.reaching == (Tier.LOCAL,)
    assert torch.equal(degrees(made.spec)[:, 0], degrees(spec).sum(dim=1))
    assert torch.equal(made.cell.gates(torch.randn(2, spec.num_nodes, 4)), torch.ones(2, spec.num_nodes, 1))
    assert made.cell.bypass.weight.abs().max() > 0.5, "it starts as a shift, too"


def test_without_a_gate_the_experts_count_alike() -> None:
    made = rung("no_gate", lattice())
    weights = made.cell.gates(torch.randn(2, 64, 4, dtype=torch.float64))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / 3))


@pytest.mark.parametrize("name", ["shuffled_edges", "mean_field"])
def test_experts_that_work_edge_by_edge_are_refused(name, refuses) -> None:
    model = lattice(experts={"functional": {"class_path": "torch_geometric.nn.SAGEConv"}})
    with refuses(
        f"the rung {name} needs experts that are linear", "functional works edge by edge", f"leave {name} out"
    ):
        RUNGS[name](model)


def test_blocks_of_functionals_are_as_the_cell_asks_for_them() -> None:
    made = aggregator(SPEC, [(t, m) for t in (Tier.FUNCTIONAL, Tier.DISTANT) for m in MOMENTS])
    assert made.count == 2 * ladder.ROWS
