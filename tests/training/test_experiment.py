"""An experiment: variants × seeds in one table, resumed where it stopped, and files that are checked."""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from latticegnn.report.tables import format_differences
from latticegnn.training import experiment
from latticegnn.training.callbacks import Progress
from latticegnn.training.experiment import gather, load_experiment, run_experiment
from latticegnn.training.fit import Run

ROOT = Path(__file__).resolve().parents[2]
OWN = f"{ROOT / 'examples' / '10_swap_a_layer.py'}:Diffuse"
VARIANTS = {
    "sage": {"model": {"experts": {"functional": {"class_path": "torch_geometric.nn.SAGEConv"}}}},
    "own": {"model": {"experts": {"distant": {"class_path": OWN, "init_args": {"fade": 0.7}}}}},
}


def write(folder: Path, config: Path, **changes) -> Path:
    content = {"base": str(config), "seeds": [0, 1], "settings": {"baselines": []}, "run_dir": str(folder / "runs")}
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump(content | {"variants": VARIANTS} | changes, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def done(tiny_config, tmp_path_factory) -> tuple[Path, Path, list[dict]]:
    """An experiment's file, folder and rows."""
    file = write(tmp_path_factory.mktemp("experiment"), tiny_config)
    return file, *run_experiment(file)


def results(folder: Path, name: str) -> list[dict]:
    files = sorted(folder.glob(f"{name}-seed*/metrics.json"))
    return [json.loads(file.read_text())["table"][0] for file in files]


def test_a_row_is_the_mean_and_deviation_over_the_seeds(done) -> None:
    file, folder, rows = done
    assert folder == file.parent / "runs" / "mine"
    assert [row["variant"] for row in rows] == ["sage", "own"]
    assert [row["compared"] for row in rows[1:]] == ["sage"]
    for row in rows:
        runs = results(folder, row["variant"])
        assert row["seeds"] == len(runs) == 2
        assert {run["parameters"] for run in runs} == {row["parameters"]}
        for metric in ("fvu", "cosine", "neighbour_recall@10", "seconds", "ms_per_update"):
            values = [run[metric] for run in runs]
            assert row[metric] == pytest.approx(statistics.fmean(values))
            assert row[f"{metric}_sd"] == pytest.approx(statistics.stdev(values))
        assert row["fvu_sd"] > 0
        assert row["ms_per_update"] > 0
    assert json.loads((folder / "experiment.json").read_text()) == {"table": rows}


def test_each_variant_has_its_own_layer(done) -> None:
    _, folder, _ = done
    for name, settings in VARIANTS.items():
        for config in folder.glob(f"{name}-seed*/model/config.json"):
            assert json.loads(config.read_text())["model"]["experts"] == settings["model"]["experts"]


def test_a_second_call_trains_nothing(done, monkeypatch) -> None:
    file, folder, rows = done

    def refuse(*_):
        raise AssertionError("trained again")

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/metrics.json")}
    monkeypatch.setattr(experiment, "Run", refuse)
    assert run_experiment(file) == (folder, rows)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/metrics.json")} == before


def test_a_killed_run_is_done_again_and_only_that(done) -> None:
    file, folder, rows = done
    files = sorted(folder.glob("*-seed*/metrics.json"))
    before = {path: path.stat().st_mtime_ns for path in files}
    files[0].unlink()
    _, again = run_experiment(file)
    after = {path: path.stat().st_mtime_ns for path in files}
    assert after[files[0]] > before[files[0]]
    assert {path: after[path] for path in files[1:]} == {path: before[path] for path in files[1:]}
    assert [row["fvu"] for row in again] == [row["fvu"] for row in rows], "the same seed gives the same run"


def test_a_changed_variant_is_another_run(done, tiny_config, tmp_path) -> None:
    _, folder, _ = done
    changed = {"sage": VARIANTS["sage"] | {"optim": {"lr_maps": 0.002}}}
    place, rows = run_experiment(write(tmp_path, tiny_config, variants=changed, seeds=[0]))
    assert rows[0]["fvu_sd"] == 0.0
    (name,) = (path.name for path in place.glob("sage-seed0-*"))
    assert name not in {path.name for path in folder.iterdir()}


def test_a_run_that_was_broken_off_goes_on(tiny_config, tmp_path, monkeypatch) -> None:
    file = write(tmp_path, tiny_config, variants={"plain": {}}, seeds=[0])
    _, expected = run_experiment(file)
    (place,) = (tmp_path / "runs" / "mine").glob("plain-seed0-*")
    (place / "metrics.json").unlink()
    (place / "checkpoints" / "progress-7.ckpt").rename(tmp_path / "end.ckpt")
    shutil.rmtree(place)
    settings = ["--config", str(tiny_config), "--config", str(place.parent / "settings.yaml"), "--save_every", "0"]
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "on_train_end", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            Run(settings, place).execute()
    assert not (place / "metrics.json").exists()
    done: list[int] = []
    patched = Run.execute
    monkeypatch.setattr(Run, "execute", lambda run: done.append(run.cli.resume is not None) or patched(run))
    _, rows = run_experiment(file)
    assert done == [True]
    assert rows[0]["fvu"] == expected[0]["fvu"]


def _interrupt(*_) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_workers_give_the_same_rows_and_those_that_fail_are_named(done, tiny_config, tmp_path, refuses) -> None:
    """The first call has a variant that fails once it trains; the second, mended, trains that alone."""
    _, _, rows = done
    broken = {"huge": {"optim": {"lr_cell": 1e30, "lr_maps": 1e30, "lr_decoder": 1e30}}}
    file = write(tmp_path, tiny_config, variants=VARIANTS | broken)
    with refuses("2 of 6 failed", "huge-seed0-", "call again: runs that are done stay done"):
        run_experiment(file, workers=2)
    folder = tmp_path / "runs" / "mine"
    (log,) = folder.glob("huge-seed1-*.log")
    assert "must be finite" in log.read_text()
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*-seed*/metrics.json")}
    assert len(before) == 4
    _, again = run_experiment(write(tmp_path, tiny_config), workers=2)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for row, other in zip(rows, again, strict=True):
        assert row["fvu"] == pytest.approx(other["fvu"], rel=1e-5)
    with refuses("workers must be at least 1", "got 0", "leave it out"):
        run_experiment(file, workers=0)


@pytest.mark.slow
def test_sigterm_stops_the_workers_which_save(tiny_config, tmp_path) -> None:
    endless = {"trainer": {"max_epochs": 100_000}, "early_stopping": {"patience": 100_000}, "save_every": 0.0}
    file = write(tmp_path, tiny_config, variants={"endless": endless})
    command = [sys.executable, "-m", "latticegnn", "experiment", "--config", str(file), "--workers", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    folder, deadline = tmp_path / "runs" / "mine", time.monotonic() + 120
    while len({path.parent for path in folder.glob("*/checkpoints/progress-*.ckpt")}) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.terminate()
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    for seed in (0, 1):
        (log,) = folder.glob(f"endless-seed{seed}-*.log")
        assert "go on with: latticegnn fit --resume" in log.read_text()


def result(lattice: float, baseline: float, gap: tuple[float, float, float], sha: str = "a") -> dict:
    ends = dict(zip(("lattice_minus", "lattice_minus_low", "lattice_minus_high"), gap, strict=True))
    table = [
        {"model": "lattice", "parameters": 9, "fvu": lattice, "seconds": 2.0},
        {"model": "pca", "parameters": 5, "fvu": baseline, **ends},
    ]
    return {"table": table, "data": {"task": "vectors", "rows": {"train": 9}, "teacher": None, "source_sha256": sha}}


def test_differences_are_paired_by_seed_with_students_interval() -> None:
    results = {
        ("a", 0): result(0.5, 0.7, (-0.2, -0.3, -0.1)),
        ("a", 1): result(0.4, 0.5, (-0.1, -0.2, 0.0)),
        ("a", 2): result(0.6, 0.9, (-0.3, -0.4, -0.2)),
        ("b", 0): result(0.6, 0.7, (-0.1, -0.2, 0.0)),
        ("b", 1): result(0.7, 0.7, (0.0, -0.1, 0.1)),
        ("b", 2): result(0.8, 0.7, (0.1, 0.0, 0.2)),
        ("other", 0): result(0.1, 0.1, (0.0, 0.0, 0.0), sha="b"),
    }
    first, pca, second, _, other, _ = gather(results)
    assert (first["fvu"], first["fvu_sd"], first["seeds"]) == (pytest.approx(0.5), pytest.approx(0.1), 3)
    assert "difference" not in first
    assert "difference" not in other, "other data"
    assert (pca["compared"], pca["difference"]) == ("lattice", pytest.approx(-0.2))
    reach = 4.302652729911275 * 0.1 / 3**0.5  # Student's t, two degrees of freedom, from a table
    assert pca["difference_seeds_low"] == pytest.approx(-0.2 - reach)
    assert pca["difference_seeds_high"] == pytest.approx(-0.2 + reach)
    assert (pca["difference_rows_low"], pca["difference_rows_high"]) == (pytest.approx(-0.3), pytest.approx(-0.1))
    assert (second["compared"], second["difference"]) == ("a", pytest.approx(0.2))
    gaps = [0.1, 0.3, 0.2]
    assert second["difference_seeds_high"] == pytest.approx(0.2 + 4.302652729911275 * statistics.stdev(gaps) / 3**0.5)
    assert "difference_rows_low" not in second
    (alone,) = (row for row in gather({("a", 0): results["a", 0]}) if row["model"] == "pca")
    assert "difference_seeds_low" not in alone
    assert alone["difference_rows_low"] == -0.3


@pytest.mark.parametrize(
    ("changes", "rule", "received", "remedy"),
    [
        ({"variants": {}}, "at least one variant and one seed", "got 0 and 2", "list them under variants"),
        ({"seeds": []}, "at least one variant and one seed", "got 2 and 0", "list them under variants"),
        ({"base": "none.yaml"}, "base must be an existing configuration", "none.yaml", "check the path"),
    ],
)
def test_an_experiment_that_cannot_be_is_refused(changes, rule, received, remedy, tiny_config, tmp_path, refuses):
    kind = FileNotFoundError if "base" in changes else ValueError
    with refuses(rule, received, remedy, kind):
        load_experiment(write(tmp_path, tiny_config, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"varaints": VARIANTS}, "got 'varaints.own.model.experts.distant.init_args.fade'; did you mean 'variants'?"),
        ({"sedes": [1]}, "got 'sedes'; did you mean 'seeds'?"),
        ({"seeds": ["one"]}, "seeds must be a list, each a whole number; got one; see `latticegnn"),
        ({"variants": [1]}, "variants must be a mapping; got [1]; see `latticegnn"),
    ],
)
def test_a_wrong_key_or_type_ends_with_one_line(changes, message, tiny_config, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        load_experiment(write(tmp_path, tiny_config, **changes))
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert line.startswith("latticegnn: ")
    assert message in line


@pytest.mark.parametrize(
    ("content", "received"),
    [(b"[1, 2]", "holds a list"), (b"a: [1,", "cannot be read"), (b"\x93NUMPY", "cannot be read"), (b"", "nothing")],
)
def test_a_file_that_is_no_mapping_is_named(content, received, tmp_path, refuses) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    with refuses("a configuration is a YAML file of keys and values", f"{file} ", received):
        load_experiment(file)


def test_a_variant_with_tokens_is_compared_by_what_both_have() -> None:
    plain = result(0.5, 0.7, (-0.2, -0.3, -0.1))
    spoken, silent = json.loads(json.dumps([plain, plain]))
    spoken["table"][0] |= {"fvu": 0.4, "token_accuracy": 0.6}
    gap = {"lattice_minus": 0.1, "lattice_minus_low": 0.0, "lattice_minus_high": 0.2}
    spoken["table"] = [spoken["table"][0], {"model": "majority", "parameters": 3, "token_accuracy": 0.5, **gap}]
    silent["table"] = [{"model": "lattice", "parameters": 9, "token_accuracy": 0.7}, {"model": "mean", "parameters": 1}]
    rows = gather({("plain", 0): plain, ("spoken", 0): spoken, ("silent", 0): silent})
    by_name = {(row["variant"], row["model"]): row for row in rows}
    found = by_name["spoken", "lattice"]
    assert (found["metric"], found["difference"]) == ("fvu", pytest.approx(-0.1))
    found = by_name["spoken", "majority"]
    assert (found["metric"], found["compared"], found["difference"]) == ("token_accuracy", "lattice", 0.1)
    assert "difference" not in by_name["silent", "lattice"], "nothing that both have"
    assert "difference" not in by_name["silent", "mean"]
    texts = [{"tokenizer": "a", "length": 3}, {"tokenizer": "a", "length": 3}, {"tokenizer": "a", "length": 2}]
    same, alike, shorter = (silent | {"text": text} for text in texts)
    compared = gather({("same", 0): same, ("alike", 0): alike, ("shorter", 0): shorter})
    found = {row["variant"]: row.get("metric") for row in compared if row["model"] == "lattice"}
    assert found == {"same": None, "alike": "token_accuracy", "shorter": None}, "shorter rows are another task"
    told = format_differences(rows).splitlines()
    assert told[1].startswith("spoken − plain: fvu -0.1000")
    assert told[2].startswith("spoken: lattice − majority: token_accuracy +0.1000")
