"""The lattice as a PyG graph: edges by distance, tier labels and ports."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from latticegnn.lattice.ports import Ports
from latticegnn.lattice.spec import LatticeSpec, Tier
from latticegnn.lattice.stencil import (
    axis_offsets,
    coordinates,
    edge_count,
    empty_tiers,
    has_repeats,
    mirrored,
    node_grid,
    offset_codes,
    shift,
    squared_limits,
    stencil,
    tier_report,
    tiers_of,
)

with warnings.catch_warnings():
    # Two things PyG 2.8 says at its import, whatever is imported from it: that it no longer uses torch-cluster (we call
    # torch-cluster ourselves), and that torch.jit.script, which it uses, is deprecated.
    warnings.filterwarnings("ignore", message=".*torch-cluster.*", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=r"`torch\.jit\.script` is deprecated", category=DeprecationWarning)
    from torch_geometric.data import Data

_PEAK_BYTES_PER_EDGE = 230  # measured while building, at most; 52 of them stay in the graph


def build_graph(spec: LatticeSpec, inputs: Ports | None = None, outputs: Ports | None = None) -> Data:
    """Build the lattice's graph: every pair of cells within the distant radius, and a self-edge for every cell.

    Both edge builders give the same tensors. Edges are sorted by target, then by source, then by offset: with a
    reflecting boundary an edge may join a cell to itself, and a pair of cells may have several edges, one for each
    offset at which the target sees the source or an image of it. An absorbing boundary has the edges of an open one.

    Args:
        spec: The lattice.
        inputs: Ports through which signals enter; the full face ``z-`` by default.
        outputs: Ports through which signals leave; the full face ``z+`` by default.

    Returns:
        A PyG ``Data`` with

        - ``pos`` float32 [N, 3], the cells' coordinates;
        - ``edge_index`` int64 [2, E], row 0 the source j, row 1 the target i;
        - ``edge_tier`` int64 [E], values of `Tier`; self-edges are local;
        - ``edge_attr`` float32 [E, 1], the distance in cells;
        - ``edge_offset`` int64 [E, 3], pos_source − pos_target the shortest way round (see `axis_offsets` for
          ties), and to the source's mirror image where a reflecting boundary shows it;
        - ``input_nodes``, ``output_nodes`` int64 [P], the ports in the order of `Ports.nodes`;
        - ``input_mask``, ``output_mask`` bool [N], the same ports as masks;
        - ``grid_shape``, ``spec``, ``inputs``, ``outputs``, what it was built from.

    Raises:
        ValueError: The edge list would not fit in memory, a tier is empty under ``strict_tiers``, or a placement does
            not fit its face.
        ModuleNotFoundError: ``spec.edges`` is ``"radius_graph"`` and torch-cluster is not installed.
    """
    inputs = Ports(face="z-") if inputs is None else inputs
    outputs = Ports(face="z+") if outputs is None else outputs
    check_tiers(spec)
    _check_memory(spec)
    place = coordinates(spec)
    target, source, offset = _stencil_edges(spec) if spec.edges == "stencil" else _radius_edges(spec, place)
    order = (target * spec.num_nodes + source).argsort()
    if any(spec.reflecting):
        by_offset = offset_codes(spec, offset).argsort()
        order = by_offset[(target * spec.num_nodes + source)[by_offset].argsort(stable=True)]
    target, source, offset = target[order], source[order], offset[order]
    squared = offset.square().sum(1)
    tier = tiers_of(spec, squared)
    counts = {name: int((tier == name).sum()) for name in Tier}
    assert counts == edge_count(spec), f"edge builder found {counts}, closed form says {edge_count(spec)}"
    graph = Data(
        pos=place.float(),
        edge_index=torch.stack([source, target]),
        edge_attr=squared.double().sqrt().float().unsqueeze(1),
        edge_tier=tier,
        edge_offset=offset,
        grid_shape=spec.shape,
        spec=spec,
    )
    return attach_ports(graph, inputs, outputs)


def attach_ports(graph: Data, inputs: Ports, outputs: Ports) -> Data:
    """Set the graph's ports and their masks in place, and return it."""
    for side, ports in (("input", inputs), ("output", outputs)):
        nodes = ports.nodes(graph.spec)
        mask = torch.zeros(graph.spec.num_nodes, dtype=torch.bool)
        mask[nodes] = True
        graph[f"{side}s"], graph[f"{side}_nodes"], graph[f"{side}_mask"] = ports, nodes, mask
    return graph


