"""Each built-in expert against a loop, and layers of PyG and of a user in an expert's place."""

import math

import pytest
import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Tier, build_graph, node_grid
from latticegnn.nn import AttentionExpert, EdgeExpert, Expert, GatedExpert, LatticeCell, MeanFieldExpert, MLPExpert

SPEC = LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5))
CHANNELS = 4
MLP = {"class_path": "torch_geometric.nn.MLP", "init_args": {"channel_list": [CHANNELS, 6, CHANNELS], "norm": None}}
PAIR = {"class_path": "torch_geometric.nn.MLP", "init_args": {"channel_list": [2 * CHANNELS, CHANNELS], "norm": None}}


def tier_edges(spec: LatticeSpec = SPEC, tier: Tier = Tier.FUNCTIONAL) -> tuple[Tensor, Tensor]:
    graph = build_graph(spec)
    chosen = graph.edge_tier == tier
    return graph.edge_index[:, chosen], graph.edge_attr[chosen].double()


def state(batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, SPEC.num_nodes, CHANNELS, generator=generator, dtype=torch.float64)


def silu(value: Tensor) -> Tensor:
    return value / (1 + torch.exp(-value))


def linear(layer: nn.Linear, value: Tensor) -> Tensor:
    return layer.weight @ value + (layer.bias if layer.bias is not None else 0)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_mlp_expert_is_its_formula() -> None:
    torch.manual_seed(0)
    for moments in (0, 16):
        expert = MLPExpert(CHANNELS, moments, hidden=5).double()
        x, m = torch.randn(3, 2, CHANNELS).double(), torch.randn(3, 2, moments).double()
        out = expert(x, m)
        for i in range(3):
            for b in range(2):
                inner = silu(linear(expert.inner, torch.cat([x[i, b], m[i, b]])))
                close(out[i, b], linear(expert.outer, inner))


def test_mean_field_expert_is_its_euler_steps() -> None:
    torch.manual_seed(0)
    expert = MeanFieldExpert(2, 8, euler_steps=4).double()
    nn.init.normal_(expert.rate)
    x, m = torch.randn(2).double(), torch.randn(8).double()
    out, drive = expert(x, m), linear(expert.drive, torch.cat([x, m]))
    for c in range(2):
        u, rate = 0.0, 1 / (1 + math.exp(-expert.rate[c].item()))
        for _ in range(4):
            d = drive[c].item() + u
            u += 0.25 * rate * (d / (1 + math.exp(-d)) - u)
        assert out[c].item() == pytest.approx(u, abs=1e-12)


@pytest.mark.parametrize("steps", [0, -1])
def test_euler_steps_must_be_positive(steps, refuses) -> None:
    with refuses("euler_steps must be at least 1", f"got {steps}", "set it to 1 or more"):
        MeanFieldExpert(2, 8, euler_steps=steps)


def near(edge_index: Tensor, cell: int) -> list[tuple[int, int]]:
    """Edge number and source of each edge into a cell."""
    return [(e, int(s)) for e, (s, t) in enumerate(edge_index.T.tolist()) if t == cell]


def test_attention_expert_is_a_softmax_loop() -> None:
    torch.manual_seed(0)
    expert, x = AttentionExpert(CHANNELS, CHANNELS, hidden=5).double(), state()
    edge_index, distance = tier_edges(tier=Tier.DISTANT)
    distance = distance * torch.linspace(0.5, 2, len(distance)).double().unsqueeze(1)  # or it would cancel
    out = expert(x, edge_index, distance)
    for b in range(2):
        for i in range(SPEC.num_nodes):
            scores, values = [], []
            for e, j in near(edge_index, i):
                hidden = linear(expert.source, x[b, j]) + linear(expert.target, x[b, i])
                scores.append(linear(expert.score, silu(hidden + linear(expert.distance, distance[e]))))
                values.append(linear(expert.value, x[b, j]))
            weights = torch.stack(scores).exp()
            close(out[b, i], (weights / weights.sum() * torch.stack(values)).sum(dim=0))


