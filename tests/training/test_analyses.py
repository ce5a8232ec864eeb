"""What is looked at in a run that is done: the figures are those of the model, and are kept."""

import json
import math
import shutil

import pytest
import torch
import yaml

from latticegnn.analysis.any_time import quality_by_steps
from latticegnn.analysis.metrics import figures
from latticegnn.analysis.stopping import StoppingRules
from latticegnn.cli import main
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training import analyses
from latticegnn.training.analyses import Analyses, FinishedRun, analyse
from latticegnn.training.experiment import run_experiment


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a run's folder."""
    return shutil.copytree(finished.folder, tmp_path / "run")


def test_each_row_is_a_rollout_of_so_many_steps(run) -> None:
    rows = analyse(run, Analyses(steps=7))["steps"]
    assert [row["steps"] for row in rows] == list(range(1, 8))
    opened = FinishedRun(run)
    inputs, targets = opened.data.splits["test"].tensors()
    for row in rows:
        with torch.no_grad():
            answer = opened.model.rollout(inputs, steps=row["steps"]).embedding
        wanted = figures(answer, targets, opened.train_mean, opened.data.pairs)
        assert {name: row[name] for name in wanted} == pytest.approx(wanted, rel=1e-5)
    table = json.loads((run / "metrics.json").read_text())["table"][0]
    own = rows[opened.model.steps - 1]
    assert {name: own[name] for name in ("fvu", "cosine")} == pytest.approx(
        {name: table[name] for name in ("fvu", "cosine")}, rel=1e-5
    )


def test_what_was_found_is_read_and_other_settings_are_computed(run, monkeypatch) -> None:
    found = analyse(run, Analyses(steps=6))
    opened = []
    monkeypatch.setattr(analyses, "FinishedRun", lambda folder: opened.append(folder) or FinishedRun(folder))
    assert analyse(run, Analyses(steps=6)) == found
    assert not opened
    assert len(analyse(run, Analyses(steps=7))["steps"]) == 7
    assert opened == [run]


def test_the_command_prints_keeps_and_draws(run, capsys) -> None:
    assert main(["analyse", str(run), "--steps", "6"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[1].split()[:3] == ["steps", "fvu", "explained_variance"]
    assert printed[-1] == str(run / "analysis" / "steps.png")
    assert (run / "analysis" / "steps.png").read_bytes().startswith(b"\x89PNG")


def test_an_experiment_looks_at_each_of_its_runs(tiny_config, tmp_path) -> None:
    content = {
        "base": str(tiny_config), "seeds": [0, 1], "run_dir": str(tmp_path / "runs"), "settings": {"baselines": []},
        "variants": {"fixed": {}, "drawn": {"unroll": {"mode": "random", "low": 4, "high": 8}}},
        "analyse": {"steps": 8},
    }  # fmt: skip
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    folder, _ = run_experiment(file)
    found = json.loads((folder / "experiment.json").read_text())["analysis"]["steps"]
    for name in ("fixed", "drawn"):
        for seed, rows in enumerate(found[name]):
            kept = next(folder.glob(f"{name}-seed{seed}-*/analysis/steps.json"))
            assert json.loads(kept.read_text())["rows"] == rows
    assert run_experiment(file)[0] == folder


def test_answers_that_are_not_finite_have_no_figures() -> None:
    target = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    found = figures(target / 0, target, target.mean(dim=0), pairs=True)
    assert {"fvu", "mrr@10"} < set(found)
    assert all(math.isnan(value) for value in found.values())


def test_mistakes_are_told(run, tmp_path, refuses) -> None:
    with refuses("an analysis must be asked for", "none", "set steps"):
        Analyses()
    with refuses("steps to look at", "0", "set it to 24"):
        Analyses(steps=0)
    with refuses("the folder of a run that is done", str(tmp_path / "none"), "runs/latest", FileNotFoundError):
        analyse(tmp_path / "none", Analyses(steps=5))
    model = LatticeModel(LatticeSpec((3, 3, 3), radii=(0.5, 1.0, 1.5)), embedding_dim=4, steps=3)
    with refuses("after each of at least 1 step", "0", "raise it"):
        quality_by_steps(model, torch.ones(12, 4), torch.ones(12, 4), torch.zeros(4), False, 0)
    kept = json.loads((run / "metrics.json").read_text())
    kept["data"]["rows"]["test"] += 1
    (run / "metrics.json").write_text(json.dumps(kept))
    with refuses("the data of the run", "rows", "restore"):
        analyse(run, Analyses(steps=5))


def test_the_rules_of_stopping_are_those_of_rollouts_and_a_head_is_among_them(start, tmp_path, refuses) -> None:
    run = start(tmp_path, "--model.stopping", '{"halting": {"prior": 0.2}}', "--loss.ponder", "0.01")
    own = run.execute()["table"][0]
    rules = StoppingRules(tolerances=[0.1], steps=[5], max_steps=5)
    rows = analyse(run.folder, Analyses(stopping=rules))["stopping"]
    assert [row["rule"] for row in rows] == ["5 steps", "relative ≤ 0.1", "halting head"]
    assert (rows[2]["fvu"], rows[2]["cosine"]) == pytest.approx((own["fvu"], own["cosine"]), rel=1e-5)
    with refuses("a criterion is one of", "relativ", "relative"):
        analyse(run.folder, Analyses(stopping=StoppingRules(criterion="relativ")))