def check_tiers(spec: LatticeSpec) -> None:
    """Raise ValueError when ``strict_tiers`` is set and a tier has no neighbours."""
    if spec.strict_tiers and empty_tiers(spec):
        reasons = " ".join(row["message"] for row in tier_report(spec) if row["message"] is not None)
        names = ", ".join(tier.name.lower() for tier in empty_tiers(spec))
        raise ValueError(
            f"strict_tiers asks that every tier has neighbours. Received shape {spec.shape} with radii "
            f"{tuple(round(r, 6) for r in spec.thresholds)}, which leave empty: {names}. {reasons} "
            "Or set strict_tiers: false."
        )


def available_memory() -> int:
    """Return the bytes of main memory that are free for use."""
    import psutil  # type: ignore[import-untyped]

    return int(psutil.virtual_memory().available)


def _check_memory(spec: LatticeSpec) -> None:
    edges = sum(edge_count(spec).values())
    needed, free = edges * _PEAK_BYTES_PER_EDGE, available_memory()
    if needed > free:
        raise ValueError(
            f"The edge list must fit in memory. Received a lattice {spec.shape} with {edges:,} edges, which take about "
            f"{needed / 2**30:.1f} GiB to build; {free / 2**30:.1f} GiB are free. Use a smaller shape or radius, "
            "connectivity: radius, or work from the stencil, which needs no edge list."
        )


def _stencil_edges(spec: LatticeSpec) -> tuple[Tensor, Tensor, Tensor]:
    """Return (target [E], source [E], offset [E, 3]) by shifting the grid of node ids along every offset."""
    grid, offsets = node_grid(spec), stencil(spec).offsets
    sources: list[Tensor] = []
    targets: list[Tensor] = []
    for offset in offsets.tolist():
        values, slices = shift(grid, offset, spec.boundaries)
        sources.append(values.reshape(-1))
        targets.append(grid[slices].reshape(-1))
    lengths = torch.tensor([len(ids) for ids in sources])
    return torch.cat(targets), torch.cat(sources), offsets.repeat_interleave(lengths, dim=0)