def test_gated_expert_is_a_loop() -> None:
    torch.manual_seed(0)
    expert, x = GatedExpert(CHANNELS, CHANNELS).double(), state()
    edge_index, distance = tier_edges(tier=Tier.DISTANT)
    distance = distance * torch.linspace(0.5, 2, len(distance)).double().unsqueeze(1)
    out = expert(x, edge_index, distance)
    for b in range(2):
        for i in range(SPEC.num_nodes):
            total = torch.zeros(CHANNELS, dtype=torch.float64)
            for e, j in near(edge_index, i):
                pair = torch.cat([x[b, i], x[b, j], distance[e]])
                total = total + torch.sigmoid(linear(expert.gate, pair)) * silu(linear(expert.content, pair))
            close(out[b, i], total / len(near(edge_index, i)))


LAYERS = {
    "SAGEConv": ("torch_geometric.nn.SAGEConv", {}, True),
    "GraphConv": ("torch_geometric.nn.GraphConv", {}, True),
    "GINConv": ("torch_geometric.nn.GINConv", {"nn": MLP}, True),
    "EdgeConv": ("torch_geometric.nn.EdgeConv", {"nn": PAIR}, True),
    "GATv2Conv": ("torch_geometric.nn.GATv2Conv", {"heads": 2, "concat": False}, False),
    "GATv2Conv with distance": ("torch_geometric.nn.GATv2Conv", {"heads": 2, "concat": False, "edge_dim": 1}, False),
    "CGConv": ("torch_geometric.nn.CGConv", {"channels": CHANNELS, "dim": 1}, False),
    "attention": ("attention", {}, True),
    "gated": ("gated", {}, True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_pyg_serve_as_experts(name) -> None:
    path, init_args, static = LAYERS[name]
    torch.manual_seed(0)
    setting = {"class_path": path, "init_args": init_args}
    cell = LatticeCell(build_graph(SPEC), CHANNELS, experts={"functional": setting}).double()
    expert, x = cell.experts["functional"], state(batch=3)
    assert isinstance(expert, EdgeExpert)
    assert expert.static_graph is static
    edge_index, distance = tier_edges()
    attributes = {"edge_attr": distance} if expert.passes_distance else {}
    singles = torch.stack([expert.layer(one, edge_index, **attributes) for one in x])
    close(expert(x.transpose(0, 1), x[:0]).transpose(0, 1), singles)
    # The gate and the bypass are the cell's as ever: swapping the expert changes its proposal alone.
    moments = cell.gates(x)[..., 1:2] * singles
    whole = cell(x)
    expert.forward = lambda x, moments: torch.zeros_like(x)
    close(whole - cell(x), cell.step * moments)


def test_distance_is_handed_to_layers_that_take_it() -> None:
    graph = build_graph(SPEC)
    passes = {
        name: LatticeCell(graph, CHANNELS, experts={"distant": {"class_path": path, "init_args": init_args}})
        .experts["distant"]
        .passes_distance
        for name, (path, init_args, _) in LAYERS.items()
    }
    assert {name for name, passed in passes.items() if passed} == {
        "GATv2Conv with distance",
        "CGConv",
        "attention",
        "gated",
    }


def test_the_self_edge_is_an_edge_of_the_local_tier() -> None:
    torch.manual_seed(0)
    cell = LatticeCell(build_graph(SPEC), CHANNELS, experts={"local": "torch_geometric.nn.SAGEConv"}).double()
    layer, x = cell.experts["local"].layer, state()
    expected = x @ layer.lin_l.weight.T + layer.lin_l.bias + x @ layer.lin_r.weight.T
    close(cell.experts["local"](x.transpose(0, 1), x[:0]).transpose(0, 1), expected)


class Dropping(nn.Module):
    """Drops half of everything, so two calls agree only where they draw nothing."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.inner = nn.Linear(in_channels, out_channels)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return nn.functional.dropout(self.inner(x), 0.5, self.training)


def test_the_trial_call_leaves_the_layer_and_the_random_state_alone() -> None:
    edge_index, distance = tier_edges()
    layer, before = Dropping(CHANNELS, CHANNELS), torch.get_rng_state()
    expert = EdgeExpert(layer, edge_index, distance, SPEC.num_nodes, CHANNELS)
    assert expert.static_graph
    assert layer.training
    assert torch.equal(torch.get_rng_state(), before)


USER = '''
import torch
from torch_geometric.nn import MessagePassing


class Doubler(MessagePassing):
    """Twice the sum of the neighbours."""

    def __init__(self, in_channels, out_channels, factor=2.0):
        super().__init__(aggr="sum", node_dim=-2)
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x, edge_index):
        return self.factor * self.propagate(edge_index, x=x)
'''


def test_a_class_in_a_file_serves_as_an_expert(tmp_path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(USER)
    setting = {"class_path": f"{file}:Doubler", "init_args": {"factor": 3.0}}
    cell = LatticeCell(build_graph(SPEC), CHANNELS, experts={"functional": setting}).double()
    x = state()
    edge_index, _ = tier_edges()
    expected = torch.zeros_like(x).index_add(1, edge_index[1], 3 * x[:, edge_index[0]])
    close(cell.experts["functional"](x.transpose(0, 1), x[:0]).transpose(0, 1), expected)


def test_layers_that_do_not_fit_are_refused(refuses) -> None:
    def cell(path: str, **init_args) -> LatticeCell:
        setting = {"class_path": path, "init_args": init_args}
        return LatticeCell(build_graph(SPEC), CHANNELS, experts={"distant": setting})

    with refuses("distant tier: an expert must return the shape", "GATv2Conv returned [36, 8]", "concat: false"):
        cell("torch_geometric.nn.GATv2Conv", heads=2)
    with refuses("an expert must run as layer(x [N, F], edge_index", "Linear failed on N = 36, F = 4", "its init_args"):
        cell("torch.nn.Linear", in_features=4, out_features=4)
    with refuses("an expert must return the shape", "LSTM returned tuple", "set its output width"):
        cell(f"{__name__}.LSTM")
    wrong = {"class_path": "torch_geometric.nn.MLP", "init_args": {"channel_list": [5, 4]}}
    with refuses("an expert must run as", "GINConv failed", "mend its forward"):
        cell("torch_geometric.nn.GINConv", nn=wrong)


class LSTM(nn.Module):
    """Returns a pair, as recurrent layers do."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, edge_index: Tensor) -> tuple[Tensor, None]:
        return x, None


class Placed(Expert):
    """Gives where it is, whatever the state."""

    def __init__(self, channels: int, moments: int, positions: Tensor) -> None:
        super().__init__()
        self.register_buffer("positions", positions, persistent=False)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose the place."""
        return self.positions.to(x).unsqueeze(1).expand(x.shape)


@pytest.mark.parametrize("order", ["raster", "morton"])
@pytest.mark.parametrize("as_graph", [False, True])
def test_an_expert_may_know_where_it_is(order, as_graph) -> None:
    """From -1 to 1 along each axis, in the order of the cells; an axis of one cell has its middle there."""
    spec = LatticeSpec((3, 1, 4), order=order, radii=(0.5, 1.0, 1.5))
    setting = {"functional": {"class_path": f"{__name__}.Placed"}}
    cell = LatticeCell(build_graph(spec) if as_graph else spec, channels=3, experts=setting)
    found = cell.experts["functional"](torch.zeros(12, 2, 3), torch.zeros(12, 2, 12))
    grid = node_grid(spec)
    for x in range(3):
        for z in range(4):
            expected = torch.tensor([x - 1, 0, 2 * z / 3 - 1])
            close(found[grid[x, 0, z]], expected.expand(2, 3))
