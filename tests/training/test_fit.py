"""A run from data to honest table: what its folder holds, that it can be done again, and that it can go on."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from latticegnn.analysis.metrics import evaluate
from latticegnn.data import datamodule
from latticegnn.model import LatticeModel
from latticegnn.training.configuration import set_level
from latticegnn.training.fit import Run, predict, spike

ROOT = Path(__file__).resolve().parents[2]
ROWS = ["lattice", "mean", "pca_9", "projection_only", "frozen_cell", "mlp_equal_parameters", "mlp_equal_compute"]
METRICS = ("fvu", "explained_variance", "cosine", "neighbour_recall@10")


def table(run: Run) -> list[dict]:
    """The table of a run without what the clock says."""
    rows = json.loads((run.folder / "metrics.json").read_text())["table"]
    return [{key: v for key, v in row.items() if key not in ("seconds", "ms_per_update")} for row in rows]


def test_the_folder_holds_what_is_promised(finished) -> None:
    folder = finished.folder
    names = {file.name for file in folder.iterdir()}
    assert names == {"config.yaml", "metrics.json", "checkpoints", "model", "logs"}
    checkpoints = sorted(file.name for file in (folder / "checkpoints").iterdir())
    assert checkpoints == ["epoch=0-step=7.ckpt", "progress-7.ckpt"]
    assert len(list((folder / "logs").glob("events.out.tfevents*"))) == 1
    with (folder / "logs" / "metrics.csv").open(newline="") as file:
        logged = set(csv.DictReader(file).fieldnames or ())
    assert {"train/loss", "validation/loss", "validation/fvu", "validation/cosine", "gate/entropy", "epoch"} <= logged
    link = folder.parent / "latest"
    assert link.is_symlink()
    assert link.resolve() == folder.resolve()


def test_the_metrics_have_the_keys_and_intervals_that_are_promised(finished) -> None:
    content = json.loads((finished.folder / "metrics.json").read_text())
    rows = content["table"]
    assert [row["model"] for row in rows] == ROWS  # raw_teacher and ridge are for pairs
    for row in rows:
        for metric in METRICS:
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
        trained = row["model"] not in ("mean", "pca_9")
        assert ("seconds" in row, "ms_per_update" in row, "updates" in row) == (trained,) * 3
        assert row["parameters"] > 0
        paired = {key for key in row if key.startswith("lattice_minus")}
        assert len(paired) == (0 if row["model"] == "lattice" else 3)
    by_name = {row["model"]: row for row in rows}
    assert {by_name[name]["updates"] for name in ROWS[3:]} == {by_name["lattice"]["updates"]} == {7}
    assert by_name["lattice"]["parameters"] == content["parameters"]["total"] == 699
    assert by_name["frozen_cell"]["parameters"] == content["parameters"]["maps"]
    assert by_name["mean"]["parameters"] == finished.data.dim
    gap = by_name["lattice"]["fvu"] - by_name["pca_9"]["fvu"]
    assert by_name["pca_9"]["lattice_minus"] == pytest.approx(gap)
    assert by_name["mean"]["fvu"] == pytest.approx(1, abs=0.2)
    assert by_name["pca_9"]["fvu"] < 0.01
    assert content["data"]["rows"] == {"train": 114, "validation": 18, "test": 18}
    assert (content["task"], content["seed"], content["backend"]) == ("vectors", 0, finished.model.cell.backend)
    assert content["machine"]["torch"] == torch.__version__


def test_the_saved_model_is_the_one_in_the_table(finished) -> None:
    model = LatticeModel.from_pretrained(finished.folder / "model")
    split = finished.data.splits["test"]
    prediction = predict(model, split)
    assert torch.equal(prediction, predict(finished.model, split))
    figures = evaluate(prediction, split.targets, finished.data.splits["train"].targets.mean(dim=0), pairs=False)
    (row, *_) = table(finished)
    for metric in METRICS:
        assert [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]] == list(figures[metric].values())


def test_the_best_checkpoint_and_the_saved_model_agree(start, tmp_path) -> None:
    """But for the decoder, where it is solved again after training."""
    changed = []
    for again in ("false", "true"):
        run = start(tmp_path, "--refit_readout", again)
        run.execute()
        weights = torch.load(run.cli.trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
        saved = LatticeModel.from_pretrained(run.folder / "model").state_dict()
        changed.append({name for name, value in saved.items() if not torch.equal(weights[f"model.{name}"], value)})
    assert changed == [set(), {"transformer.decoder.weight", "transformer.decoder.bias"}]


def test_the_saved_configuration_gives_the_same_table_in_a_folder_of_its_own(finished) -> None:
    held = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")}
    again = Run(["--config", str(finished.folder / "config.yaml")])
    again.execute()
    assert again.folder != finished.folder
    assert again.folder.parent == finished.folder.parent
    assert table(again) == table(finished)
    assert {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*")} == held
    assert (again.folder / "checkpoints" / "progress-7.ckpt").is_file()


def test_the_seed_decides(finished, start, tmp_path) -> None:
    results = []
    for seed in ("0", "0", "1"):
        run = start(tmp_path, "--seed_everything", seed)
        run.execute()
        assert run.model.settings["seed"] == run.cli.datamodule.order_seed == int(seed)
        results.append(table(run))
    assert results[0] == results[1] == table(finished)[:1]
    assert results[2] != results[0]
    assert results[2][0]["parameters"] == results[0][0]["parameters"]


def test_a_refused_run_leaves_no_folder(start, tmp_path) -> None:
    with pytest.raises(ValueError, match="channels must be a whole number"):
        start(tmp_path / "runs", "--model.channels", "0")
    assert list((tmp_path / "runs").iterdir()) == []


def test_runs_of_the_same_second_have_their_own_folders(start, tmp_path) -> None:
    assert len({start(tmp_path).folder for _ in range(3)}) == 3


def test_an_own_folder_for_checkpoints_is_kept(start, tmp_path) -> None:
    run = start(tmp_path / "runs", "--checkpoint.dirpath", str(tmp_path / "elsewhere"))
    run.execute()
    assert (tmp_path / "elsewhere" / "epoch=0-step=7.ckpt").is_file()
    assert (run.folder / "checkpoints" / "progress-7.ckpt").is_file()
    assert f"dirpath: {tmp_path / 'elsewhere'}" in (run.folder / "config.yaml").read_text()


def test_an_error_of_the_network_names_the_rule_and_other_errors_stay(start, tmp_path, monkeypatch, refuses) -> None:
    run = start(tmp_path)
    gloo = RuntimeError("[/gloo/transport/tcp/pair.cc:537] Read error: Connection reset by peer")
    for error in (gloo, torch.distributed.DistBackendError("NCCL: remote process exited")):
        monkeypatch.setattr(run, "_execute", lambda error=error: _raise(error))
        with refuses("processes of a run must live to its end", str(error)[-20:], "no checkpoint", ConnectionError):
            run.execute()
    monkeypatch.setattr(run, "_execute", lambda: _raise(RuntimeError("mat1 and mat2 shapes")))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        run.execute()


def _raise(error: Exception) -> None:
    raise error


def test_early_stopping_ends_a_run(start, tmp_path) -> None:
    words = ("--early_stopping.patience", "1", "--early_stopping.min_delta", "1000", "--trainer.max_epochs", "9")
    run = start(tmp_path, *words)
    assert run.execute()["table"][0]["updates"] == 2 * 7


def test_the_level_of_the_log_takes_effect(capsys) -> None:
    set_level("warning")
    log = logging.getLogger("latticegnn")
    log.info("quiet")
    log.warning("loud")
    set_level("info")
    log.info("now heard")
    assert capsys.readouterr().err.splitlines() == ["WARNING loud", "INFO now heard"]


def test_predictions_come_in_batches_and_in_order(finished) -> None:
    split = finished.data.splits["test"]
    whole = predict(finished.model, split)
    assert whole.shape == split.targets.shape
    torch.testing.assert_close(predict(finished.model, split, batch_size=5), whole)


def test_questions_and_answers_through_a_real_teacher(tmp_path) -> None:
    words = ["--config", str(ROOT / "configs" / "smoke.yaml"), "--data.cache_dir", str(tmp_path / "cache")]
    words += ["--run_dir", str(tmp_path), "--log_level", "warning", "--trainer.enable_progress_bar", "false"]
    run = Run(words)
    rows = {row["model"]: row for row in run.execute()["table"]}
    pairs = ["raw_teacher", "pca_25_ridge", "ridge"]
    assert list(rows) == ["lattice", "mean", *pairs, *ROWS[3:]]
    for row in rows.values():
        for metric in (*METRICS, "mrr@10", "recall@1", "recall@10"):
            assert row[f"{metric}_low"] <= row[metric] <= row[f"{metric}_high"]
    assert sum(run.data.card()["rows"].values()) == 120
    assert rows["raw_teacher"]["mrr@10"] > 2 * rows["mean"]["mrr@10"], "a name is near its own docstring"
    split = run.data.splits["test"]
    assert run.model.skip
    model = LatticeModel.from_pretrained(run.folder / "model")
    assert torch.equal(predict(model, split), predict(run.model, split))
    assert np.isfinite([row["fvu"] for row in rows.values()]).all()


def test_rows_on_disk_give_the_run_of_rows_in_memory(finished, start, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(datamodule, "IN_MEMORY", 1000)
    run = start(tmp_path, "--data.num_workers", "1")
    run.execute()
    assert not isinstance(run.data.splits["train"].inputs, torch.Tensor)
    for one, other in zip(run.model.parameters(), finished.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_spike_is_the_largest_ratio_to_the_median_before() -> None:
    falling = [1 / (k + 1) for k in range(100)]
    assert spike(falling, start=10) < 1
    assert spike([*falling[:50], 0.5, *falling[51:]], start=10) == pytest.approx(0.5 / np.median(falling[25:50]))
    assert spike([9.0, 1.0], start=5) == 1.0


@pytest.mark.slow
def test_the_default_recipe_is_smooth_over_five_seeds(tmp_path) -> None:
    """No batch's loss above twice the median of the 25 before it, once the rates have risen."""
    for seed in range(5):
        words = ["--config", str(ROOT / "configs" / "default.yaml"), "--run_dir", str(tmp_path), "--baselines", "[]"]
        words += ["--seed_everything", str(seed), "--trainer.max_epochs", "2", "--log_level", "warning"]
        run = Run([*words, "--trainer.enable_progress_bar", "false"])
        (row,) = run.execute()["table"]
        assert 0.5 < row["spike"] < 2, f"seed {seed}"
