"""Readiness: gradients reach what is to be trained, and what stands in the way is named."""

import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.nn import execution
from latticegnn.training import doctor
from latticegnn.training.doctor import Finding, examine, gradients
from latticegnn.training.estimate import Held, step_memory

PARTS = [
    "gradient at expert local", "gradient at expert functional", "gradient at expert distant", "gradient at gate",
    "gradient at bypass", "gradient at maps", "gradient at input through the volume",
]  # fmt: skip


def found(arguments: list[str]) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(arguments)}


def make(**settings) -> LatticeModel:
    spec = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
    return LatticeModel(spec, **{"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 5} | settings)


def test_everything_is_in_order(tiny_config) -> None:
    report = found(["--config", str(tiny_config)])
    assert all(finding.ok for finding in report.values())
    assert [name for name in report if name.startswith("gradient")] == PARTS
    assert report["configuration"].text == "cell 406, maps 293, total 699"
    assert report["tier distant"].text == "3–12 neighbours, 272 edges"
    assert report["light cone"].text == "9 of 9 output ports reached within 5 steps, the last after 4"
    assert report["data"].text.endswith("vectors.npy: train 114, validation 18, test 18 rows")
    assert report["execution"].text == "fused, eager; aggregation backend sparse"
    assert "1 epochs of 7 batches, 7 updates: projected " in report["training step"].text
    versions = report["libraries"].text.split(", ")
    assert versions == [f"{name} {version(name)}" for name in ("torch-geometric", "lightning", "transformers")]


def test_too_few_steps_end_the_examination(tiny_config) -> None:
    report = found(["--config", str(tiny_config), "--model.steps", "3"])
    assert list(report)[-1] == "configuration"
    assert not report["configuration"].ok
    assert "steps=3" in report["configuration"].text
    assert "4 steps are needed" in report["configuration"].text


def test_a_blind_lattice_is_seen_through(tiny_config) -> None:
    words = ["--config", str(tiny_config), "--model.steps", "3", "--model.require_light_cone", "false"]
    report = found(words)
    assert (report["light cone"].ok, report["light cone"].text) == (
        False,
        "0 of 9 output ports reached within 3 steps; it takes 4 steps",
    )
    bad = report["gradient at input through the volume"]
    assert (bad.ok, bad.text.partition(";")[0]) == (False, "0")
    assert "check experts, steps, ports and gradient" in bad.text


def test_ports_without_any_way_need_a_larger_radius(tiny_config) -> None:
    words = ["--model.spec.radii", "[0.1, 0.2, 0.3]", "--model.require_light_cone", "false"]
    cone = found(["--config", str(tiny_config), *words])["light cone"]
    assert not cone.ok
    assert cone.text.endswith("it takes a larger radius or connectivity: full")


def test_the_direct_path_does_not_hide_a_blind_volume() -> None:
    model = make(skip=True, steps=3, require_light_cone=False)
    assert not {f.name: f.ok for f in gradients(model)}["gradient at input through the volume"]


@pytest.mark.parametrize("skip", [False, True])
def test_gradients_are_those_of_the_squared_answer(skip) -> None:
    model = make(skip=skip)
    report = {finding.name: finding.text for finding in gradients(model, batch=4)}
    assert all(p.grad is None for p in model.parameters()), "nothing is left behind"
    embedding = torch.randn(4, 12, generator=torch.Generator().manual_seed(0))
    out = model(embedding).embedding
    (out - embedding if skip else out).square().sum().backward()
    for name, part in {"gate": model.cell.gate, "maps": model.transformer}.items():
        norm = torch.cat([p.grad.flatten() for p in part.parameters()]).norm().item()
        assert report[f"gradient at {name}"] == f"{norm:.3g}"


def test_data_that_cannot_be_read_is_found(tiny_config, tmp_path) -> None:
    report = found(["--config", str(tiny_config), "--data.path", str(tmp_path / "none.npy")])
    assert not report["data"].ok
    assert str(tmp_path / "none.npy") in report["data"].text
    assert all(finding.ok for name, finding in report.items() if name != "data")


def test_a_step_that_does_not_fit_is_not_tried(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "free_memory", lambda device: 10_000)
    report = found(["--config", str(tiny_config)])
    assert list(report)[-1] == "memory"
    assert not report["memory"].ok
    for part in (
        "must fit in memory; got about 9",
        "of 16 × 45 cells",
        "; 10.0 kB free; set model.gradient: checkpointed",
    ):
        assert part in report["memory"].text


def test_a_run_that_does_not_fit_on_the_disk_is_found(tiny_config, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "free_disk", lambda folder: 1000)
    words = ["--config", str(tiny_config), "--run_dir", str(tmp_path / "runs")]
    report = found(words)["disk"]
    assert not report.ok
    assert "must fit on the disk" in report.text
    assert f"1.0 kB free in {tmp_path};" in report.text
    (tmp_path / "runs").touch()
    report = found(words)["disk"]
    assert not report.ok
    assert "run_dir must be a folder that can be written" in report.text


def test_the_room_on_the_disk_is_what_a_run_takes(start, tmp_path) -> None:
    """Every checkpoint there is at the end, one that is written meanwhile, and the model."""
    wide = ("--model.hidden", "1024")  # so that weights outweigh the names beside them
    run = start(tmp_path, *wide, "--save_every", "0")
    run.execute()
    checkpoints = [file.stat().st_size for file in run.folder.glob("checkpoints/*.ckpt")]
    taken = sum(checkpoints) + max(checkpoints) + (run.folder / "model" / "model.safetensors").stat().st_size
    text = found(["--config", str(run.folder / "config.yaml")])["disk"].text
    assert float(text.partition(" MB for ")[0]) * 1e6 == pytest.approx(taken, rel=0.15)


def test_a_device_without_bfloat16_is_named_where_it_is_asked_for(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "native_bfloat16", lambda device: False)
    assert found(["--config", str(tiny_config)])["device"].ok
    report = found(["--config", str(tiny_config), "--trainer.precision", "bf16-mixed"])["device"]
    assert not report.ok
    assert "bf16-mixed needs native bfloat16" in report.text
    assert "set trainer.precision 32-true" in report.text


def test_an_execution_that_cannot_be_had_ends_the_examination(tiny_config, monkeypatch) -> None:
    monkeypatch.setattr(execution, "compiler", lambda device: None)
    report = found(["--config", str(tiny_config), "--model.execution", "compiled"])
    assert list(report)[-1] == "execution"
    assert "compiled needs a compiler for cpu" in report["execution"].text


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        (("--data.limit", "40"), "the test split must keep at least 11 rows"),
        (("--data.batch_size", "300"), "shuffled at least a batch; received 114 rows, batch_size 300"),
    ],
)
def test_data_that_is_too_little_is_found(words, rule, tiny_config) -> None:
    report = found(["--config", str(tiny_config), *words])
    assert not report["data"].ok
    assert rule in report["data"].text
    assert "projected" not in report["training step"].text


