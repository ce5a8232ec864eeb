"""Pictures of damage, tested by the data they show."""

import pytest

from latticegnn.report import lesion_bars, percolation_curve, recovery_curves, save, wall_curve


def course(quality: float) -> list[dict[str, float]]:
    """A blow at step 2, healed by step 4."""
    struck = (0.0, quality, quality / 2, quality * 0.8, quality)
    intact = (0.0, quality, quality, quality, quality)
    return [{"step": k, "intact": a, "lesioned": b} for k, (a, b) in enumerate(zip(intact, struck, strict=True))]


def test_a_recovery_shows_the_mean_over_runs_and_the_blow(tmp_path) -> None:
    figure = recovery_curves({"trained with damage": [course(0.8), course(0.6)], "twin": [course(0.5)]}, at=2)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_data() for line in axes.lines if not line.get_label().startswith("_")}
    assert list(lines) == ["trained with damage, no blow", "trained with damage", "twin, no blow", "twin"]
    steps, values = lines["trained with damage"]
    assert list(steps) == [2, 3, 4]
    assert list(values) == pytest.approx([0.35, 0.56, 0.7])
    assert list(lines["twin, no blow"][1]) == [0.0, 0.5, 0.5, 0.5, 0.5]
    assert list(axes.lines[-1].get_xdata()) == [2, 2]
    assert [text.get_text() for text in axes.texts] == ["blow"]
    save(figure, tmp_path / "recovery.png")


def test_the_curves_show_their_rows(tmp_path) -> None:
    rows = [
        {"part": part, "quality": 1 - part, "low": 0.9 - part, "high": 1.1 - part, "reached": 1.0, "connected": 1.0}
        for part in (0.0, 0.5)
    ]
    quality, reached, connected = percolation_curve(rows).axes[0].lines
    assert list(zip(*quality.get_data(), strict=True)) == [(0.0, 1.0), (0.5, 0.5)]
    assert list(reached.get_ydata()) == list(connected.get_ydata()) == [1.0, 1.0]
    holes = [{"opening": opening, "quality": opening / 4, "reached": min(1, opening)} for opening in (0, 1, 4)]
    figure = wall_curve(holes)
    assert [list(line.get_ydata()) for line in figure.axes[0].lines] == [[0, 0.25, 1], [0, 1, 1]]
    save(figure, tmp_path / "wall.png")


def test_bars_show_what_each_lesion_leaves(tmp_path) -> None:
    lost = {"distant": 0.1, "half of the ports": 0.5, "nothing": 0.0}
    figure = lesion_bars([{"lesion": n, "intact": 0.6, "lesioned": 0.6 - x, "lost": x} for n, x in lost.items()])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["nothing", "distant", "half of the ports"]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([0.6, 0.5, 0.1])
    assert [text.get_text() for text in axes.texts] == ["0.600  (+0.000)", "0.500  (-0.100)", "0.100  (-0.500)"]
    assert list(axes.lines[0].get_xdata()) == [0.6, 0.6]
    save(figure, tmp_path / "lesions.png")


def test_pictures_need_rows(refuses) -> None:
    for draw, name in ((percolation_curve, "percolation"), (wall_curve, "wall"), (lesion_bars, "quality_lost")):
        with refuses("at least one row", "received none", name):
            draw([])
    for models in ({}, {"a": []}, {"a": [course(1.0), course(1.0)[:3]]}):
        with refuses("all over the same steps", "received the lengths", "recovery("):
            recovery_curves(models, at=2)
