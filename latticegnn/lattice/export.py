"""The lattice as a networkx graph and as a GraphML file, there and back without loss."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import escape

import torch
from torch import Tensor

from latticegnn.lattice.graph import Data, validate_graph
from latticegnn.lattice.ports import Ports
from latticegnn.lattice.spec import LatticeSpec, Tier
from latticegnn.lattice.storage import require_file, write_atomically

if TYPE_CHECKING:
    import networkx as nx

_DESCRIPTIONS = ("spec", "inputs", "outputs")
_STATE_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.float32, torch.float64)}


def to_networkx(graph: Data, state: Tensor | None = None) -> nx.DiGraph:
    """Return the lattice as a networkx DiGraph whose edges point from source to target; self-edges are kept.

    A lattice with a reflecting boundary becomes a MultiDiGraph, since a pair of cells may have several edges there; the
    images beyond the boundary are no nodes, and an edge's offset tells which image it comes from.

    Nodes carry ``pos`` (x, y, z), ``input`` and ``output`` (bool), and ``state`` (list of F floats) where one is given.
    Edges carry ``tier`` ("local", "functional", "distant"), ``distance`` and ``offset`` (pos_source − pos_target).
    ``G.graph`` holds ``spec``, ``inputs`` and ``outputs`` as JSON texts, so that :func:`from_networkx` gives the graph
    back.

    Args:
        graph: From :func:`build_graph`.
        state: [N, F] or [1, N, F], float16, float32 or float64.

    Raises:
        ValueError: ``state`` is of another shape or type.
    """
    result = _kind(graph.spec)(**{name: json.dumps(graph[name].to_dict()) for name in _DESCRIPTIONS})
    columns: dict[str, list[Any]] = {
        "pos": [tuple(place) for place in graph.pos.tolist()],
        "input": graph.input_mask.tolist(),
        "output": graph.output_mask.tolist(),
    }
    if state is not None:
        state = _one_state(state, graph.spec.num_nodes)
        columns["state"] = state.tolist()
        result.graph["state_dtype"] = str(state.dtype).removeprefix("torch.")
    result.add_nodes_from(
        (node, dict(zip(columns, row, strict=True))) for node, row in enumerate(zip(*columns.values(), strict=True))
    )
    names = [tier.name.lower() for tier in Tier]
    result.add_edges_from(
        (source, target, {"tier": names[tier], "distance": distance, "offset": tuple(offset)})
        for source, target, tier, distance, offset in zip(
            *graph.edge_index.tolist(),
            graph.edge_tier.tolist(),
            graph.edge_attr[:, 0].tolist(),
            graph.edge_offset.tolist(),
            strict=True,
        )
    )
    return result


def _kind(spec: LatticeSpec) -> type[nx.DiGraph]:
    import networkx as nx

    return nx.MultiDiGraph if any(spec.reflecting) else nx.DiGraph


def _one_state(state: Tensor, cells: int) -> Tensor:
    flat = state[0] if state.dim() == 3 and state.shape[0] == 1 else state
    if flat.dim() != 2 or flat.shape[0] != cells or flat.dtype not in _STATE_DTYPES.values():
        raise ValueError(
            f"state is one state of the {cells} cells, [N, F] or [1, N, F], in {', '.join(_STATE_DTYPES)}. Received "
            f"{state.dtype} of shape {tuple(state.shape)}. Pick one sample, for example state[0], or cast it."
        )
    return flat.detach()


def from_networkx(network: nx.DiGraph) -> Data:
    """Return the lattice graph that :func:`to_networkx` described, with ``state`` [N, F] where the nodes carry one.

    Raises:
        ValueError: An attribute is missing, nodes are not numbered 0 … N−1, or the graph disagrees with its spec.
    """
    spec, inputs, outputs = _descriptions(network)
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
        if "state_dtype" in network.graph:
            dtype = _STATE_DTYPES[network.graph["state_dtype"]]
            graph.state = torch.tensor([values["state"] for values in nodes], dtype=dtype)
    except KeyError as error:
        raise ValueError(
            "A lattice's nodes have pos, input and output, its edges tier, distance and offset, with tiers of known "
            "names. "
            f"Received a graph in which {error} is missing or unknown. Make it with to_networkx or read_graphml."
        ) from error
    validate_graph(graph)
    return graph


def _descriptions(network: nx.DiGraph) -> tuple[LatticeSpec, Ports, Ports]:
    missing = [name for name in _DESCRIPTIONS if name not in network.graph]
    if missing:
        raise ValueError(
            f"A lattice's graph attributes hold {', '.join(_DESCRIPTIONS)} as JSON. Received a graph without "
            f"{', '.join(missing)}. Make it with to_networkx."
        )
    spec, inputs, outputs = (json.loads(network.graph[name]) for name in _DESCRIPTIONS)
    return LatticeSpec.from_dict(spec), Ports.from_dict(inputs), Ports.from_dict(outputs)


def write_graphml(graph: Data | nx.DiGraph, path: str | os.PathLike[str]) -> Path:
    """Write the lattice as GraphML and return the path; the file appears whole or not at all.

    GraphML has no lists: ``pos`` becomes x, y, z; ``offset`` dx, dy, dz; ``state`` state_0 … state_{F−1}. Node ids are
    whole
    numbers: ``nx.read_graphml(path, node_type=int)`` reads it anywhere, :func:`read_graphml` puts the lists together
        again.

    Args:
        graph: From :func:`build_graph`, or from :func:`to_networkx` to include a state.
        path: The file to write, into an existing folder.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    network = to_networkx(graph) if isinstance(graph, Data) else graph
    return write_atomically(path, "\n".join(_graphml_lines(network)).encode())


