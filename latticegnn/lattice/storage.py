"""A lattice graph on disk: one safetensors file, written whole or not at all, checked when read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch

from latticegnn.lattice.graph import Data, validate_graph
from latticegnn.lattice.ports import Ports
from latticegnn.lattice.spec import LatticeSpec

_FORMAT = "latticegnn.graph/1"
_DESCRIPTIONS = ("spec", "inputs", "outputs")


def write_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` beside ``path`` and move it there, so that no reader ever sees half a file.

    The content is on the disk before it gets its name: a machine that loses power keeps the old file or the new one.

    Raises:
        FileNotFoundError: The folder does not exist.
        OSError: The content could not be written; what was at ``path`` is untouched.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"A file is written into an existing folder. Received {path}. Create {path.parent} first."
        )
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def require_file(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as a Path.

    Raises:
        FileNotFoundError: No file is there.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"The file to read must exist. Received {os.fspath(path)}. Check the path, or save it first."
        )
    return Path(path)


def save_graph(graph: Data, path: str | os.PathLike[str]) -> Path:
    """Write the graph to one safetensors file, its spec and ports as JSON in the header, and return the path.

    Raises:
        ValueError: The graph is not valid.
        FileNotFoundError: The folder does not exist.
    """
    from safetensors.torch import save

    validate_graph(graph)
    tensors = {name: value.contiguous() for name, value in graph.to_dict().items() if isinstance(value, torch.Tensor)}
    header = {name: json.dumps(graph[name].to_dict()) for name in _DESCRIPTIONS}
    return write_atomically(path, save(tensors, {"format": _FORMAT, **header}))


def load_graph(path: str | os.PathLike[str]) -> Data:
    """Read a graph that `save_graph` wrote, and check it against its spec.

    Raises:
        FileNotFoundError: No file is there.
        ValueError: The file is damaged, is no lattice graph, or its contents disagree with its spec.
    """
    from safetensors import SafetensorError, safe_open

    path = require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(
            f"A lattice graph is a whole safetensors file. Received {path}, which cannot be read: {error}. "
            "Save the graph again."
        ) from error
    if header.get("format") != _FORMAT or any(name not in header for name in _DESCRIPTIONS):
        raise ValueError(
            f"A lattice graph's header names the format {_FORMAT!r}, the spec and the ports. Received {path} with "
            f"{header.get('format')!r} and the entries {sorted(header)}. Give a file written by save_graph."
        )
    try:
        spec = LatticeSpec.from_dict(json.loads(header["spec"]))
        inputs, outputs = (Ports.from_dict(json.loads(header[name])) for name in ("inputs", "outputs"))
        graph = Data(**tensors, spec=spec, grid_shape=spec.shape, inputs=inputs, outputs=outputs)
        validate_graph(graph)
    except ValueError as error:
        raise ValueError(
            f"A saved graph must agree with its spec. Received {path}: {error} Give a file written by save_graph."
        ) from error
    return graph
