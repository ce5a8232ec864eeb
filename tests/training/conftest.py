"""A configuration small enough to train in a second, and one run of it that many tests look at."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from latticegnn.training.fit import Run

Start = Callable[..., Run]


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a configuration: 150 vectors of 12 numbers, mostly in 6 directions, through a 3×3×5 lattice."""
    folder = tmp_path_factory.mktemp("tiny")
    draw = np.random.default_rng(0).normal
    vectors = draw(size=(150, 6)) @ draw(size=(6, 12)) + 0.3 * draw(size=(150, 12))
    np.save(folder / "vectors.npy", vectors.astype(np.float32))
    content = {
        "data": {"task": "vectors", "path": str(folder / "vectors.npy"), "limit": None, "batch_size": 16},
        "model": {
            "spec": {"shape": [3, 3, 5], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 4, "hidden": 4,
            "steps": 5,
        },
        "trainer": {
            "max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "log_every_n_steps": 4,
        },
        "log_level": "warning",
    }  # fmt: skip
    file = folder / "tiny.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def start(tiny_config: Path) -> Start:
    """Build the tiny run, below a folder, with further arguments; without baselines unless they are named."""

    def build(runs: Path, *words: str, baselines: str = "[]", config: Path = tiny_config) -> Run:
        return Run(["--config", str(config), "--run_dir", str(runs), "--baselines", baselines, *words])

    return build


@pytest.fixture(scope="session")
def finished(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One executed run with all baselines there are."""
    everything = (
        "[mean, raw_teacher, pca, ridge, projection_only, frozen_cell, mlp_equal_parameters, mlp_equal_compute]"
    )
    run = start(tmp_path_factory.mktemp("runs"), baselines=everything)
    run.execute()
    return run
