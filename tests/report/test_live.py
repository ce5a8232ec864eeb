"""What TensorBoard is shown of a run while it trains, read from the event file."""

import io

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from latticegnn.report.live import SHARE, LivePictures
from latticegnn.training.fit import Run


def shown(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder / "logs"), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    return events


def test_fit_shows_gate_signal_and_cube_beside_the_scalars(tiny_run) -> None:
    events = shown(tiny_run)
    tags = events.Tags()
    assert "validation/loss" in tags["scalars"]
    assert tags["images"] == ["gate by step", "signal by layer"]
    for tag in tags["images"]:
        picture = imread(io.BytesIO(events.Images(tag)[0].encoded_image_string))
        assert picture[..., :3].std() > 0.05, f"{tag} is empty"
    for step in (2, 5):
        vertices, colours = (
            tensor_util.make_ndarray(events.Tensors(f"cube/after step {step}_{part}")[0].tensor_proto)
            for part in ("VERTEX", "COLOR")
        )
        assert vertices.shape == colours.shape == (1, 45, 3)
        assert {tuple(at) for at in vertices[0].astype(int)} == set(np.ndindex(3, 3, 5))
    # After half of the steps the signal, one layer a step, is in three of the five layers.
    colours = tensor_util.make_ndarray(events.Tensors("cube/after step 2_COLOR")[0].tensor_proto)[0]
    dark = (colours == colours[vertices[0, :, 2] == 4][0]).all(axis=1)
    assert dark[vertices[0, :, 2] > 2].all()
    assert not dark[vertices[0, :, 2] == 2].any()


def test_pictures_keep_to_their_share_of_the_time_and_change_no_weight(tiny_config, tmp_path) -> None:
    weights = []
    for name in ("without", "with"):
        run = Run(
            ["--config", str(tiny_config), "--run_dir", str(tmp_path), "--run_name", name, "--trainer.max_epochs=4"]
        )
        pictures = LivePictures()
        if name == "with":
            run.trainer.callbacks.append(pictures)
        run.execute()
        weights.append(run.model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    drawn = len(shown(tmp_path / "with").Images("gate by step"))
    allowed = 1 + SHARE * run.module.seconds() / (pictures.spent / drawn)
    assert 1 <= drawn <= allowed < 4
    assert not shown(tmp_path / "without").Tags()["images"]


@pytest.mark.parametrize("value", [torch.inf, 0.0], ids=["not finite", "no signal"])
def test_what_cannot_be_drawn_does_not_stop_a_run(tiny_config, tmp_path, value) -> None:
    run = Run(["--config", str(tiny_config), "--run_dir", str(tmp_path), "--run_name", "run"])
    pictures = LivePictures()
    with torch.no_grad():
        run.model.mapper.lift.fill_(value)
    pictures.on_fit_start(run.trainer, run.module)
    pictures.on_validation_batch_end(run.trainer, run.module, None, {"input": torch.randn(4, 12)}, 0)
    assert pictures.spent > 0
    assert not shown(run.folder).Tags()["images"]
