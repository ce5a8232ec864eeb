"""A search finds what is better on the validation split, goes on where it stopped, and names what fails."""

import json
from pathlib import Path

import pytest
import yaml

from latticegnn.cli import main
from latticegnn.training.experiment import load_experiment
from latticegnn.training.fit import Run
from latticegnn.training.search import Search, run_search

SPACE = {
    "optim.lr_cell": {"low": 1e-4, "high": 1e-1, "log": True},
    "optim.lr_maps": {"choices": [1e-6, 1e-2]},
    "model.hidden": {"low": 2, "high": 5},
}


def write(folder: Path, config: Path, **search) -> Path:
    content = {"base": str(config), "settings": {"refit_readout": False}, "run_dir": str(folder / "runs")}
    file = folder / "find.yaml"
    file.write_text(yaml.safe_dump(content | {"search": {"space": SPACE, "trials": 6} | search}))
    return file


@pytest.mark.slow
def test_a_search_goes_on_where_it_stopped_and_its_best_can_be_trained(tiny_config, tmp_path, capsys) -> None:
    folder = tmp_path / "runs" / "find"
    assert main(["experiment", "--config", str(write(tmp_path, tiny_config, trials=4))]) == 0
    first = json.loads((folder / "search.json").read_text())["table"]
    assert len(first) == 4
    assert main(["experiment", "--config", str(write(tmp_path, tiny_config))]) == 0
    rows = json.loads((folder / "search.json").read_text())["table"]
    assert len(rows) == 6
    assert [row for row in rows if row["trial"] < 4] == first
    assert len({(row["optim.lr_cell"], row["model.hidden"]) for row in rows}) == 6, "no trial is drawn twice"
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses)
    for row in rows:
        stored = json.loads((folder / f"trial-{row['trial']}" / "metrics.json").read_text())
        assert stored["validation"]["loss"] == row["loss"]
        assert 1e-4 <= row["optim.lr_cell"] <= 1e-1
        assert row["model.hidden"] in (2, 3, 4, 5)
    out = capsys.readouterr().out.splitlines()
    assert out[-1] == str(folder)
    assert out[0].split() == ["trial", "validation", "loss", *sorted(SPACE)]
    best = Run(["--config", str(tiny_config), "--config", str(folder / "best.yaml"), "--run_dir", str(tmp_path / "b")])
    assert best.model.settings["hidden"] == rows[0]["model.hidden"]
    assert best.module.optim.lr_cell == pytest.approx(rows[0]["optim.lr_cell"])
    assert best.cli.config.refit_readout is False


def test_a_search_does_not_go_on_with_other_settings(tiny_config, tmp_path, refuses) -> None:
    space = {"model.hidden": {"choices": [3]}}
    run_search(Search(space, trials=1), tiny_config, {}, tmp_path / "s")
    with refuses("goes on with the settings it began with", str(tmp_path / "s"), "begin anew"):
        run_search(Search(space, trials=2), tiny_config, {"model": {"channels": 3}}, tmp_path / "s")


def test_a_key_leads_through_mappings(tiny_config, tmp_path, refuses) -> None:
    settings = {"data": {"more": [{"task": "qa"}]}}
    with refuses("must lead through mappings", "'more' holds [{'task': 'qa'}]", "vary another setting"):
        run_search(Search({"data.more.0.weight": {"choices": [1.0]}}), tiny_config, settings, tmp_path / "s")


def test_trials_that_diverge_are_counted_as_failed(tiny_config, tmp_path, refuses) -> None:
    space = {"optim.lr_cell": {"choices": [1e30]}, "optim.lr_maps": {"choices": [1e30]}}
    with refuses("a trial of a search must end", "all 2 failed, the last: the", "narrow the space"):
        run_search(Search(space, trials=2), tiny_config, {}, tmp_path / "s")
    rows = json.loads((tmp_path / "s" / "search.json").read_text())["table"]
    assert all(row["loss"] is None and "must be finite" in row["reason"] for row in rows)


def test_a_setting_that_does_not_exist_is_named_before_the_first_trial(tiny_config, tmp_path, capsys) -> None:
    file = write(tmp_path, tiny_config, space={"optim.lr_sell": {"low": 0.1, "high": 0.2}})
    with pytest.raises(SystemExit):
        main(["experiment", "--config", str(file)])
    assert "did you mean 'optim.lr_cell'" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("search", "rule", "received"),
    [
        ({"space": {}}, "needs settings to vary", "got 0 settings"),
        ({"trials": 0}, "at least one trial", "0 trials"),
        ({"space": {"a": {"low": 2}}}, "search.space.a must be", "{'low': 2}"),
        ({"space": {"a": {"low": 2, "high": 1}}}, "search.space.a must be", "'high': 1"),
        ({"space": {"a": {"low": 1, "high": 2, "lag": True}}}, "search.space.a must be", "'lag'"),
        ({"space": {"a": {"choices": []}}}, "search.space.a must be", "[]"),
        ({"space": {"a": {"low": 0, "high": 2, "log": True}}}, "must be above 0", "got low 0"),
    ],
)
def test_a_space_that_is_none_is_refused(search, rule, received, refuses) -> None:
    with refuses(rule, received, ""):
        Search(**{"space": SPACE, **search})


def test_a_search_has_no_variants_and_no_workers(tiny_config, tmp_path, capsys, refuses) -> None:
    file = write(tmp_path, tiny_config)
    assert main(["experiment", "--config", str(file), "--workers", "2"]) == 2
    assert "got workers 2; leave it out" in capsys.readouterr().err
    content = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(content | {"variants": {"a": {}}}))
    with refuses("variants or a search", "1 variants and a search", "leave out one"):
        load_experiment(file)
