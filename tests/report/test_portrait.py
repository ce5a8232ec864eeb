"""Portraits of attractors, on motions whose planes and classes are known."""

import math

import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection

from latticegnn.lattice import LatticeSpec
from latticegnn.report import attractor_portrait, save

SPEC = LatticeSpec((2, 2, 2))


def turning(angle: float, decay: float, steps: int) -> torch.Tensor:
    """Two rows that turn in the plane of two numbers of the state, [T + 1, 2, 8, 2]."""
    time = torch.arange(steps + 1, dtype=torch.float64)
    trajectory = torch.full((steps + 1, 2, 8, 2), 7.0, dtype=torch.float64)
    for row, phase in enumerate((0.0, 1.0)):
        trajectory[:, row, 3, 0] += decay**time * torch.cos(angle * time + phase)
        trajectory[:, row, 5, 1] += decay**time * torch.sin(angle * time + phase)
    return trajectory


def paths(figure) -> list[np.ndarray]:
    lines = [found for found in figure.axes[0].collections if isinstance(found, LineCollection)]
    return [np.array([segment[0] for segment in line.get_segments()] + [line.get_segments()[-1][1]]) for line in lines]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_motion_in_a_plane_is_shown_as_it_is(tmp_path) -> None:
    trajectory = turning(math.pi / 3, 1.0, 72)
    figure = attractor_portrait(trajectory, SPEC)
    flat = trajectory.flatten(2)
    for row, path in enumerate(paths(figure)):
        shown = np.linalg.norm(path[:, None] - path[None], axis=2)
        assert shown == pytest.approx(torch.cdist(flat[:, row], flat[:, row]).numpy(), abs=1e-6)
    assert legend(figure) == ["start", "cycle (2), period 6"]
    axes, bar = figure.axes
    assert axes.get_title(loc="left") == "2 starts, 72 steps"
    assert axes.get_xlabel() == "principal component 1 (50% of the variance)"
    assert bar.get_ylabel() == "step"
    marks = [(line.get_marker(), *line.get_xydata()[0]) for line in axes.lines]
    assert [mark for mark, *_ in marks] == ["x", "s", "x", "s"]
    assert marks[0][1:] == pytest.approx(paths(figure)[0][0])
    assert marks[1][1:] == pytest.approx(paths(figure)[0][-1])
    save(figure, tmp_path / "portrait.png")


def test_classes_and_a_single_row_that_stays_on_a_line() -> None:
    assert legend(attractor_portrait(turning(1.0, 0.7, 80), SPEC))[1] == "fixed point (2)"
    assert legend(attractor_portrait(turning(1.0, 1.0, 200), SPEC))[1] == "quasi-periodic (2)"
    ramp = torch.arange(40.0).view(-1, 1, 1, 1).expand(-1, 1, 8, 1)
    figure = attractor_portrait(ramp, SPEC)
    assert legend(figure)[1] == "drift (1)"
    (path,) = paths(figure)
    assert path[:, 1] == pytest.approx(np.zeros(40), abs=1e-6)
    assert figure.axes[0].get_title(loc="left") == "1 start, 39 steps"


def test_portraits_need_states_that_differ(refuses) -> None:
    with refuses("states that differ", "all the same", "other starts"):
        attractor_portrait(torch.ones(40, 2, 8, 1), SPEC)
    with refuses("at least 32 states", "Received 5", "Roll out further"):
        attractor_portrait(torch.ones(5, 2, 8, 1), SPEC)
