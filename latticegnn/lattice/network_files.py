"""A lattice's networkx graph as a file: GraphML, GEXF or JSON, there and back without loss."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr

from latticegnn.lattice.export import DESCRIPTIONS, Owner, arrays_of, descriptions, kind_of, to_networkx
from latticegnn.lattice.graph import Data
from latticegnn.lattice.storage import require_file, write_atomically

if TYPE_CHECKING:
    import networkx as nx

_PLACE, _OFFSET = "xyz", ("dx", "dy", "dz")
_GEXF = "http://www.gexf.net/1.2draft"
_VIZ = f"{_GEXF}/viz"


def write_network(graph: Data | nx.DiGraph, path: str | os.PathLike[str]) -> Path:
    """Write the lattice in the format that the file's name ends in, and return the path.

    The file appears whole or not at all, holds every attribute of `to_networkx`, and `read_network` gives
    the same graph back. GraphML and GEXF have no lists: ``pos`` becomes x, y, z; ``offset`` dx, dy, dz; an array of k
    columns such as ``state`` state_0 … state_{k−1}. In GEXF, Gephi's format, cells also have their place, and an edge's
    ``weight`` is its weight. JSON is networkx's node-link form, with lists. Node ids are whole numbers.

    Args:
        graph: From `build_graph`, or from `to_networkx` to include arrays.
        path: The file to write, into an existing folder: ``.graphml``, ``.gexf`` or ``.json``.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: The name ends otherwise.
    """
    text = _format_of(path)[0]
    return write_atomically(path, text(to_networkx(graph) if isinstance(graph, Data) else graph).encode())


def read_network(path: str | os.PathLike[str]) -> nx.DiGraph:
    """Read what `write_network` wrote, as `to_networkx` made it.

    Raises:
        FileNotFoundError: No file is there.
        ValueError: The name ends otherwise, or the file is not of its format, or not of a lattice.
    """
    return _read(path, *_format_of(path)[1:])


def write_graphml(graph: Data | nx.DiGraph, path: str | os.PathLike[str]) -> Path:
    """Write the lattice as GraphML whatever the file's name, see `write_network`.

    ``nx.read_graphml(path, node_type=int)`` reads it anywhere, `read_graphml` puts the lists together again.
    """
    return write_atomically(path, _graphml(to_networkx(graph) if isinstance(graph, Data) else graph).encode())


def read_graphml(path: str | os.PathLike[str]) -> nx.DiGraph:
    """Read what `write_graphml` wrote, see `read_network`."""
    return _read(path, *_FORMATS[".graphml"][1:])


def _format_of(path: str | os.PathLike[str]) -> tuple[Callable[..., str], Callable[..., Any], str]:
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ValueError(
            f"A lattice's graph is kept in a file that ends in {', '.join(_FORMATS)}. Received {os.fspath(path)}. "
            "Rename it."
        )
    return _FORMATS[suffix]


def _read(path: str | os.PathLike[str], parse: Callable[[Path], nx.DiGraph], name: str) -> nx.DiGraph:
    import networkx as nx

    path = require_file(path)
    try:
        network = parse(path)
        descriptions(network)
    except (ElementTree.ParseError, nx.NetworkXError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"The file must be the {name} of a lattice. Received {path}: {type(error).__name__}: {error}. "
            f"Write it with write_{name.lower() if name == 'GraphML' else 'network'}."
        ) from error
    return network


def _flat(owner: Owner, values: Mapping[str, Any], widths: Mapping[str, int | None]) -> dict[str, Any]:
    """Spread the lists of a node or an edge over columns of one number each."""
    row: dict[str, Any] = {}
    if owner == "node":
        row |= zip(_PLACE, values["pos"], strict=True)
        row |= {name: values[name] for name in ("input", "output")}
    else:
        row |= {"tier": values["tier"], "distance": values["distance"]}
        row |= zip(_OFFSET, values["offset"], strict=True)
    for name, width in widths.items():
        if width is None:
            row[name] = values[name]
        else:
            row |= {f"{name}_{column}": number for column, number in enumerate(values[name])}
    return row


def _gathered(flat: nx.DiGraph, described: Mapping[str, str]) -> nx.DiGraph:
    """Put the columns of a graph that networkx read together again."""
    import networkx as nx

    attributes = {name: described[name] for name in (*DESCRIPTIONS, "arrays") if name in described}
    network = kind_of(descriptions(nx.DiGraph(**attributes))[0])(**attributes)
    widths = _widths(network)

    def arrays(owner: Owner, values: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: values[name] if width is None else [values[f"{name}_{column}"] for column in range(width)]
            for name, width in widths[owner].items()
        }

    for node, values in flat.nodes(data=True):
        place = tuple(values[axis] for axis in _PLACE)
        ports = {name: values[name] for name in ("input", "output")}
        network.add_node(node, pos=place, **ports, **arrays("node", values))
    for source, target, values in flat.edges(data=True):
        offset = tuple(values[axis] for axis in _OFFSET)
        own = {"tier": values["tier"], "distance": values["distance"], "offset": offset}
        network.add_edge(source, target, **own, **arrays("edge", values))
    return network


def _widths(network: nx.DiGraph) -> dict[Owner, dict[str, int | None]]:
    found: dict[Owner, dict[str, int | None]] = {"node": {}, "edge": {}}
    for owner, name, _, width in arrays_of(network):
        found[owner][name] = width
    return found


def _types(network: nx.DiGraph) -> dict[Owner, dict[str, str]]:
    """Return the columns of nodes and edges with their types, which GraphML and GEXF call alike."""
    types: dict[Owner, dict[str, str]] = {
        "node": dict.fromkeys(_PLACE, "double") | dict.fromkeys(("input", "output"), "boolean"),
        "edge": {"tier": "string", "distance": "double"} | dict.fromkeys(_OFFSET, "long"),
    }
    for owner, name, dtype, width in arrays_of(network):
        kind = {"bool": "boolean", "int": "long"}.get(dtype.rstrip("0123456789"), "double")
        columns = [name] if width is None else [f"{name}_{column}" for column in range(width)]
        types[owner] |= dict.fromkeys(columns, kind)
    return types


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _graphml(network: nx.DiGraph) -> str:
    return "\n".join(_graphml_lines(network))


def _graphml_lines(network: nx.DiGraph) -> Iterator[str]:
    """Yield the lines of the file. Networkx's own writer takes ten times as long, minutes for a 20³ lattice."""
    types, widths = _types(network), _widths(network)
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">'
    for owner, columns in [("graph", dict.fromkeys(network.graph, "string")), *types.items()]:
        for name, kind in columns.items():
            yield f'<key id="{owner}_{name}" for="{owner}" attr.name="{name}" attr.type="{kind}"/>'
    yield '<graph edgedefault="directed">'
    yield _data("graph", network.graph)
    for node, values in network.nodes(data=True):
        yield f'<node id="{node}">{_data("node", _flat("node", values, widths["node"]))}</node>'
    for source, target, values in network.edges(data=True):
        row = _data("edge", _flat("edge", values, widths["edge"]))
        yield f'<edge source="{source}" target="{target}">{row}</edge>'
    yield "</graph></graphml>"


