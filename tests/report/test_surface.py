"""The picture of a surface."""

import pytest
from matplotlib.image import AxesImage

from latticegnn.report import surface_map

ROWS = [{"steps": t, "ports": k, "fvu": t / k, "cosine": 0.5} for t in (8, 7) for k in (8, 64)]


@pytest.mark.parametrize(("metric", "colours"), [("fvu", "Blues_r"), ("cosine", "Blues")])
def test_the_picture_shows_every_value(metric, colours) -> None:
    axes = surface_map(ROWS, metric).axes[0]
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    assert image.get_cmap().name == colours
    assert image.get_array().tolist() == [[row[metric] for row in ROWS[2:]], [row[metric] for row in ROWS[:2]]]
    assert {text.get_text() for text in axes.texts} == {f"{row[metric]:.3f}" for row in ROWS}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8", "64"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("steps", "output ports read")


def test_a_rollout_that_diverged_is_written_short_and_hides_no_other_difference() -> None:
    axes = surface_map([*ROWS[1:], ROWS[0] | {"fvu": 1.25e9}], "fvu").axes[0]
    assert "1.25e+09" in {text.get_text() for text in axes.texts}
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    assert image.get_clim() == (7 / 64, 1.0)


def test_an_answer_that_is_not_finite_leaves_its_field_blank() -> None:
    axes = surface_map([*ROWS[1:], ROWS[0] | {"fvu": float("nan")}], "fvu").axes[0]
    image = next(child for child in axes.get_children() if isinstance(child, AxesImage))
    assert image.get_clim() == (7 / 64, 7 / 8)
    assert [text.get_color() for text in axes.texts if text.get_text() == "nan"] == ["black"]


@pytest.mark.parametrize("rows", [[], ROWS[1:], [{"steps": 1, "ports": 2}]], ids=["none", "a gap", "no metric"])
def test_refusals(rows, refuses) -> None:
    with refuses("for every pair of steps and ports", "values of 'fvu'", "quality_surface"):
        surface_map(rows, "fvu")