def test_updates_are_counted_by_weight(tiny_config) -> None:
    text = found(["--config", str(tiny_config), "--data.weight", "2"])["training step"].text
    assert "1 epochs of 14 batches, 14 updates" in text
    report = found(["--config", str(tiny_config), "--data.weight", "0.1"])
    assert not report["data"].ok
    assert "received 11 rows, batch_size 16" in report["data"].text


def test_words_that_a_teacher_does_not_know_are_found(tiny_config, tmp_path) -> None:
    (tmp_path / "glove.txt").write_text("red 1 2 3\nblue 2 1 3\n")
    unknown = ["green", "black", "white", "grey", "pink", "cyan", "lime", "teal", "navy", "plum"]
    (tmp_path / "texts.txt").write_text("red\nblue\nred blue\n" + "\n".join(unknown))
    words = ["--data.task", "file", "--data.path", str(tmp_path / "texts.txt"), "--model.embedding_dim", "3"]
    report = found(
        ["--config", str(tiny_config), *words, "--data.teacher", f"{{path: {tmp_path / 'glove.txt'}}}",
         "--data.cache_dir", str(tmp_path / "cache"), "--data.batch_size", "2"]
    )  # fmt: skip
    assert not report["data"].ok
    assert any(word in report["data"].text for word in unknown)