def _data(owner: str, row: Mapping[str, Any]) -> str:
    return "".join(f'<data key="{owner}_{name}">{escape(_text(value))}</data>' for name, value in row.items())


def _from_graphml(path: Path) -> nx.DiGraph:
    import networkx as nx

    flat = nx.read_graphml(path, node_type=int)
    return _gathered(flat, flat.graph)


def _gexf(network: nx.DiGraph) -> str:
    return "\n".join(_gexf_lines(network))


def _gexf_lines(network: nx.DiGraph) -> Iterator[str]:
    """Yield the lines of the file; what is said of the whole graph stands in the description, as JSON."""
    types, widths = _types(network), _widths(network)
    yield '<?xml version="1.0" encoding="utf-8"?>'
    yield f'<gexf version="1.2" xmlns="{_GEXF}" xmlns:viz="{_VIZ}">'
    yield f"<meta><description>{escape(json.dumps(dict(network.graph)))}</description></meta>"
    yield '<graph mode="static" defaultedgetype="directed">'
    for owner, columns in types.items():
        yield f'<attributes class="{owner}">'
        for name, kind in columns.items():
            yield f'<attribute id="{owner}_{name}" title="{name}" type="{kind}"/>'
        yield "</attributes>"
    yield "<nodes>"
    for node, values in network.nodes(data=True):
        place = " ".join(f'{axis}="{at}"' for axis, at in zip(_PLACE, values["pos"], strict=True))
        row = _attvalues("node", _flat("node", values, widths["node"]))
        yield f'<node id="{node}" label="{node}">{row}<viz:position {place}/></node>'
    yield "</nodes><edges>"
    for number, (source, target, values) in enumerate(network.edges(data=True)):
        weight = f' weight="{values["weight"]}"' if types["edge"].get("weight") == "double" else ""
        row = _attvalues("edge", _flat("edge", values, widths["edge"]))
        yield f'<edge id="{number}" source="{source}" target="{target}"{weight}>{row}</edge>'
    yield "</edges></graph></gexf>"


def _attvalues(owner: Owner, row: Mapping[str, Any]) -> str:
    values = "".join(f'<attvalue for="{owner}_{name}" value={quoteattr(_text(row[name]))}/>' for name in row)
    return f"<attvalues>{values}</attvalues>"


def _from_gexf(path: Path) -> nx.DiGraph:
    import networkx as nx

    flat = nx.read_gexf(path, node_type=int)
    description = ElementTree.parse(path).findtext(f"{{{_GEXF}}}meta/{{{_GEXF}}}description", "{}")
    return _gathered(flat, json.loads(description))


def _json(network: nx.DiGraph) -> str:
    import networkx as nx

    return json.dumps(nx.node_link_data(network, edges="edges"))


def _from_json(path: Path) -> nx.DiGraph:
    import networkx as nx

    network = nx.node_link_graph(json.loads(path.read_text(encoding="utf-8")), edges="edges")
    for _, values in network.nodes(data=True):
        values["pos"] = tuple(values["pos"])
    for _, _, values in network.edges(data=True):
        values["offset"] = tuple(values["offset"])
    return network


_FORMATS: dict[str, tuple[Callable[..., str], Callable[..., Any], str]] = {
    ".graphml": (_graphml, _from_graphml, "GraphML"),
    ".gexf": (_gexf, _from_gexf, "GEXF"),
    ".json": (_json, _from_json, "JSON"),
}
