"""The effective graph: its weights against the aggregator's own means, and what a rollout leaves in each cell."""

import networkx as nx
import pytest
import torch

from latticegnn.aggregate import aggregator
from latticegnn.analysis import cell_statistics, effective_graph, effective_weights, gate_course
from latticegnn.lattice import LatticeSpec, Tier, from_networkx, hops, read_network, write_network
from latticegnn.model import LatticeModel
from latticegnn.nn import SoftTiers

SHAPE = {"shape": (3, 2, 4), "radii": (0.5, 1.0, 1.5)}
KINDS = {
    "hard": ({}, {}),
    "periodic": ({"boundary": "periodic"}, {}),
    "reflecting": ({"boundary": "reflecting"}, {}),
    "absorbing": ({"boundary": "absorbing"}, {}),
    "morton": ({"order": "morton"}, {}),
    "full": ({"connectivity": "full"}, {}),
    "a local tier with neighbours": ({"radii": (1.0, 1.5, 2.0)}, {}),
    "an empty tier": ({"radii": (0.2, 0.5, 1.5)}, {}),
    "radial": ({}, {"radial": True}),
    "soft": ({}, {"soft_tiers": 0.3}),
    "soft and absorbing": ({"boundary": "absorbing"}, {"soft_tiers": 0.3}),
}


def build(kind: str) -> LatticeModel:
    lattice, settings = KINDS[kind]
    settings = {"embedding_dim": 6, "channels": 3, "hidden": 4, "steps": 5} | settings
    model = LatticeModel(LatticeSpec(**(SHAPE | lattice)), **settings).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.cell.parameters():  # a gate that tells tiers apart, and distances that weigh
            parameter.add_(0.5 * torch.randn_like(parameter))
        model.cell.step.fill_(0.1)
    return model


def matrix(model: LatticeModel, gates: torch.Tensor) -> torch.Tensor:
    """The plain twin: what each cell's means take of every other, found by feeding unit states to the aggregator."""
    cells = model.spec.num_nodes
    unit = torch.eye(cells, dtype=torch.float64).unsqueeze(1)  # [N, B = 1, F = N]
    soft = isinstance(model.cell.aggregator, SoftTiers)
    tiers = list(Tier) if soft else model.cell.reaching
    if soft:
        means = model.cell.aggregator(unit)[::4]
    else:
        means = aggregator(model.spec, [(t, "mean") for t in tiers], "edge", model.cell.radial is not None)(
            unit, model.cell.radial
        )
    total = sum(gates[:, int(t), None] * mean[:, 0].abs() for t, mean in zip(tiers, means, strict=True))
    if Tier.LOCAL not in tiers:
        total = total + gates[:, 0].diag()
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_the_gates_shares_of_the_tiers_means(kind) -> None:
    model = build(kind)
    gates = torch.rand(model.spec.num_nodes, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = matrix(model, gates)
    source, target = model.graph.edge_index
    found = torch.zeros_like(expected).index_put_(
        (target, source), effective_weights(model, gates), accumulate=True
    )  # reflected edges may be several
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert (found > 0).sum() > model.spec.num_nodes


def test_weights_that_arrive_are_a_random_walks() -> None:
    model = build("hard")
    network = effective_graph(model, torch.randn(4, 6, dtype=torch.float64))
    into = [weight for _, weight in network.in_degree(weight="weight")]
    assert into == pytest.approx([1.0] * 24)
    assert nx.pagerank(network.reverse(), weight="weight").keys() == set(range(24))


@pytest.mark.parametrize("kind", ["hard", "an empty tier", "soft"])
def test_the_gates_course_is_the_gate_seen_row_by_row(kind) -> None:
    model = build(kind)
    trajectory = model.rollout(torch.randn(3, 6, dtype=torch.float64), trajectory=True).trajectory
    course = gate_course(model, trajectory)
    assert course.shape == (5, 24, 3)
    assert torch.allclose(course.sum(dim=2), torch.ones(5, 24, dtype=torch.float64))
    for step in range(5):
        each = torch.stack([model.cell.gates(trajectory[step, row : row + 1])[0] for row in range(3)]).mean(dim=0)
        for column, name in enumerate(model.cell.experts):
            assert torch.allclose(course[step, :, Tier[name.upper()]], each[:, column], atol=1e-12)
    if kind == "an empty tier":
        assert not course[:, :, Tier.FUNCTIONAL].any()
    assert course.std(dim=(0, 1)).max() > 1e-3, "the gate tells cells or steps apart"


def test_arrival_is_no_earlier_than_the_light_cone_and_reaches_the_outputs() -> None:
    model = build("hard")
    network = effective_graph(model, torch.randn(4, 6, dtype=torch.float64))
    arrival = torch.tensor([network.nodes[node]["arrival"] for node in range(24)])
    assert arrival.tolist() == hops(model.spec, model.input_nodes).tolist()


def test_statistics_of_known_trajectories() -> None:
    reference = torch.full((4, 1, 2, 3), 5.0)
    trajectory = reference.repeat(1, 2, 1, 1)
    trajectory[2:, 0, 0] += 2.0  # from step 2 on, in one of two rows
    trajectory[3, :, 0] += 1.0
    found = cell_statistics(trajectory, reference)
    assert found["arrival"].tolist() == [2, -1]
    assert found["activity"].tolist() == pytest.approx([((4 / 2 + (9 + 1) / 2) / 4) ** 0.5, 0.0])
    assert found["change"].tolist() == pytest.approx([1.0, 0.0])


def test_one_row_more_steps_and_a_file_that_keeps_everything(tmp_path) -> None:
    model = build("reflecting")
    inputs = torch.randn(1, 6, dtype=torch.float64)
    network = effective_graph(model, inputs, steps=8)
    state = model.rollout(inputs, 8).state[0]
    back = from_networkx(read_network(write_network(network, tmp_path / "run.json")))
    assert torch.allclose(back.state, state, atol=1e-12)
    gates = gate_course(model, model.rollout(inputs, 8, trajectory=True).trajectory).mean(dim=0)
    assert torch.allclose(back.gate, gates, atol=1e-12)
    assert torch.allclose(back.edge_weight, effective_weights(model, gates), atol=1e-12)
    assert int(back.arrival.max()) <= 8


def test_what_is_refused(refuses) -> None:
    model = build("hard")
    states = torch.zeros(3, 2, 24, 3, dtype=torch.float64)
    with refuses("at least 2 states", "Received 1", "Roll out further"):
        gate_course(model, states[:1])
    with refuses("one row's rollout, [3, 1, 24, 3]", "[3, 2, 24, 3]", "zero embedding"):
        cell_statistics(states, states)
    with refuses("at least 2 states", "Received 1", "Roll out further"):
        effective_graph(model, torch.zeros(1, 6, dtype=torch.float64), steps=0)
