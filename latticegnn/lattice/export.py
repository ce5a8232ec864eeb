"""The lattice as a networkx graph, there and back without loss."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from latticegnn.lattice.graph import Data, validate_graph
from latticegnn.lattice.ports import Ports
from latticegnn.lattice.spec import LatticeSpec, Tier

if TYPE_CHECKING:
    import networkx as nx

DESCRIPTIONS = ("spec", "inputs", "outputs")
Owner = Literal["node", "edge"]

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.float32, torch.float64, torch.bool, torch.int32, torch.int64)
}
_TAKEN: dict[Owner, set[str]] = {
    "node": {"pos", "x", "y", "z", "input", "output", "inputs", "outputs", "spec", "grid_shape", "label", "viz", "id"}
    | {f"{side}_{kind}" for side in ("input", "output") for kind in ("mask", "nodes")},
    "edge": {"tier", "distance", "offset", "dx", "dy", "dz", "index", "attr", "source", "target", "label", "id", "key"},
}


def to_networkx(
    graph: Data,
    state: Tensor | None = None,
    cells: Mapping[str, Tensor] | None = None,
    edges: Mapping[str, Tensor] | None = None,
) -> nx.DiGraph:
    """Return the lattice as a networkx DiGraph whose edges point from source to target; self-edges are kept.

    A lattice with a reflecting boundary becomes a MultiDiGraph, since a pair of cells may have several edges there; the
    images beyond the boundary are no nodes, and an edge's offset tells which image it comes from.

    Nodes carry ``pos`` (x, y, z), ``input`` and ``output`` (bool), and ``state`` (list of F floats) where one is given.
    Edges carry ``tier`` ("local", "functional", "distant"), ``distance`` and ``offset`` (pos_source − pos_target).
    Further arrays become attributes of their names: a number a node or edge, or a list of k. ``G.graph`` holds
    ``spec``, ``inputs`` and ``outputs``, and under ``arrays`` the arrays' types and widths, as JSON texts, so that
    `from_networkx` gives the graph back.

    Args:
        graph: From `build_graph`.
        state: [N, F] or [1, N, F], float16, float32 or float64.
        cells: Name → [N] or [N, k], floating point, whole numbers or bool; every number finite.
        edges: Name → [E] or [E, k], likewise, in the order of ``graph.edge_index``.

    Raises:
        ValueError: ``state`` or an array is of another shape or type or not finite, or a name is taken.
    """
    arrays: dict[Owner, dict[str, Tensor]] = {"node": dict(cells or {}), "edge": dict(edges or {})}
    if state is not None:
        if "state" in arrays["node"]:
            raise ValueError("A graph has one state. Received state and an array named state. Leave one of them out.")
        arrays["node"] = {"state": _one_state(state, graph.spec.num_nodes)} | arrays["node"]
    _check_arrays(arrays["node"], "node", graph.spec.num_nodes)
    _check_arrays(arrays["edge"], "edge", graph.num_edges)
    result = kind_of(graph.spec)(**{name: json.dumps(graph[name].to_dict()) for name in DESCRIPTIONS})
    described = {owner: {name: _described(array) for name, array in own.items()} for owner, own in arrays.items()}
    if any(described.values()):
        result.graph["arrays"] = json.dumps(described)
    names = [tier.name.lower() for tier in Tier]
    nodes = {
        "pos": [tuple(place) for place in graph.pos.tolist()],
        "input": graph.input_mask.tolist(),
        "output": graph.output_mask.tolist(),
    }
    links = {
        "tier": [names[tier] for tier in graph.edge_tier.tolist()],
        "distance": graph.edge_attr[:, 0].tolist(),
        "offset": [tuple(offset) for offset in graph.edge_offset.tolist()],
    }
    nodes |= {name: array.tolist() for name, array in arrays["node"].items()}
    links |= {name: array.tolist() for name, array in arrays["edge"].items()}
    result.add_nodes_from(enumerate(_rows(nodes)))
    result.add_edges_from(zip(*graph.edge_index.tolist(), _rows(links), strict=True))
    return result


def _rows(columns: Mapping[str, list[Any]]) -> Iterator[dict[str, Any]]:
    for row in zip(*columns.values(), strict=True):
        yield dict(zip(columns, row, strict=True))


def _described(array: Tensor) -> tuple[str, int | None]:
    return str(array.dtype).removeprefix("torch."), None if array.dim() == 1 else array.shape[1]


def kind_of(spec: LatticeSpec) -> type[nx.DiGraph]:
    """Return the class of the lattice's networkx graph."""
    import networkx as nx

    return nx.MultiDiGraph if any(spec.reflecting) else nx.DiGraph


def _one_state(state: Tensor, cells: int) -> Tensor:
    flat = state[0] if state.dim() == 3 and state.shape[0] == 1 else state
    if flat.dim() != 2 or flat.shape[0] != cells or not flat.is_floating_point():
        raise ValueError(
            f"state is one state of the {cells} cells, [N, F] or [1, N, F], in float16, float32 or float64. Received "
            f"{state.dtype} of shape {tuple(state.shape)}. Pick one sample, for example state[0], or cast it."
        )
    return flat


