"""Two processes on one machine, joined by gloo, do what one process does."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from latticegnn.training.checkpoints import read, saved

TERMS = "{reconstruction: 1, cosine: 1, similarity: 1, contrastive: 0.1, diversity: 0.1, dynamics: 0.1, spatial: 0.1}"


def command(config: Path, runs: Path, name: str, *words: str) -> list[str]:
    given = ["--config", config, "--run_dir", runs, "--run_name", name, "--save_every", "0", *words]
    return [sys.executable, "-m", "latticegnn", "fit", *map(str, given)]


@pytest.fixture(scope="module")
def folders(tiny_config, tmp_path_factory) -> list[Path]:
    """The run of one process and that of two, with terms that compare the rows of a batch, and a baseline."""
    runs = tmp_path_factory.mktemp("runs")
    for count in (1, 2):
        words = ["--trainer.devices", str(count), "--loss", TERMS, "--baselines", "[projection_only]"]
        words += ["--refit_readout", "false"]  # a choice among penalties would hide what differs, or make it jump
        done = subprocess.run(command(tiny_config, runs, str(count), *words), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
    return [runs / "1", runs / "2"]


def test_the_gradient_is_that_of_one_process(folders) -> None:
    """After one update AdamW's first moment is the gradient, clipped alike, times a tenth."""
    one, two = (_moments(folder / "checkpoints") for folder in folders)
    assert one.keys() == two.keys()
    assert len(one) > 10
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-5, atol=2e-6 * float(value.abs().max()))


def _moments(folder: Path) -> dict[int, torch.Tensor]:
    states = torch.load(folder / "progress-6.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    return {key: state["exp_avg"] for key, state in states.items()}


def test_the_final_weights_are_those_of_one_process(folders) -> None:
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in folders)
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-4, atol=1e-5 * float(value.abs().max()))


def test_the_table_is_that_of_one_process_and_says_how_many_there_were(folders) -> None:
    one, two = (json.loads((folder / "metrics.json").read_text()) for folder in folders)
    assert (one["machine"]["processes"], two["machine"]["processes"]) == (1, 2)
    for mine, other in zip(one["table"], two["table"], strict=True):
        for key in ("model", "parameters", "updates"):
            assert mine[key] == other[key]
        for key in {"fvu", "cosine", "lattice_minus"} & mine.keys():
            assert mine[key] == pytest.approx(other[key], rel=1e-3)


@pytest.mark.slow
def test_a_run_may_go_on_with_another_number_of_processes(tiny_config, folders, tmp_path) -> None:
    resumed = subprocess.run(
        [sys.executable, "-m", "latticegnn", "fit", "--resume", folders[1], "--trainer.devices", "1"],
        capture_output=True,
        text=True,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert "processes was 2, is 1: the weights will be the same to rounding only" in resumed.stderr


@pytest.mark.slow
def test_sigterm_to_the_first_process_saves_and_stops_both(tiny_config, tmp_path) -> None:
    words = ["--trainer.devices", "2", "--trainer.max_epochs", "100000", "--early_stopping.patience", "100000"]
    process = subprocess.Popen(command(tiny_config, tmp_path, "a", *words), stderr=subprocess.PIPE, text=True)
    _wait_for(tmp_path / "a" / "checkpoints" / "progress-14.ckpt", process)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, told
    assert "go on with: latticegnn fit --resume" in told


@pytest.mark.slow
def test_a_worker_that_dies_ends_the_run_and_spares_the_checkpoint(tiny_config, tmp_path) -> None:
    words = ["--trainer.devices", "2", "--trainer.max_epochs", "100000", "--early_stopping.patience", "100000"]
    process = subprocess.Popen(command(tiny_config, tmp_path, "a", *words), stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "a" / "checkpoints"
    _wait_for(folder / "progress-14.ckpt", process)
    (worker,) = _children(process.pid)
    os.kill(worker, signal.SIGKILL)
    _, told = process.communicate(timeout=120)
    if process.returncode == -signal.SIGKILL:  # the engine's watch was quicker than the network's error
        assert "terminated with code -9" in told
    else:
        assert process.returncode == 2, told
        assert "all 2 processes of a run must live to its end" in told
        assert f"go on with --resume {tmp_path / 'a'}" in told
    assert read(saved(folder)[0])["global_step"] >= 14


def _wait_for(file: Path, process: subprocess.Popen) -> None:
    """Wait until a run has come as far as a checkpoint, which later ones may have replaced."""
    wanted = int(file.stem.rpartition("-")[2])
    for _ in range(600):
        found = [int(other.stem.rpartition("-")[2]) for other in file.parent.glob("progress-*.ckpt")]
        if found and max(found) >= wanted:
            return
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("the run does not get on")


def _children(parent: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(parent).children()]
