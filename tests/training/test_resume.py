"""A run that is killed, stopped, starved of disk or damaged goes on to bitwise the weights it would have had."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from lightning import pytorch as pl
from safetensors.torch import load_file

from latticegnn.cli import main
from latticegnn.report.run import read_history
from latticegnn.training import callbacks
from latticegnn.training.callbacks import Stopped
from latticegnn.training.checkpoints import saved
from latticegnn.training.fit import Run


def outcome(folder: Path) -> tuple:
    """All that must be the same, whatever happened on the way: weights, table without the clock, history."""
    content = json.loads((folder / "metrics.json").read_text())
    rows = [{k: v for k, v in row.items() if k not in ("seconds", "ms_per_update")} for row in content["table"]]
    weights = {
        name: value.numpy().tobytes() for name, value in load_file(folder / "model" / "model.safetensors").items()
    }
    return weights, rows, content["validation"], read_history(folder)


def forget(folder: Path) -> None:
    """Take away what the end of a run writes."""
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "model")


@pytest.fixture(scope="module")
def words(tiny_config) -> list[str]:
    return ["--config", str(tiny_config), "--baselines", "[]", "--save_every", "0", "--trainer.max_epochs", "3"]


@pytest.fixture(scope="module")
def whole(words, tmp_path_factory) -> Path:
    """The uninterrupted run."""
    run = Run([*words, "--run_dir", str(tmp_path_factory.mktemp("whole"))])
    run.execute()
    return run.folder


CASES = {
    "noise": "--model.interior noise --unroll.mode random --unroll.low 5 --unroll.high 8",
    "plateau": "--optim.schedule plateau --optim.patience 0",
    "accumulated": "--trainer.accumulate_grad_batches 3 --optim.schedule cosine",
    "curriculum": "--unroll.mode curriculum --unroll.low 5 --unroll.high 8 --loss.weighting uncertainty",
    "seldom validated": "--trainer.check_val_every_n_epoch 2 --trainer.max_epochs 4",
    "one batch an epoch": "--data.batch_size 100",
    "truncated": "--model.gradient {'truncated':{'steps':2}} --model.clamp true --trainer.max_epochs 1",
    "implicit": "--model.gradient {'implicit':{'tolerance':0.1}} --model.clamp true --trainer.max_epochs 1",
    "bf16": "--trainer.precision bf16-mixed",
}


QUICK = ("one batch an epoch",)


@pytest.mark.parametrize("case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in CASES])
def test_every_checkpoint_leads_to_the_same_end(case, words, tmp_path, monkeypatch) -> None:
    """Generators, schedule, accumulation and position in the epoch, at each place where a checkpoint is written."""
    monkeypatch.setattr(callbacks, "KEPT", 1000)
    run = Run([*words, *CASES[case].split(), "--run_dir", str(tmp_path / "runs")])
    run.execute()
    expected = outcome(run.folder)
    files = saved(run.folder / "checkpoints")
    assert len(files) == run.trainer.global_step
    for file in files:
        copy = tmp_path / file.stem  # also: a folder that was moved
        shutil.copytree(run.folder, copy)
        forget(copy)
        resumed = Run(["--resume", str(copy / "checkpoints" / file.name)])
        assert resumed.folder == copy
        resumed.execute()
        assert outcome(copy) == expected, f"from {file.name}"


def test_an_update_that_was_saved_is_in_the_log(words, whole, tmp_path, monkeypatch) -> None:
    class Killed(BaseException):
        """At once after a checkpoint, before the engine logs the update."""

    save = pl.Trainer.save_checkpoint

    def save_and_die(trainer: pl.Trainer, *rest, **named) -> None:
        save(trainer, *rest, **named)
        if trainer.global_step == 8:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(pl.Trainer, "save_checkpoint", save_and_die)
        with pytest.raises(Killed):
            Run([*words, "--run_dir", str(tmp_path), "--run_name", "a"]).execute()
    assert 7 in dict(read_history(tmp_path / "a")["gradient/cell"])
    Run(["--resume", str(tmp_path / "a")]).execute()
    assert outcome(tmp_path / "a") == outcome(whole)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(words, whole, tmp_path) -> None:
    """SIGKILL, wherever it falls: while importing, training, validating, or writing a checkpoint."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["latticegnn.training.fit", "latticegnn.report.run"])

    def launch(name: str, *arguments: str) -> multiprocessing.process.BaseProcess:
        given = arguments or (*words, "--run_dir", str(tmp_path), "--run_name", name)
        process = processes.Process(target=main, args=(["fit", *given],))
        process.start()
        return process

    launch("warm").join()
    began = time.monotonic()
    launch("timed").join()
    duration = time.monotonic() - began
    expected, draw, kills, with_progress = outcome(whole), random.Random(0), 0, 0
    assert outcome(tmp_path / "timed") == expected
    while kills < 20:
        name = f"killed-{kills}"
        process = launch(name)
        process.join(draw.uniform(0.05, 1) * duration)
        if process.exitcode is not None:  # it was faster than the one that was timed
            assert outcome(tmp_path / name) == expected
            shutil.rmtree(tmp_path / name)
            continue
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        if saved(tmp_path / name / "checkpoints"):
            with_progress += 1
            launch(name, "--resume", str(tmp_path / name)).join()
        else:
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            launch(name).join()
        assert outcome(tmp_path / name) == expected
    assert with_progress >= 5, "most kills must fall into training"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_says_how_to_go_on(number, words, whole, tmp_path, capsys, monkeypatch) -> None:
    start, before = callbacks.SeedEachBatch.on_train_batch_start, signal.getsignal(number)

    def interrupt(self, trainer, *rest) -> None:
        if trainer.global_step == 9:
            signal.raise_signal(number)
        start(self, trainer, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.SeedEachBatch, "on_train_batch_start", interrupt)
        code = main(["fit", *words, "--save_every", "1000", "--run_dir", str(tmp_path), "--run_name", "a"])
    assert code == 128 + number
    assert signal.getsignal(number) is before
    told = capsys.readouterr().err
    assert f"stopped by {number.name}; saved {tmp_path / 'a' / 'checkpoints' / 'progress-10.ckpt'}" in told
    assert f"go on with: latticegnn fit --resume {tmp_path / 'a'}" in told
    assert main(["fit", "--resume", str(tmp_path / "a")]) == 0
    assert outcome(tmp_path / "a") == outcome(whole)


