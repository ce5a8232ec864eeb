"""A working directory with data, good and bad, and a way to call the program in this process."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from latticegnn.cli import main

WRONG = '''
from torch import nn

class Wrong(nn.Module):
    """Gives one channel too many."""

    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.map = nn.Linear(in_channels, out_channels + 1)

    def forward(self, x, edge_index, edge_attr):
        return self.map(x)
'''


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with data, good and bad, and a small configuration, tiny.yaml."""
    vectors = np.random.default_rng(0).normal(size=(150, 12)).astype(np.float32)
    holes = vectors.copy()
    holes[[3, 5]] = np.nan
    for name, array in {
        "v": vectors,
        "narrow": vectors[:, :7],
        "holes": holes,
        "few": vectors[:40],
        "void": holes[3:4],
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
    model = {"spec": {"shape": [3, 3, 5], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 4, "steps": 5}
    config = {
        "data": {"task": "vectors", "path": "v.npy", "limit": None},
        "model": model,
        "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "baselines": [], "log_level": "error",
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "key.yaml").write_text("model: {spec: {shap: [3, 3, 3]}}")
    (tmp_path / "top.yaml").write_text("modle: {channels: 4}")
    (tmp_path / "section.yaml").write_text("damage: null")
    (tmp_path / "null.yaml").write_text("model: {clamp: null, stopping: null}")
    (tmp_path / "follows.yaml").write_text("model: {seed: 3}")
    (tmp_path / "sweep.yaml").write_text("{base: tiny.yaml, variants: {a: {}}, seeds: null}")
    (tmp_path / "broken.yaml").write_text("model: {channels: [1,")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "garbage.ckpt").write_bytes(b"garbage")
    (tmp_path / "wrong.py").write_text(WRONG)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def call(capsys) -> Callable[..., tuple[int, list[str], list[str]]]:
    """Run a command in this process; give exit status, and the lines of both outputs."""

    def run(*words: str) -> tuple[int, list[str], list[str]]:
        try:
            status = main(words)
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        return status, out.splitlines(), err.splitlines()

    return run
