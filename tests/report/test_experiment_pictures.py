"""Figures of an experiment, tested by the data they show."""

import pytest
from matplotlib.colors import to_hex

from latticegnn.report import ablation_table, save, seed_curves
from latticegnn.report.experiment import draw_experiment
from latticegnn.report.plots import BLUE, GREY, VERMILLION


def row(variant: str, mean: float, gap: tuple[float, ...] = (), model: str = "lattice", main: str = "mrr@10") -> dict:
    found = {"variant": variant, "model": model, "seeds": 3, "parameters": 9, main: mean, f"{main}_sd": 0.01}
    names = (
        "difference",
        "difference_seeds_low",
        "difference_seeds_high",
        "difference_rows_low",
        "difference_rows_high",
    )
    if gap:
        found |= dict(zip(names, gap, strict=False)) | {"compared": "plain" if model == "lattice" else "lattice"}
    return found


def test_curves_show_median_and_range_of_the_seeds(tmp_path) -> None:
    plain = [{"loss": [(0, 1.0), (1, 0.5 + d), (2, 0.4)]} for d in (0.0, 0.1, 0.3)]
    short = [{"loss": [(0, 2.0), (1, 1.0)], "mrr@10": [(1, 0.2)]}, {"loss": [(0, 3.0)], "mrr@10": [(1, 0.4)]}]
    figure = seed_curves({"plain": plain, "short": short})
    loss, mrr = figure.axes
    lines = {line.get_label(): line.get_xydata().tolist() for line in loss.lines}
    assert lines["plain"] == [[0, 1.0], [1, pytest.approx(0.6)], [2, 0.4]]
    assert lines["short"] == [[0, 2.5]], "as far as all seeds went"
    low, high = ({x: y for x, y in loss.collections[0].get_paths()[0].vertices if y == end} for end in (0.5, 0.8))
    assert set(low) == set(high) == {1}
    assert [line.get_label() for line in mrr.lines] == ["short"]
    assert mrr.lines[0].get_marker() == "o"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plain", "short"]
    assert loss.lines[1].get_color() == mrr.lines[0].get_color()
    save(figure, tmp_path / "curves.png")


def test_a_crowd_of_variants_is_told_apart_by_colour_or_dash() -> None:
    (axes,) = seed_curves({f"v{k}": [{"loss": [(0, k), (1, k)]}] for k in range(16)}).axes
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 16


def test_seeds_that_do_not_match_are_refused(refuses) -> None:
    for variants in ({}, {"a": [{}]}, {"a": []}):
        with refuses("at least one recorded quantity", "received none", "at least one epoch"):
            seed_curves(variants)
    loss = [(0, 1.0)]
    with refuses("the same quantities", "1 of 2 seeds of 'a' with 'loss', 1 updates", "same settings"):
        seed_curves({"a": [{"loss": loss}, {"mrr@10": loss}]})
    with refuses("at the same updates", "0 updates in common", "same settings"):
        seed_curves({"a": [{"loss": loss}, {"loss": [(1, 1.0)]}]})


def test_an_ablation_shows_means_and_both_intervals_the_right_way_round(tmp_path) -> None:
    rows = [
        row("plain", 0.5),
        row("plain", 0.7, (-0.2, -0.3, -0.1, -0.25, -0.15), model="ridge"),
        row("open", 0.52, (0.02, -0.01, 0.05)),
        row("worse", 0.4, (-0.1, -0.2, -0.05)),
        row("alone", 0.6, (0.1,)),
    ]
    figure = ablation_table(rows)
    means, gaps = figure.axes
    assert [text.get_text() for text in means.get_yticklabels()] == ["plain", "plain: ridge", "open", "worse", "alone"]
    assert [bar.lines[0].get_xdata()[0] for bar in means.containers] == [0.5, 0.7, 0.52, 0.4, 0.6]
    spans = [sorted(bar.lines[2][0].get_segments()[0][:, 0]) for bar in means.containers]
    assert spans[0] == pytest.approx([0.49, 0.51])
    assert means.yaxis_inverted(), "the first row on top"
    drawn = [(list(line.get_xdata()), to_hex(line.get_color()).upper()) for line in gaps.lines[1:]]
    assert drawn == [
        (pytest.approx([0.1, 0.3]), BLUE), (pytest.approx([0.15, 0.25]), BLUE), ([0.2], BLUE),  # ridge − lattice
        (pytest.approx([-0.01, 0.05]), GREY), ([0.02], GREY),
        (pytest.approx([-0.2, -0.05]), VERMILLION), ([-0.1], VERMILLION),
        ([0.1], GREY),  # one seed has no interval, and so no verdict
    ]  # fmt: skip
    assert [text.get_text() for text in gaps.texts] == ["− plain: lattice", "− plain", "− plain", "− plain"]
    save(figure, tmp_path / "ablation.png")


def test_lower_is_better_for_the_unexplained_and_no_comparison_leaves_one_panel() -> None:
    rows = [row("plain", 0.5, main="fvu"), row("less", 0.4, (-0.1, -0.2, -0.05), main="fvu")]
    assert to_hex(ablation_table(rows).axes[1].lines[1].get_color()).upper() == BLUE
    assert len(ablation_table(rows[:1]).axes) == 1


def test_rows_of_two_tasks_are_refused_and_drawn_apart(tmp_path, refuses) -> None:
    rows = [row("a", 0.5), row("b", 0.4, main="fvu")]
    with refuses("share their main metric, mrr@10", "2 rows, of which 1", "by themselves"):
        ablation_table(rows)
    with refuses("share their main metric", "0 rows", "by themselves"):
        ablation_table([])
    names = [file.name for file in draw_experiment(tmp_path, rows, {("a", 0): tmp_path / "none"})]
    assert names == ["ablation_mrr.png", "ablation_fvu.png"]
    assert sorted(names) == sorted(file.name for file in (tmp_path / "figures").iterdir())
