"""Heat maps of the gate, tested by the data they show."""

import pytest
import torch

from latticegnn.lattice import LatticeSpec, Tier, build_graph
from latticegnn.report import gate_maps, save


def test_each_map_is_its_tiers_mean_weight_by_layer_and_step(tmp_path) -> None:
    graph = build_graph(LatticeSpec((3, 2, 5), radii=(0.5, 1.0, 1.5)))
    course = torch.rand(4, 30, 3, generator=torch.Generator().manual_seed(0)).softmax(dim=2)
    figure = gate_maps(course, graph)
    *maps, bar = figure.axes
    for tier, axes in zip(Tier, maps, strict=True):
        (image,) = axes.images
        for layer in range(5):
            mean = course[:, graph.pos[:, 2] == layer, tier].mean(dim=1)
            assert image.get_array()[layer].tolist() == pytest.approx(mean.tolist())
        assert image.get_extent() == [0.5, 4.5, -0.5, 4.5]
        assert image.get_clim() == (0, 1), "one scale for all"
        assert axes.get_title(loc="left") == f"{tier.name.lower()}  {float(course[:, :, tier].mean()):.0%}"
    names = [text.get_text() for text in maps[0].get_yticklabels()]
    assert (names[0], names[-1]) == ("input ports   0", "output ports   4")
    assert bar.get_ylabel() == "mean gate weight"
    save(figure, tmp_path / "gates.png")


def test_what_is_no_course_is_refused(refuses) -> None:
    graph = build_graph(LatticeSpec((2, 2, 2)))
    for shape in ((3, 8), (0, 8, 3), (3, 7, 3), (3, 8, 2)):
        with refuses("[T, N, 3] with N = 8", f"received {list(shape)}", "gate_course"):
            gate_maps(torch.zeros(shape), graph)
    with refuses("shares of 1", "add up to 0.5 more or less", "gate_course"):
        gate_maps(torch.full((2, 8, 3), 0.5), graph)
    course = torch.tensor([1.5, -0.5, 0.0]).expand(2, 8, 3)
    with refuses("shares of 1", "below 0", "gate_course"):
        gate_maps(course, graph)
    with refuses("shares of 1", "nan", "gate_course"):
        gate_maps(torch.full((2, 8, 3), float("nan")), graph)