def test_a_second_ctrl_c_does_not_wait(words, tmp_path, monkeypatch) -> None:
    start, before = callbacks.SeedEachBatch.on_train_batch_start, signal.getsignal(signal.SIGINT)

    def interrupt(self, trainer, *rest) -> None:
        start(self, trainer, *rest)
        if trainer.global_step == 9:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(callbacks.SeedEachBatch, "on_train_batch_start", interrupt)
    run = Run([*words, "--run_dir", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        run.execute()
    assert signal.getsignal(signal.SIGINT) is before
    assert saved(run.folder / "checkpoints")[0].name == "progress-9.ckpt"


def test_a_signal_after_the_last_update_saves_the_end(words, whole, tmp_path, monkeypatch) -> None:
    watch = callbacks.GateLog.on_validation_batch_end

    def interrupt(self, trainer, *rest, **more) -> None:
        if trainer.global_step == 21:
            signal.raise_signal(signal.SIGTERM)
        watch(self, trainer, *rest, **more)

    run = Run([*words, "--run_dir", str(tmp_path)])
    with monkeypatch.context() as patch:
        patch.setattr(callbacks.GateLog, "on_validation_batch_end", interrupt)
        with pytest.raises(Stopped, match="SIGTERM"):
            run.execute()
    resumed = Run(["--resume", str(run.folder)])
    resumed.execute()
    assert resumed.trainer.global_step == len(resumed.module.milliseconds) == 21
    assert outcome(run.folder)[:3] == outcome(whole)[:3]


@pytest.mark.slow
def test_a_full_disk_spares_the_last_good_checkpoint(words, whole, tmp_path) -> None:
    """On a file system of its own that has room for a few checkpoints and then for none."""
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f"{sys.executable} -m latticegnn fit"
    settings = " ".join([*words, f"--run_dir {disk} --run_name a --trainer.logger false"])
    script = f"""
        mount -t tmpfs -o size=600k tmpfs {disk} || exit 77
        head -c 480k /dev/zero >{disk}/filler
        {program} {settings}; echo status $?
        rm {disk}/filler; mount -o remount,size=64m {disk}  # room for figures and report, too
        {program} --resume {disk}/a; echo status $?
        cp -r {disk}/a {tmp_path}/a
    """
    unshared = ["unshare", "-rm"] if os.geteuid() else ["unshare", "-m"]
    done = subprocess.run([*unshared, "sh", "-c", script], capture_output=True, text=True, timeout=300)
    if done.returncode == 77:
        pytest.skip("mounting a file system is not allowed here")
    first, second = [line for line in done.stdout.splitlines() if line.startswith("status")]
    assert (first, second) == ("status 2", "status 0"), done.stderr
    assert "a checkpoint must be written whole" in done.stderr
    assert "No space left on device" in done.stderr
    assert f"the last good checkpoint is {disk}/a/checkpoints/progress-" in done.stderr
    assert f"go on with --resume {disk}/a" in done.stderr
    assert outcome(tmp_path / "a")[:3] == outcome(whole)[:3]


@pytest.fixture
def copied(whole, tmp_path) -> Path:
    """A copy of the finished run, with its last two checkpoints."""
    shutil.copytree(whole, tmp_path / "copied")
    return tmp_path / "copied"


@pytest.mark.parametrize("part", range(50))
def test_a_truncated_checkpoint_is_named_and_the_one_before_offered(part, copied, refuses) -> None:
    last, previous = saved(copied / "checkpoints")
    content = last.read_bytes()
    last.write_bytes(content[: len(content) * part // 50])
    with refuses("a checkpoint must be a whole file", f"{last} cannot be read", f"pass --resume {previous}"):
        Run(["--resume", str(copied)])


def test_a_flipped_bit_in_the_weights_is_noticed(copied, refuses) -> None:
    last, _ = saved(copied / "checkpoints")
    content = bytearray(last.read_bytes())
    weights = torch.load(last, weights_only=True)["state_dict"]["model.cell.bypass.weight"]
    content[content.index(weights.numpy().tobytes()) + 5] ^= 16
    last.write_bytes(content)
    with refuses("a checkpoint must be a whole file", "does not fit", "pass --resume"):
        Run(["--resume", str(copied)])


def test_the_one_before_is_taken_when_it_is_asked_for(copied, whole) -> None:
    last, previous = saved(copied / "checkpoints")
    last.write_bytes(b"")
    forget(copied)
    Run(["--resume", str(previous)]).execute()
    assert outcome(copied) == outcome(whole)


def test_code_in_a_checkpoint_is_not_run(copied, refuses) -> None:
    class Payload:
        def __reduce__(self):
            return Path.touch, (copied / "touched",)

    last, _ = saved(copied / "checkpoints")
    torch.save({"state_dict": Payload(), "epoch": 0}, last)
    with refuses("a checkpoint must be a whole file", str(last), "pass --resume"):
        Run(["--resume", str(copied)])
    assert not (copied / "touched").exists()


@pytest.mark.parametrize("change", ["a list", "another program's", "another format"])
def test_a_file_that_no_run_wrote_is_refused(change, copied, refuses) -> None:
    last, _ = saved(copied / "checkpoints")
    content = torch.load(last, weights_only=True)
    content["latticegnn"]["format"] = 99
    torch.save({"a list": [1, 2], "another program's": {"weights": torch.zeros(2)}}.get(change, content), last)
    rule = "a checkpoint's format must be 1" if change == "another format" else "a checkpoint must be a whole file"
    with refuses(rule, str(last), "go on with" if change == "another format" else "pass --resume"):
        Run(["--resume", str(copied)])


@pytest.mark.parametrize(
    ("key", "value"),
    [("model.hidden", "6"), ("trainer.max_epochs", "9"), ("optim.lr_cell", "0.5"), ("data.batch_size", "8")],
)
def test_other_settings_are_refused(key, value, copied, refuses) -> None:
    with refuses("goes on with the settings it began with", f"{key} was", "restore them, or start a new run"):
        Run(["--config", str(copied / "config.yaml"), f"--{key}", value, "--resume", str(copied)])


def test_other_data_are_refused(copied, refuses, tmp_path, tiny_config) -> None:
    content = yaml.safe_load((copied / "config.yaml").read_text())
    file = Path(content["data"]["path"])
    kept = file.read_bytes()
    try:
        file.write_bytes(kept[:-4] + b"\0\0\0\1")
        with refuses("goes on with the data it began with", "source_sha256 was", "restore them, or start a new run"):
            Run(["--resume", str(copied)]).execute()
    finally:
        file.write_bytes(kept)


def test_what_a_run_may_change_when_it_goes_on(copied) -> None:
    Run(["--resume", str(copied), "--log_level", "error", "--save_every", "5", "--trainer.log_every_n_steps", "2"])


def test_places_that_are_no_run_are_named(copied, tmp_path, words, refuses) -> None:
    with refuses("resume must be a run's folder", f"{tmp_path} is neither", "runs/latest", FileNotFoundError):
        Run(["--resume", str(tmp_path)])
    for file in saved(copied / "checkpoints"):
        file.unlink()
    with refuses("resume must be", "nothing was trained there yet", "start it anew", FileNotFoundError):
        Run(["--resume", str(copied)])
    with refuses("run_name must be new", f"{copied} exists", f"--resume {copied}"):
        Run([*words, "--run_dir", str(copied.parent), "--run_name", copied.name])
    with refuses("keeps its folder", "run_name 'b'", "leave out one of them"):
        shutil.copytree(copied, tmp_path / "b")
        torch.save({}, tmp_path / "b" / "checkpoints" / "progress-1.ckpt")
        Run(["--resume", str(tmp_path / "b"), "--run_name", "b"])
