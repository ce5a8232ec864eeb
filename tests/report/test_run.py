"""The figures of a run, drawn from what its folder holds and nothing else."""

import json

import matplotlib.image
import pytest
import torch

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.report import run
from latticegnn.report.run import draw_model, draw_run, read_history

LOG = """epoch,gate/distant,gate/entropy,gate/functional,step,train/loss,validation/fvu,validation/loss,train/lr
0,,,,9,2.5,,,0.1
0,0.25,0.6,0.75,9,,0.9,2.0,
1,,,,19,1.5,,,0.2
1,0.5,0.7,0.5,19,,0.8,1.25,
"""


def row(model: str, **values: float) -> dict:
    figures = {f"{k}{end}": v + d for k, v in values.items() for end, d in (("", 0), ("_low", -0.1), ("_high", 0.1))}
    return {"model": model, "parameters": 7, **figures}


@pytest.fixture
def folder(tmp_path):
    rows = [row("lattice", fvu=0.5), row("mean", fvu=1.0)]
    (tmp_path / "metrics.json").write_text(json.dumps({"table": rows}))
    return tmp_path


def drawn(folder) -> set[str]:
    for file in (folder / "figures").iterdir():
        picture = matplotlib.image.imread(file)
        assert picture[..., :3].std() > 0.01, f"{file.name} is empty"
    return {file.name for file in (folder / "figures").iterdir()}


def test_a_table_alone_gives_its_figure(folder) -> None:
    draw_run(folder)
    assert drawn(folder) == {"table_fvu.png"}


def test_pairs_have_a_figure_of_ranks(folder) -> None:
    rows = [row("lattice", fvu=0.5, **{"mrr@10": 0.3}), row("mean", fvu=1.0, **{"mrr@10": 0.1})]
    (folder / "metrics.json").write_text(json.dumps({"table": rows}))
    draw_run(folder)
    assert drawn(folder) == {"table_fvu.png", "table_mrr.png"}


def test_a_log_gives_curves_and_gates_and_can_be_drawn_again(folder) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text(LOG)
    for _ in range(2):
        draw_run(folder)
        assert drawn(folder) == {"table_fvu.png", "curves.png", "gates.png"}


def test_a_log_without_gates_has_no_figure_of_them(folder) -> None:
    (folder / "logs").mkdir()
    (folder / "logs" / "metrics.csv").write_text("epoch,step,train/loss\n0,9,2.5\n0,19,2.0\n")
    draw_run(folder)
    assert drawn(folder) == {"table_fvu.png", "curves.png"}


def test_the_history_keeps_each_series_with_its_steps(tmp_path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "metrics.csv").write_text(LOG)
    history = read_history(tmp_path)
    assert history["train/loss"] == [(9, 2.5), (19, 1.5)]
    assert history["validation/loss"] == [(9, 2.0), (19, 1.25)]
    assert history["gate/functional"] == [(9, 0.75), (19, 0.5)]
    assert not {"epoch", "step"} & set(history)


def test_what_was_logged_after_a_checkpoint_gives_way_to_what_came_from_it(tmp_path) -> None:
    for name, steps in {"logs": (0, 4, 9, 14), "logs-from-10": (10, 12), "logs-from-5": (5, 8)}.items():
        (tmp_path / name).mkdir()
        rows = "".join(f"0,{step},{len(name)}\n" for step in steps)
        (tmp_path / name / "metrics.csv").write_text(f"epoch,step,train/loss\n{rows}")
    (tmp_path / "logs-from-13").mkdir()  # killed before anything was logged
    assert read_history(tmp_path) == {"train/loss": [(0, 4), (4, 4), (5, 11), (8, 11), (10, 12), (12, 12)]}


def test_a_run_that_was_resized_has_its_curve(folder) -> None:
    own = {"keep": "cells", "shape": [8, 8, 8], "retention": 1.0, "tuned_retention": 1.0}
    sizes = [own, {**own, "shape": [16, 16, 16], "retention": -3.0}, {**own, "keep": "ratios", "tuned_retention": 0.9}]
    (folder / "sizes.json").write_text(json.dumps({"trained": [8, 8, 8], "rows": 9, "sizes": sizes}))
    draw_run(folder)
    assert drawn(folder) == {"table_fvu.png", "retention.png"}


def test_a_model_is_drawn_with_what_it_does(tmp_path, monkeypatch) -> None:
    model = LatticeModel(LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5)), embedding_dim=6, channels=4, steps=4).eval()
    inputs = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    draw_model(model, inputs, tmp_path)
    assert drawn(tmp_path) == {"tiers.png", "lattice.png", "gate_maps.png", "signal.png"}
    for part, value in (("silent", 0.0), ("broken", float("inf"))):
        with torch.no_grad():
            next(model.mapper.parameters()).fill_(value)
            if part == "silent":
                for parameter in model.transformer.encoder.parameters():
                    parameter.zero_()
        (tmp_path / part).mkdir()
        draw_model(model, inputs, tmp_path / part)
        assert drawn(tmp_path / part) == {"tiers.png", "lattice.png"}, part
    (tmp_path / "large").mkdir()
    monkeypatch.setattr(run, "MOST_EDGES", 10)
    draw_model(model, inputs, tmp_path / "large")
    assert drawn(tmp_path / "large") == {"tiers.png"}
    (tmp_path / "huge").mkdir()
    monkeypatch.setattr(run, "MOST_COUNTED", 10)
    draw_model(model, inputs, tmp_path / "huge")
    assert drawn(tmp_path / "huge") == set()
