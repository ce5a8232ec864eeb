"""A run whose model has no fixed size: trained, held against baselines, resized, measured, drawn."""

import json

import numpy as np
import pytest
import torch
import yaml

from latticegnn.benchmarks.results import Result
from latticegnn.benchmarks.size import measure_run, size_table, tune
from latticegnn.model import LatticeModel
from latticegnn.report.run import draw_run
from latticegnn.training.fit import Run
from latticegnn.training.losses import LossWeights

BASELINES = ["pca", "projection_only", "frozen_cell", "mlp_equal_parameters", "mlp_equal_compute"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("size")
    draw = np.random.default_rng(0).normal
    np.save(folder / "vectors.npy", (draw(size=(200, 4)) @ draw(size=(4, 12))).astype(np.float32))
    content = {
        "data": {"task": "vectors", "path": str(folder / "vectors.npy"), "limit": None, "batch_size": 16},
        "model": {
            "spec": {"shape": [4, 4, 4], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 12, "channels": 3, "hidden": 4,
            "steps": 4, "port_map": "bilinear", "code_shape": [2, 3],
        },
        "trainer": {"max_epochs": 12, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "optim": {"lr_maps": 0.003, "lr_decoder": 0.003},
        "baselines": BASELINES, "log_level": "warning",
    }  # fmt: skip
    (folder / "size.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    made = Run(["--config", str(folder / "size.yaml"), "--run_dir", str(folder)])
    made.execute()
    return made


@pytest.mark.slow
def test_baselines_get_the_image_as_the_lattice_does(run) -> None:
    table = {row["model"]: row for row in json.loads((run.folder / "metrics.json").read_text())["table"]}
    assert set(table) == {"lattice", "pca_6", *BASELINES[1:]}
    assert table["projection_only"]["fvu"] < 0.01, "a code of 6 numbers holds 4 directions, on any face"


@pytest.mark.slow
def test_a_run_is_measured_and_its_report_draws_the_curve(run) -> None:
    rows = measure_run(run.folder, [6], rows=12, updates=2, few=1)
    content = json.loads((run.folder / "sizes.json").read_text())
    assert content == {"trained": [4, 4, 4], "rows": 12, "sizes": rows}
    assert [(row["keep"], row["updates"]) for row in rows] == [("cells", 2), ("ratios", 2)]
    for row in rows:
        assert 0 < row["forward_ms"] < row["backward_ms"]
        assert row["peak_bytes"] is None or row["peak_bytes"] > 1e8
        assert row["tuned_explained"] != row["explained"]
        assert row["parameters"] == run.model.parameter_counts()["total"]
    page = Result("size", [size_table("tiny", content["trained"], rows)], []).markdown()
    assert "| 6³ | cells | 1.5 |" in page
    draw_run(run.folder)
    assert (run.folder / "figures" / "retention.png").is_file()


@pytest.mark.slow
def test_tuning_is_the_same_for_equal_models(run) -> None:
    folder = run.folder / "model"
    first, again = (LatticeModel.from_pretrained(folder).resized((5, 5, 5)) for _ in range(2))
    inputs, targets = run.data.splits["train"].tensors()
    for model in (first, again):
        torch.rand(3)
        tune(model, inputs, targets, LossWeights(), updates=2, batch=4)
        assert not model.training
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(first.decoder.weight, LatticeModel.from_pretrained(folder).decoder.weight)