def _radius_edges(spec: LatticeSpec, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (target [E], source [E], offset [E, 3]) from torch-cluster's search.

    The search keeps d < r, strictly: r² lies half way between the largest squared distance wanted and the next integer.
    ``max_num_neighbors`` is the number of candidates, so nothing is dropped.
    """
    try:
        import torch_cluster
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "edges: radius_graph needs the package torch-cluster, which is not installed. Run 'make setup' or "
            "'pip install --no-build-isolation torch-cluster==1.6.3', or set edges: stencil, which builds the same "
            "graph."
        ) from error
    radius = (squared_limits(spec)[2] + 0.5) ** 0.5
    ids = torch.arange(len(place))
    if not any(spec.periodic + spec.reflecting):
        found = torch_cluster.radius_graph(place.double(), r=radius, loop=False, max_num_neighbors=len(place))
        source, target = torch.cat([found, ids.expand(2, -1)], dim=1)  # the self-edges are ours to add
        return target, source, place[source] - place[target]
    ghosts, owner = _ghosts(spec, place, int(radius))
    target, image = torch_cluster.radius(ghosts.double(), place.double(), r=radius, max_num_neighbors=len(ghosts))
    offset = ghosts[image] - place[target]
    kept = torch.ones(len(offset), dtype=torch.bool)
    for axis, (length, wraps) in enumerate(zip(spec.shape, spec.periodic, strict=True)):
        steps = axis_offsets(length, wraps)  # of a source's images round an axis only the nearest is a neighbour
        kept &= (offset[:, axis] >= steps[0]) & (offset[:, axis] <= steps[-1])
    return target[kept], owner[image[kept]], offset[kept]


def _ghosts(spec: LatticeSpec, place: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Return the cells and their images up to ``reach`` outside the lattice, [G, 3], and whose image each is, [G]."""
    ghosts, owner = place, torch.arange(len(place))
    for axis, (length, boundary) in enumerate(zip(spec.shape, spec.boundaries, strict=True)):
        if boundary in ("periodic", "reflecting"):
            low, high = ghosts.clone(), ghosts.clone()
            if boundary == "periodic":
                low[:, axis] -= length
                high[:, axis] += length
            else:
                low[:, axis] = -1 - ghosts[:, axis]
                high[:, axis] = 2 * length - 1 - ghosts[:, axis]
            ghosts, owner = torch.cat([low, ghosts, high]), owner.repeat(3)
            # No shortest way round is longer than half the axis, no way to an image as long as the axis.
            margin = min(reach, length // 2 if boundary == "periodic" else length - 1)
            near = (ghosts[:, axis] >= -margin) & (ghosts[:, axis] < length + margin)
            ghosts, owner = ghosts[near], owner[near]
    return ghosts, owner


def validate_graph(graph: Data) -> None:
    """Check that a graph agrees with its spec; a graph with fewer edges than the spec's is valid if still symmetric.

    Raises:
        ValueError: Names the attribute that is missing or wrong.
    """
    _require("spec" in graph and isinstance(graph.spec, LatticeSpec), "spec", "is a LatticeSpec")
    spec: LatticeSpec = graph.spec
    cells = spec.num_nodes
    edges = graph.edge_index.shape[-1] if isinstance(graph.get("edge_index"), Tensor) else 0
    expected: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {
        "pos": (torch.float32, (cells, 3)),
        "edge_index": (torch.long, (2, edges)),
        "edge_tier": (torch.long, (edges,)),
        "edge_attr": (torch.float32, (edges, 1)),
        "edge_offset": (torch.long, (edges, 3)),
        "input_mask": (torch.bool, (cells,)),
        "output_mask": (torch.bool, (cells,)),
    }
    for name, (dtype, shape) in expected.items():
        value = graph.get(name)
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
        right = isinstance(value, Tensor) and value.dtype == dtype and tuple(value.shape) == shape
        _require(right, name, f"is a tensor {dtype} {shape}", got)
    grid_shape = graph.get("grid_shape")
    grid_shape = tuple(grid_shape) if isinstance(grid_shape, list) else grid_shape  # PyG's clone() and to() make lists
    _require(grid_shape == spec.shape, "grid_shape", f"equals spec.shape {spec.shape}", grid_shape)
    place = coordinates(spec)
    _require(torch.equal(graph.pos, place.float()), "pos", f"holds the cells of {spec.shape} in {spec.order} order")
    source, target = graph.edge_index
    inside = edges == 0 or bool((graph.edge_index >= 0).all() and (graph.edge_index < cells).all())
    _require(inside, "edge_index", f"holds node ids from 0 to {cells - 1}")
    forward, backward = (target * cells + source).sort()[0], (source * cells + target).sort()[0]
    repeated = has_repeats(spec, source, target, graph.edge_offset)
    _require(not repeated, "edge_index", "holds each edge once")
    _require(torch.equal(forward, backward), "edge_index", "is symmetric: each edge has its reverse")
    offset = place[source] - place[target]
    for axis, (length, boundary) in enumerate(zip(spec.shape, spec.boundaries, strict=True)):
        if boundary == "periodic":
            low = axis_offsets(length, True)[0]
            offset[:, axis] = (offset[:, axis] - low) % length + low
        elif boundary == "reflecting":
            given = graph.edge_offset[:, axis]
            seen = mirrored(place[target, axis] + given, length) == place[source, axis]
            offset[:, axis] = torch.where(seen & (given.abs() < length), given, offset[:, axis])
    _require(torch.equal(graph.edge_offset, offset), "edge_offset", "is pos_source − pos_target, the short way round")
    squared = offset.square().sum(1)
    _require(torch.equal(graph.edge_attr[:, 0], squared.double().sqrt().float()), "edge_attr", "is the offset's length")
    _require(edges == 0 or int(squared.max()) <= squared_limits(spec)[2], "edge_attr", "is at most the distant radius")
    _require(torch.equal(graph.edge_tier, tiers_of(spec, squared)), "edge_tier", "matches the edge's distance")
    for side in ("input", "output"):
        ports = graph.get(f"{side}s")
        _require(isinstance(ports, Ports), f"{side}s", "is a Ports object", ports)
        nodes = ports.nodes(spec)
        mask = torch.zeros(cells, dtype=torch.bool)
        mask[nodes] = True
        _require(torch.equal(graph[f"{side}_mask"], mask), f"{side}_mask", f"marks the cells of {ports}")
        listed = graph.get(f"{side}_nodes")
        right = isinstance(listed, Tensor) and torch.equal(listed, nodes)
        _require(right, f"{side}_nodes", f"lists the cells of {ports} in the order of Ports.nodes")


def _require(condition: bool, name: str, rule: str, received: object = "a value that does not") -> None:
    if not condition:
        raise ValueError(
            f"A lattice graph's {name} {rule}. Received {received}. Rebuild the graph with build_graph(spec, inputs, "
            "outputs)."
        )
