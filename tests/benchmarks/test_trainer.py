"""The trainer's benchmark runs the real trainer and judges both figures."""

from pathlib import Path

import pytest
import torch

from latticegnn.benchmarks import trainer

ROOT = Path(__file__).parents[2]


def test_it_times_the_real_trainer_and_leaves_nothing_behind(tmp_path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--model.spec.shape", "[3, 3, 5]", "--model.spec.radii", "[0.5, 1.0, 1.5]", "--model.steps", "5"]
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    found = trainer.pace(ROOT / "configs" / "default.yaml", 1, windows=2, extra=[*small, "--model.channels", "4"])
    assert (len(found.wall), len(found.trainer), len(found.plain)) == (2, 2, 2)
    assert min(found.wall + found.trainer + found.plain) > 0
    assert (torch.get_num_threads(), list(tmp_path.iterdir())) == (threads, [])
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert capfd.readouterr() == ("", "")


def test_claims_of_the_trainer() -> None:
    slow = trainer.Pace(wall=[0.1, 0.2, 0.3], trainer=[1.1, 1.2, 1.3], plain=[1.0, 1.0, 1.0])
    quick = trainer.Pace(wall=[0.05, 0.05], trainer=[1.05, 1.05], plain=[1.0, 1.0])
    overhead, rate = trainer.judge({(trainer.FAST, 1): slow, (trainer.FAST, 2): quick, (trainer.DEFAULT, 1): slow})
    assert (rate.measured, rate.holds, "2 threads" in rate.text) == (20, True, True)
    assert (overhead.measured, overhead.holds) == (pytest.approx(20), False)
    assert trainer.judge({(trainer.FAST, 1): slow}) == [overhead]
    rows = trainer.table({(trainer.FAST, 1): slow}).rows
    assert rows[0]["batches/s"] == pytest.approx(5)
    assert rows[0]["ms of CPU, trainer"] == pytest.approx(1200)


def test_outside_of_a_checkout_there_is_nothing_to_train(monkeypatch, tmp_path, refuses) -> None:
    monkeypatch.setattr(trainer, "_ROOT", tmp_path)
    with refuses("configurations of a checkout", "is not a file", "leave out", FileNotFoundError):
        trainer.find(trainer.FAST)