def _graphml_lines(network: nx.DiGraph) -> Iterator[str]:
    """Yield the lines of the file. Networkx's own writer takes ten times as long, minutes for a 20³ lattice."""
    channels = len(network.nodes[0].get("state", ()))
    types = {
        "graph": dict.fromkeys(network.graph, "string"),
        "node": dict.fromkeys("xyz", "double")
        | dict.fromkeys(("input", "output"), "boolean")
        | {f"state_{channel}": "double" for channel in range(channels)},
        "edge": {"tier": "string", "distance": "double"} | dict.fromkeys(("dx", "dy", "dz"), "long"),
    }
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
    for owner, columns in types.items():
        for name, kind in columns.items():
            yield f'<key id="{owner}_{name}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>'
    yield '<graph edgedefault="directed">'
    yield _data("graph", network.graph)
    for node, values in network.nodes(data=True):
        row = dict(zip("xyz", values["pos"], strict=True))
        row |= {name: str(values[name]).lower() for name in ("input", "output")}
        row |= {f"state_{channel}": number for channel, number in enumerate(values.get("state", ()))}
        yield f'<node id="{node}">{_data("node", row)}</node>'
    for source, target, values in network.edges(data=True):
        row = {"tier": values["tier"], "distance": values["distance"]}
        row |= dict(zip(("dx", "dy", "dz"), values["offset"], strict=True))
        yield f'<edge source="{source}" target="{target}">{_data("edge", row)}</edge>'
    yield "</graph></graphml>"


def _data(owner: str, row: Mapping[str, Any]) -> str:
    return "".join(f'<data key="{owner}_{name}">{escape(str(value))}</data>' for name, value in row.items())


def read_graphml(path: str | os.PathLike[str]) -> nx.DiGraph:
    """Read what :func:`write_graphml` wrote, as :func:`to_networkx` made it.

    Raises:
        FileNotFoundError: No file is there.
        ValueError: The file is no GraphML, or not of a lattice.
    """
    from xml.etree.ElementTree import ParseError

    import networkx as nx

    path = require_file(path)
    try:
        flat = nx.read_graphml(path, node_type=int)
        descriptions = {name: flat.graph[name] for name in (*_DESCRIPTIONS, "state_dtype") if name in flat.graph}
        network = _kind(_descriptions(flat)[0])(**descriptions)
        for node, values in flat.nodes(data=True):
            place = (values["x"], values["y"], values["z"])
            network.add_node(node, pos=place, input=values["input"], output=values["output"])
            if "state_dtype" in descriptions:
                channels = sum(name.startswith("state_") for name in values)
                network.nodes[node]["state"] = [values[f"state_{channel}"] for channel in range(channels)]
        for source, target, values in flat.edges(data=True):
            offset = (values["dx"], values["dy"], values["dz"])
            network.add_edge(source, target, tier=values["tier"], distance=values["distance"], offset=offset)
    except (ParseError, nx.NetworkXError, KeyError, ValueError) as error:
        raise ValueError(
            f"The file must be the GraphML of a lattice. Received {path}: {type(error).__name__}: {error}. "
            "Write it with write_graphml."
        ) from error
    _descriptions(network)
    return network