def _check_arrays(arrays: Mapping[str, Tensor], owner: Owner, rows: int) -> None:
    columns: set[str] = set()
    for name, array in arrays.items():
        own = {name} if array.dim() == 1 else {f"{name}_{column}" for column in range(array.shape[-1])}
        reserved = owner == "node" and (hasattr(Data, name) or name.startswith("edge_"))
        if not name.isidentifier() or reserved or (_TAKEN[owner] | columns) & (own | {name}):
            raise ValueError(
                f"An array of {owner}s has a name of its own, of letters, digits and underscores. Received {name!r}, "
                "which the graph or another array uses, or cannot. Rename it."
            )
        columns |= own | {name}
        fits = array.dtype in _DTYPES.values() and array.dim() in (1, 2) and array.numel() > 0
        if not fits or len(array) != rows or not bool(array.isfinite().all()):
            raise ValueError(
                f"An array of {owner}s holds finite numbers, [{rows}] or [{rows}, k], in {', '.join(_DTYPES)}. "
                f"Received {name!r}, {array.dtype} of shape {tuple(array.shape)}, "
                f"{int((~array.isfinite()).sum())} numbers not finite. Cast it, or pick what is finite."
            )


def from_networkx(network: nx.DiGraph) -> Data:
    """Return the lattice graph that `to_networkx` described, with its arrays.

    Those of nodes keep their names, ``state`` among them; one of edges named ``weight`` becomes ``edge_weight``.

    Raises:
        ValueError: An attribute is missing, nodes are not numbered 0 … N−1, or the graph disagrees with its spec.
    """
    spec, inputs, outputs = descriptions(network)
    if set(network.nodes) != set(range(spec.num_nodes)):
        raise ValueError(
            f"A lattice's nodes are numbered 0 to {spec.num_nodes - 1}. Received {network.number_of_nodes()} nodes, "
            "such as "
            f"{list(network.nodes)[:3]}. Read GraphML with read_graphml, or nx.read_graphml(path, node_type=int)."
        )
    try:
        nodes = [network.nodes[node] for node in range(spec.num_nodes)]
        edges = sorted(
            ((target, source, values) for source, target, values in network.edges(data=True)),
            key=lambda edge: (edge[0], edge[1], tuple(edge[2]["offset"])),
        )
        graph = Data(
            pos=torch.tensor([values["pos"] for values in nodes], dtype=torch.float32),
            edge_index=torch.tensor([[edge[1] for edge in edges], [edge[0] for edge in edges]], dtype=torch.long),
            edge_attr=torch.tensor([[edge[2]["distance"]] for edge in edges], dtype=torch.float32).reshape(-1, 1),
            edge_tier=torch.tensor([Tier[edge[2]["tier"].upper()] for edge in edges], dtype=torch.long),
            edge_offset=torch.tensor([edge[2]["offset"] for edge in edges], dtype=torch.long).reshape(-1, 3),
            input_mask=torch.tensor([values["input"] for values in nodes], dtype=torch.bool),
            output_mask=torch.tensor([values["output"] for values in nodes], dtype=torch.bool),
            input_nodes=inputs.nodes(spec),
            output_nodes=outputs.nodes(spec),
            inputs=inputs,
            outputs=outputs,
            grid_shape=spec.shape,
            spec=spec,
        )
        for owner, name, dtype, _ in arrays_of(network):
            rows = nodes if owner == "node" else [edge[2] for edge in edges]
            attribute = name if owner == "node" else f"edge_{name}"
            graph[attribute] = torch.tensor([values[name] for values in rows], dtype=_DTYPES[dtype])
    except KeyError as error:
        raise ValueError(
            "A lattice's nodes have pos, input and output, its edges tier, distance and offset, with tiers of known "
            "names. "
            f"Received a graph in which {error} is missing or unknown. Make it with to_networkx or read_network."
        ) from error
    validate_graph(graph)
    return graph


def arrays_of(network: nx.DiGraph) -> Iterator[tuple[Owner, str, str, int | None]]:
    """Yield whose each further array is ("node" or "edge"), its name, its type, and its width; None for one number."""
    for owner, own in json.loads(network.graph.get("arrays", "{}")).items():
        for name, (dtype, width) in own.items():
            yield owner, name, dtype, width


def descriptions(network: nx.DiGraph) -> tuple[LatticeSpec, Ports, Ports]:
    """Return the spec and the ports that the graph's attributes tell of.

    Raises:
        ValueError: One is missing, or tells of no lattice.
    """
    missing = [name for name in DESCRIPTIONS if name not in network.graph]
    if missing:
        raise ValueError(
            f"A lattice's graph attributes hold {', '.join(DESCRIPTIONS)} as JSON. Received a graph without "
            f"{', '.join(missing)}. Make it with to_networkx."
        )
    spec, inputs, outputs = (json.loads(network.graph[name]) for name in DESCRIPTIONS)
    return LatticeSpec.from_dict(spec), Ports.from_dict(inputs), Ports.from_dict(outputs)
