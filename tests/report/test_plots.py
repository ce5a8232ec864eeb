"""Plots of a run, tested by the data they show."""

import math

import matplotlib
import pytest
from matplotlib.figure import Figure

from latticegnn.report import gate_usage, honest_table, loss_curves, save
from latticegnn.report.plots import INPUT, METRICS, SPLITS, TIERS, VERMILLION


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def row(model: str, value: float, low: float, high: float, metric: str = "fvu") -> dict:
    return {"model": model, metric: value, f"{metric}_low": low, f"{metric}_high": high, "parameters": 51746}


def test_curves_have_a_panel_a_quantity_and_a_line_a_split():
    history = {
        "train/loss": [(0, 1.0), (10, 0.5), (20, 0.01)],
        "validation/loss": [(10, 0.6), (20, 0.2)],
        "validation/mrr@10": [(20, 0.3)],
        "lr": [(0, 0.0), (10, 1.0)],
    }
    loss, mrr, rate = loss_curves(history).axes
    assert [axes.get_title(loc="left") for axes in (loss, mrr, rate)] == ["loss", METRICS["mrr@10"][0], "lr"]
    for line, (name, series) in zip(loss.lines, list(history.items())[:2], strict=True):
        assert list(zip(*line.get_data(), strict=True)) == series
        assert line.get_label() == name.partition("/")[0]
        assert line.get_color() == SPLITS[line.get_label()]
    assert (loss.get_yscale(), mrr.get_yscale(), rate.get_yscale()) == ("log", "linear", "linear")
    assert (loss.get_xlabel(), loss.get_ylabel(), mrr.get_ylabel()) == ("step", "", "higher is better")
    assert mrr.lines[0].get_marker() == "o"  # a lone point would show nothing
    assert loss.get_legend() is not None
    assert rate.get_legend() is None


def test_curves_leave_gaps_and_keep_unknown_splits_apart(tmp_path):
    nan = float("nan")
    figure = loss_curves({"a/loss": [(0, nan), (1, nan)], "b/loss": [(0, 1.0), (1, nan), (2, -1.0)]})
    (axes,) = figure.axes
    assert math.isnan(axes.lines[1].get_ydata()[1])
    assert axes.lines[0].get_color() != axes.lines[1].get_color()
    save(figure, tmp_path / "gaps.png")


@pytest.mark.parametrize("history", [{}, {"train/loss": []}])
def test_curves_need_points(history):
    with pytest.raises(ValueError) as error:
        loss_curves(history)
    explains(error, "at least one recorded", "['train/loss']" if history else "any name", "at least one step")


def test_the_table_sorts_highlights_and_shows_intervals():
    rows = [row("PCA-64", 0.41, 0.38, 0.43), row("lattice", 0.39, 0.35, 0.42), row("training mean", 1.0, 1.0, 1.0)]
    figure = honest_table(rows, "fvu")
    (axes,) = figure.axes
    names = [text.get_text().splitlines() for text in axes.get_yticklabels()]
    assert [name for name, _ in names] == ["training mean", "PCA-64", "lattice"]  # from below: the best on top
    assert {count for _, count in names} == {"51,746 parameters"}
    assert [bar.get_width() for bar in axes.patches] == [1.0, 0.41, 0.39]
    colours = [matplotlib.colors.to_hex(bar.get_facecolor()).upper() for bar in axes.patches]
    assert [colour == VERMILLION for colour in colours] == [False, False, True]
    assert [list(line.get_xdata()) for line in axes.lines[:3]] == [[1.0, 1.0], [0.38, 0.43], [0.35, 0.42]]
    assert [text.get_text() for text in axes.texts] == ["1.000", "0.410", "0.390"]
    assert "lower is better" in axes.get_xlabel()
    assert figure.get_suptitle() == "Variance unexplained (FVU)"


