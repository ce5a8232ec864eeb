"""Steps used against quality: what is measured is what rollouts give, and a run's table is printed by a script."""

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from latticegnn.analysis import cosine, fvu, reciprocal_rank, steps_against_quality
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.report.tables import format_stopping

ROOT = Path(__file__).resolve().parents[2]
SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
RULE = {"relative": {"tolerance": 0.06}, "max_steps": 15}


@pytest.fixture
def model() -> LatticeModel:
    return LatticeModel(SPEC, embedding_dim=12, channels=4, hidden=4, steps=5, clamp=True)


def rows(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-1, 1, count).unsqueeze(1)
    return scale * torch.randn(count, 12, generator=generator), torch.randn(count, 12, generator=generator)


def test_figures_are_those_of_the_rollouts(model) -> None:
    inputs, targets = rows()
    mean = torch.zeros(12)
    fixed, ruled = steps_against_quality(model, inputs, targets, mean, True, {"6": 6, "rule": RULE}, batch_size=7)
    with torch.no_grad():
        out = model.rollout(inputs, steps=6).embedding
        halted = model.rollout(inputs, stopping=RULE)
    assert (fixed["rule"], fixed["steps"], fixed["steps_10"], fixed["steps_90"]) == ("6", 6.0, 6, 6)
    assert math.isnan(fixed["settled"])
    for found, prediction in ((fixed, out), (ruled, halted.embedding)):
        assert found["fvu"] == pytest.approx(fvu(prediction, targets, mean), rel=1e-5)
        assert found["cosine"] == pytest.approx(cosine(prediction, targets), rel=1e-5)
        assert found["mrr@10"] == pytest.approx(float(reciprocal_rank(prediction, targets).mean()), rel=1e-5)
    taken = sorted(halted.steps.tolist())
    assert ruled["steps"] == pytest.approx(sum(taken) / 20)
    assert (ruled["steps_10"], ruled["steps_50"], ruled["steps_90"]) == (taken[2], taken[10], taken[18])
    assert ruled["settled"] == pytest.approx(float(halted.settled.double().mean()))
    assert 0 < ruled["settled"] < 1, "a rule that all or none satisfy shows nothing"
    assert "mrr@10" not in steps_against_quality(model, inputs, targets, mean, False, {"6": 6})[0]


def test_a_rollout_that_diverges_is_told_as_what_it_is(model) -> None:
    with torch.no_grad():
        model.cell.step.fill_(1e6)
    inputs, targets = rows()
    (found,) = steps_against_quality(model, inputs, targets, torch.zeros(12), True, {"far": 30})
    assert all(math.isnan(found[name]) for name in ("fvu", "cosine", "mrr@10"))
    assert format_stopping([found]).splitlines()[2] == (
        "| far | 30.0 | 30 / 30 / 30 | – | not finite | not finite | not finite |"
    )


def test_the_table_is_markdown() -> None:
    row = {"rule": "relative ≤ 0.1", "steps": 9.25, "steps_10": 8, "steps_50": 9, "steps_90": 12, "settled": 0.985}
    assert format_stopping([row | {"fvu": 0.5, "cosine": 0.75, "mrr@10": 0.125}]).splitlines() == [
        "| rule | mean steps | 10 / 50 / 90 % | settled | mrr@10 | fvu | cosine |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| relative ≤ 0.1 | 9.2 | 8 / 9 / 12 | 98 % | 0.125 | 0.500 | 0.750 |",
    ]


def test_the_script_measures_a_run(tmp_path, capsys) -> None:
    import numpy as np
    import yaml

    from latticegnn.training.fit import Run

    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).normal(size=(120, 12)).astype(np.float32))
    content = {
        "data": {"task": "vectors", "path": str(tmp_path / "vectors.npy"), "limit": None, "batch_size": 16},
        "model": {
            "spec": {"shape": [3, 3, 5], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 4, "hidden": 4,
            "steps": 5, "stopping": {"halting": {"prior": 0.2}},
        },
        "loss": {"ponder": 0.01},
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "baselines": [],
        "log_level": "warning",
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    run = Run(["--config", str(tmp_path / "tiny.yaml"), "--run_dir", str(tmp_path)])
    result = run.execute()
    spec = importlib.util.spec_from_file_location("stopping_script", ROOT / "scripts" / "stopping.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    words = [str(run.folder), "--steps", "5", "--tolerances", "0.1", "--max_steps", "5"]
    assert script.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in lines] == [
        "| rule", "| ---", "| 5 steps", "| relative ≤ 0.1", "| halting head",
    ]  # fmt: skip
    own = result["table"][0]
    assert lines[4].split(" | ")[4:] == [f"{own['fvu']:.3f}", f"{own['cosine']:.3f} |"], "the run's own figures"
    assert script.main([*words, "--criterion", "relativ"]) == 2
    assert "a criterion is one of" in capsys.readouterr().err
    assert script.main([str(tmp_path / "nowhere")]) == 2
