"""Pictures of the lattice, tested by the data they show."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex

from latticegnn.lattice import LatticeSpec, Ports, build_graph
from latticegnn.report import lattice_3d, save, signal_crossing, tier_degrees
from latticegnn.report.plots import INPUT, OUTPUT, TIERS

ROOT = Path(__file__).parents[2]


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def cube(**settings):
    ports = {key: settings.pop(key) for key in ("inputs", "outputs") if key in settings}
    return build_graph(LatticeSpec(**settings), **ports)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_cube_shows_every_cell_once_and_one_cells_edges():
    graph = cube()
    figure = lattice_3d(graph)
    assert legend(figure) == [
        "64 output ports",
        "384 cells between",
        "64 input ports",
        "6 functional neighbours",
        "12 distant neighbours",
        "one cell (its local tier)",
    ]
    (axes,) = figure.axes
    groups = {c.get_label(): c for c in axes.collections}
    points = {name: np.stack(groups[name]._offsets3d, axis=1) for name in legend(figure)[:3]}
    assert sorted(map(tuple, np.concatenate(list(points.values())))) == sorted(map(tuple, graph.pos.tolist()))
    assert set(points["64 input ports"][:, 2]) == {0}
    assert set(points["64 output ports"][:, 2]) == {7}
    assert to_hex(groups["64 input ports"].get_facecolor()[0]).upper() == INPUT
    assert to_hex(groups["64 output ports"].get_facecolor()[0]).upper() == OUTPUT
    for tier, length, count in (("functional", 1, 6), ("distant", 2**0.5, 12)):
        bundle = groups[f"{count} {tier} neighbours"]
        ends = np.array(bundle._segments3d)
        assert ends.shape == (count, 2, 3)
        assert np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) == pytest.approx(length)
        assert to_hex(bundle.get_color()[0]).upper() == TIERS[tier]
    assert "8×8×8" in figure.get_suptitle()


def test_cubes_of_other_kinds(tmp_path):
    full = lattice_3d(cube(shape=(3, 4, 5), connectivity="full"))
    assert "59 distant neighbours" in legend(full)
    surface = lattice_3d(cube(shape=(4, 4, 4), inputs=Ports(face="surface"), outputs=Ports(face="surface")))
    assert legend(surface)[:2] == ["8 cells between", "56 input and output ports"]
    flat = lattice_3d(cube(shape=(5, 5, 1), boundary="periodic", radii=(0.5, 1.0, 1.5)))
    assert "4 functional neighbours" in legend(flat)
    save(flat, tmp_path / "flat.png")


@pytest.mark.parametrize("settings", [{}, {"boundary": "absorbing"}, {"connectivity": "full", "order": "morton"}])
def test_neighbours_by_distance_are_those_of_the_graph(settings) -> None:
    graph = cube(shape=(4, 3, 5), radii=(1.0, 1.5, 2.0), **settings)
    figure = tier_degrees(graph.spec)
    (axes,) = figure.axes
    found = {round(bar.get_x() + bar.get_width() / 2, 4): bar for bar in axes.patches}
    ranges = {round(x[0][0], 4): (x[0][1], x[1][1]) for lines in axes.collections for x in lines.get_segments()}
    for distance in graph.edge_attr[:, 0].unique().tolist()[1:]:
        own = graph.edge_attr[:, 0] == distance
        counts = torch.bincount(graph.edge_index[1, own], minlength=60)
        bar = found.pop(round(distance, 4))
        assert bar.get_height() == pytest.approx(float(counts.double().mean()))
        assert ranges[round(distance, 4)] == (int(counts.min()), int(counts.max()))
        tier = ["local", "functional", "distant"][int(graph.edge_tier[own][0])]
        assert to_hex(bar.get_facecolor()).upper() == TIERS[tier]
    assert not found
    assert legend(figure)[0] == f"local: {(graph.edge_tier == 0).sum() / 60 - 1:.4g} a cell"
    if settings == {}:
        assert {line.get_xdata()[0] for line in axes.lines} == {1.0, 1.5, 2.0}


def test_a_tier_without_neighbours_says_so(tmp_path) -> None:
    figure = tier_degrees(LatticeSpec())
    assert legend(figure) == ["local: none", "functional: 5.25 a cell", "distant: 9.188 a cell"]
    assert legend(tier_degrees(LatticeSpec((1, 1, 1))))[2] == "distant: none"
    save(figure, tmp_path / "tiers.png")


def front_of(figure) -> np.ndarray:
    (line,) = figure.axes[0].lines
    return line.get_xdata()[::2] + 0.5


def test_the_signal_is_the_layers_rms_and_the_front_the_light_cone():
    graph = cube(shape=(3, 3, 6), radii=(0.5, 1.0, 1.5))
    generator = torch.Generator().manual_seed(0)
    trajectory = torch.randn(5, graph.num_nodes, 4, generator=generator)
    trajectory[1, graph.pos[:, 2] == 3] = 0
    trajectory[2, graph.pos[:, 2] == 4] = 1e-9
    figure = signal_crossing(trajectory, graph)
    image = figure.axes[0].images[0].get_array()
    assert image.shape == (6, 5)
    for layer in range(6):
        for step in range(5):
            rms = trajectory[step, graph.pos[:, 2] == layer].square().mean().sqrt()
            if (layer, step) in {(3, 1), (4, 2)}:
                assert np.ma.is_masked(image[layer, step])
            else:
                assert image[layer, step] == pytest.approx(float(rms))
    assert front_of(figure).tolist() == [0, 1, 2, 3, 4, 5]  # radius 1.5: one layer a step
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["input ports   0", "1", "2", "3", "4", "output ports   5"]
    faster = cube(shape=(3, 3, 6), radii=(0.5, 1.0, 2.0))
    assert front_of(signal_crossing(trajectory, faster)).tolist() == [0, 1, 1, 2, 2, 3]


def test_signals_of_other_lattices(tmp_path):
    ring = cube(shape=(3, 3, 6), boundary=("open", "open", "periodic"), radii=(0.5, 1.0, 1.5))
    figure = signal_crossing(torch.ones(3, ring.num_nodes, 2), ring)
    assert figure.axes[0].images[0].get_array().shape == (4, 3)  # three layers away at most, the short way round
    centre = cube(shape=(7, 7, 7), inputs=Ports(face="z-", placement="center"), outputs=Ports(face="surface"))
    figure = signal_crossing(torch.ones(3, centre.num_nodes, 2), centre)
    assert front_of(figure).tolist()[:3] == [0, 1, 2]
    apart = cube(shape=(3, 3, 3), radii=(0.2, 0.4, 0.6))
    figure = signal_crossing(torch.ones(3, apart.num_nodes, 2), apart)
    assert front_of(figure).tolist() == [0, 3, 3]  # never reached: the right edge
    save(figure, tmp_path / "apart.png")


def test_bad_signals():
    graph = cube(shape=(3, 3, 3), radii=(0.5, 1.0, 1.5))
    with pytest.raises(ValueError) as error:
        signal_crossing(torch.ones(3, 2, 27, 4), graph)
    explains(error, "[T + 1, N, F] with N = 27", "[3, 2, 27, 4]", "trajectory[:, b]")
    for value, part in ((0.0, "0 that are not zero"), (float("nan"), "81 cells that are not finite")):
        with pytest.raises(ValueError) as error:
            signal_crossing(torch.full((3, 27, 4), value), graph)
        explains(error, "finite, and other than zero", part, "input embedding")


def test_the_readmes_pictures_are_a_commands_output(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("figures", ROOT / "scripts/figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    figures.main(["--output", str(tmp_path)])
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "gate.png", "lattice.png", "portrait.png", "signal.png", "three_tiers.png", "tiers.png",
    ]  # fmt: skip
    assert all(5_000 < file.stat().st_size < 200_000 for file in tmp_path.iterdir())
    assert "signal.png" in capsys.readouterr().out