def test_experts_that_cannot_be_computed_are_named(tiny_config, tmp_path) -> None:
    (tmp_path / "broken.py").write_text(
        "import torch\n\n\nclass Broken(torch.nn.Module):\n"
        "    def __init__(self, in_channels, out_channels):\n        super().__init__()\n"
        "    def forward(self, x, edge_index):\n        raise RuntimeError('no such operator')\n"
    )
    layer = f"{{class_path: {tmp_path / 'broken.py'}:Broken}}"
    report = found(["--config", str(tiny_config), "--model.experts.distant", layer])
    bad = next(finding for finding in report.values() if not finding.ok)
    assert "no such operator" in bad.text


def test_steps_are_timed_as_they_are_trained(tiny_config) -> None:
    words = ["--unroll.mode", "random", "--unroll.low", "4", "--unroll.high", "6", "--loss", "{temporal: 1, cosine: 1}"]
    assert found(["--config", str(tiny_config), *words])["training step"].ok


MEASURED = """
import sys, threading, time
import psutil, torch
from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.estimate import step_memory

execution, gradient, trajectory = sys.argv[1], sys.argv[2], sys.argv[3] == "1"
batch, steps, process = 16, 6, psutil.Process()
model = LatticeModel(
    LatticeSpec((16, 16, 16)), embedding_dim=64, channels=16, hidden=32, steps=steps, execution=execution,
    gradient=gradient, require_light_cone=False,
)
given = torch.randn(batch, 64)
optimizer = torch.optim.AdamW(model.parameters())
held, done = [], threading.Event()


def take(batch, steps):
    out = model.rollout(given[:batch], steps, trajectory=trajectory)
    loss = out.embedding.square().sum()
    if trajectory:
        loss = loss + out.trajectory.square().mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def watch():
    while not done.wait(0.001):
        held.append(process.memory_info().rss)


take(1, 1)
before = process.memory_info().rss
watcher = threading.Thread(target=watch)
watcher.start()
take(batch, steps)
done.set()
watcher.join()
print(step_memory(model, batch, steps, 2**34, trajectory).total / (max(held) - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "fused full 0",
        "fused checkpointed 0",
        "fused full 1",
        "reference full 0",
        "reference checkpointed 0",
    ],
)
def test_the_estimate_is_what_a_training_step_takes(words) -> None:
    """With an allocator that gives every larger block back at once, as glibc's does with a fixed threshold."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, *words.split()],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 0.8 < float(done.stdout) < 1.25


def test_an_estimate_in_proportion_is_that_of_the_whole_batch() -> None:
    model = make()
    whole, part = (step_memory(model, 64, 6, free) for free in (2**34, 0))
    assert part.total == pytest.approx(whole.total, rel=0.2)
    assert step_memory(model, 64, 12, 2**34).kept > 1.9 * (whole.kept - 45 * 64 * 4 * 4)
    assert all(p.grad is None for p in model.parameters()), "nothing is left behind"


def test_what_a_step_holds_is_counted() -> None:
    """Of three squares of a vector of 100 float32, two are kept for the backward pass besides the vector."""
    x = torch.ones(100, requires_grad=True)
    with Held() as held:
        y = x.square().square().square()
        assert held.now == held.most == 3 * 400
        y.sum().backward()
        assert held.most >= 4 * 400
        del y
    assert held.now <= 2 * 400
