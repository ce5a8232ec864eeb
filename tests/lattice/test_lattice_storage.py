"""A graph on disk: what is loaded is what was saved, and damage is noticed."""

import stat

import pytest
import torch
from safetensors.torch import load_file, save_file

from latticegnn.lattice import Grid, LatticeSpec, Ports, build_graph, load_graph, save_graph
from latticegnn.lattice.storage import write_atomically


@pytest.fixture
def graph():
    spec = LatticeSpec((4, 5, 6), boundary=("open", "periodic", "reflecting"), order="morton", radii=(0.5, 1.0, 2.0))
    return build_graph(spec, Ports("x-", Grid(3)), Ports("surface", "proportional", seed=5))


def test_round_trip(graph, tmp_path) -> None:
    loaded = load_graph(save_graph(graph, tmp_path / "cube.safetensors"))
    assert set(loaded.keys()) == set(graph.keys())
    for name, value in graph.to_dict().items():
        assert torch.equal(loaded[name], value) if isinstance(value, torch.Tensor) else loaded[name] == value
    assert [path.name for path in tmp_path.iterdir()] == ["cube.safetensors"]
    assert (tmp_path / "cube.safetensors").stat().st_mode & stat.S_IRUSR


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch) -> None:
    path = write_atomically(tmp_path / "file", b"old")

    def fail(*_) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_invalid_graph_is_not_saved(graph, tmp_path) -> None:
    graph.edge_tier = graph.edge_tier.flip(0)
    with pytest.raises(ValueError, match="edge_tier matches"):
        save_graph(graph, tmp_path / "cube.safetensors")
    assert not list(tmp_path.iterdir())


def test_missing_places(graph, tmp_path, refuses) -> None:
    with refuses("must exist", "nothing.safetensors", "Check the path", FileNotFoundError):
        load_graph(tmp_path / "nothing.safetensors")
    with refuses("existing folder", "cube.safetensors", "Create", FileNotFoundError):
        save_graph(graph, tmp_path / "nowhere" / "cube.safetensors")


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b"", lambda b: b"garbage" * 9, lambda b: b[:4]])
def test_a_damaged_file_is_refused(graph, tmp_path, damage, refuses) -> None:
    path = save_graph(graph, tmp_path / "cube.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    with refuses("whole safetensors file", "cube.safetensors", "Save the graph again"):
        load_graph(path)


def test_a_foreign_file_is_refused(tmp_path, refuses) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with refuses("header names the format", "model.safetensors", "written by save_graph"):
        load_graph(tmp_path / "model.safetensors")


def test_contents_that_disagree_with_the_spec_are_refused(graph, tmp_path, refuses) -> None:
    from safetensors import safe_open

    path = save_graph(graph, tmp_path / "cube.safetensors")
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    tensors["edge_index"][0, 7] = 0
    save_file(tensors, path, header)
    with refuses("must agree with its spec", "edge_index", "Rebuild the graph"):
        load_graph(path)
    save_file(load_file(path), path, header | {"spec": "{"})
    with refuses("must agree with its spec", "cube.safetensors", "written by save_graph"):
        load_graph(path)
