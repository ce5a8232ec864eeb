"""Quality over a range, of sizes or of steps: the curves hold their rows, and are told apart without colours."""

import math

import pytest

from latticegnn.report import loss_curves, recovery_curves, retention_curve, save, sweep

SIZES = [
    {"keep": keep, "shape": [side] * 3, "retention": part, "tuned_retention": tuned}
    for keep, side, part, tuned in [
        ("cells", 8, 1.0, 1.0), ("cells", 12, 0.43, 0.96), ("cells", 16, 0.12, 0.79), ("ratios", 12, 0.6, 0.9),
        ("ratios", 16, -3.0, 0.5),
    ]
]  # fmt: skip


def told(axes) -> dict[str, list[tuple[float, float]]]:
    """The points of the lines in the legend."""
    handles, labels = axes.get_legend_handles_labels()
    return {label: list(zip(*line.get_data(), strict=True)) for line, label in zip(handles, labels, strict=True)}


def looks(axes) -> list[tuple[str, str]]:
    """Dash and mark of each line in the legend."""
    return [(line.get_linestyle(), line.get_marker()) for line in axes.get_legend_handles_labels()[0]]


def test_retention_shows_each_size_before_and_after_training_there(tmp_path) -> None:
    figure = retention_curve(SIZES, [8, 8, 8])
    (axes,) = figure.axes
    found = told(axes)
    assert list(found) == [
        f"radii kept in {keep}, {kind}" for keep in ("cells", "ratios") for kind in ("zero-shot", "fine-tuned")
    ]
    assert found["radii kept in cells, zero-shot"] == [
        (pytest.approx(8), 1.0), (pytest.approx(12), 0.43), (pytest.approx(16), 0.12)
    ]  # fmt: skip
    assert [y for _, y in found["radii kept in ratios, fine-tuned"]] == [0.9, 0.5]
    assert len(set(looks(axes))) == 4
    assert axes.get_ylim()[0] >= -0.5, "what is far below the mean leaves the panel"
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [pytest.approx(8)]
    save(figure, tmp_path / "sizes.png")
    untuned = [{key: value for key, value in row.items() if key != "tuned_retention"} for row in SIZES]
    assert len(told(retention_curve(untuned, [8, 8, 8]).axes[0])) == 2


def test_a_sweep_shows_the_median_and_the_span_of_the_seeds(tmp_path) -> None:
    curves = {
        "drawn": [[(4, 0.1), (8, 0.5)], [(4, 0.3), (8, 0.6)], [(4, 0.2), (8, 0.9)]],
        "fixed": [[(4, math.nan), (8, 0.4)]],
    }
    figure = sweep(curves, "explained_variance", "steps")
    (axes,) = figure.axes
    found = told(axes)
    assert found["drawn"] == [(4, 0.2), (8, 0.6)]
    assert math.isnan(found["fixed"][0][1])
    span = axes.collections[0].get_paths()[0].vertices
    assert (span[:, 1].min(), span[:, 1].max()) == (0.1, 0.9)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("steps", "higher is better")
    assert len(set(looks(axes))) == 2
    save(figure, tmp_path / "sweep.png")


def test_lines_are_told_apart_without_their_colours() -> None:
    history = {f"{split}/loss": [(0, 1.0), (1, 0.5)] for split in ("train", "validation", "test", "other")}
    assert len(set(looks(loss_curves(history).axes[0]))) == 4
    course = [{"step": step, "intact": 1.0, "lesioned": 0.5} for step in range(4)]
    assert len(set(looks(recovery_curves({name: [course] for name in "abcd"}, at=2).axes[0]))) == 8


def test_what_cannot_be_drawn_is_refused(refuses) -> None:
    with refuses("at least one size", "received none", "Evaluate a size"):
        retention_curve([], [8, 8, 8])
    with refuses("metric must be one of", "'loss'", "Choose one"):
        sweep({"a": [[(1, 0.5)]]}, "loss", "steps")
    with refuses("same values", "2 sets of values for 'a'", "one range"):
        sweep({"a": [[(1, 0.5)], [(2, 0.5)]]}, "fvu", "steps")