def test_the_table_turns_round_where_more_is_better():
    rows = [
        row(name, value, value, value, "mrr@10") for name, value in [("lattice", 0.5), ("ridge", 0.6), ("mean", -0.1)]
    ]
    (axes,) = honest_table(rows, "mrr@10").axes
    assert [bar.get_width() for bar in axes.patches] == [-0.1, 0.5, 0.6]
    assert "higher is better" in axes.get_xlabel()


def test_bad_tables():
    with pytest.raises(ValueError) as error:
        honest_table([row("lattice", 0.4, 0.3, 0.5)], "accuracy")
    explains(error, "must be one of fvu", "'accuracy'", "Choose")
    with pytest.raises(ValueError) as error:
        honest_table([row("lattice", 0.4, 0.3, 0.5), {"model": "x", "fvu": 1}], "fvu")
    explains(
        error, "needs model, fvu", "row 1 lacks fvu_low; row 1 lacks fvu_high; row 1 lacks parameters", "metrics.json"
    )
    with pytest.raises(ValueError) as error:
        honest_table([], "fvu")
    explains(error, "received no row")


def test_gates_are_stacked():
    gates = {"local": [0.2, 0.3], "functional": [0.5, 0.3], "mine": [0.3, 0.4]}
    (axes,) = gate_usage(gates, along="epoch").axes
    assert [area.get_label() for area in axes.collections] == list(gates)
    below = [0.0, 0.0]
    for area, weights in zip(axes.collections, gates.values(), strict=True):
        corners = {(round(x, 6), round(y, 6)) for x, y in area.get_paths()[0].vertices}
        above = [b + w for b, w in zip(below, weights, strict=True)]
        assert corners == {(step, round(side[step], 6)) for side in (below, above) for step in (0, 1)}
        below = above
    colours = [matplotlib.colors.to_hex(area.get_facecolor()[0]).upper() for area in axes.collections]
    assert colours[:2] == [TIERS["local"], TIERS["functional"]]
    assert colours[2] not in colours[:2]
    assert [text.get_text() for text in axes.texts] == ["local  30%", "functional  30%", "mine  40%"]
    assert axes.get_xlabel() == "epoch"


def test_bad_gates():
    with pytest.raises(ValueError) as error:
        gate_usage({"local": [0.5, 0.5], "distant": [0.5]})
    explains(error, "as many weights", "'local': 2, 'distant': 1", "every step")
    with pytest.raises(ValueError) as error:
        gate_usage({})
    explains(error, "received no tier")
    with pytest.raises(ValueError) as error:
        gate_usage({"local": [0.5, 0.5], "distant": [0.5, 0.6]})
    explains(error, "shares of 1", "step 1 has 0.5, 0.6", "LatticeCell.gates")


def test_drawing_leaves_the_callers_settings_alone():
    before = dict(matplotlib.rcParams)
    loss_curves({"loss": [(0, 1.0), (1, 2.0)]})
    assert dict(matplotlib.rcParams) == before


def test_saving_is_whole_and_repeatable(tmp_path, monkeypatch):
    draw = lambda: loss_curves({"train/loss": [(0, 1.0), (1, 2.0)]})  # noqa: E731
    first, second = tmp_path / "new" / "a.png", tmp_path / "b.png"
    save(draw(), first)
    save(draw(), second)
    content = first.read_bytes()
    assert content == second.read_bytes()
    assert content.startswith(b"\x89PNG")
    assert int.from_bytes(content[16:20]) == round(4.2 * 150)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save(draw(), first)
    assert first.read_bytes() == content
    assert [file.name for file in first.parent.iterdir()] == ["a.png"]
    with pytest.raises(ValueError) as error:
        save(draw(), tmp_path / "c.pdf")
    explains(error, "ending in .png", "c.pdf", "Rename")


def test_ports_and_splits_have_the_colour_blind_safe_palette():
    safe = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
    assert {INPUT, VERMILLION, *TIERS.values(), *SPLITS.values()} <= safe
