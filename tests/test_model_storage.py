"""save_pretrained and from_pretrained: bit for bit, nothing pickled, and clear words for every damaged file."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open

from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.lattice.placement import Random
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((4, 3, 5), radii=(0.5, 1.0, 1.5), boundary=("open", "periodic", "open"), order="morton")
MLP = {"class_path": "torch_geometric.nn.MLP", "init_args": {"channel_list": [3, 4, 3], "norm": None}}
MODELS = {
    "default": {},
    "every setting": {
        "skip": True, "readout": "ports_full", "interior": "noise", "initialisation": "random", "gain": 0.5,
        "backend": "edge", "seed": 5, "hidden": 3,
        "inputs": Ports("x-", "corners"), "outputs": Ports("x+", Random(count=4), seed=3),
    },
    "experts": {
        "interior": "learned",
        "experts": {
            "local": {"class_path": "torch_geometric.nn.GINConv", "init_args": {"nn": MLP}},
            "functional": "attention",
            "distant": {"class_path": "latticegnn.nn.MLPExpert", "init_args": {"hidden": 5}},
        },
    },
    "out of reach": {"steps": 1, "require_light_cone": False, "interior": "code"},
}  # fmt: skip


def make(**settings) -> LatticeModel:
    model = LatticeModel(SPEC, **{"embedding_dim": 6, "channels": 3, "hidden": 4, "steps": 5} | settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture
def saved(tmp_path):
    make().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_comes_back_bit_for_bit(name, tmp_path) -> None:
    model, e = make(**MODELS[name]), torch.randn(3, 6)
    model.save_pretrained(tmp_path / "new" / "folder")
    again = LatticeModel.from_pretrained(str(tmp_path / "new" / "folder"))
    assert again.settings == model.settings
    assert list(again.state_dict()) == list(model.state_dict())
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())
    first, second = model.rollout(e, trajectory=True), again.rollout(e, trajectory=True)
    assert torch.equal(first.embedding, second.embedding)
    assert torch.equal(first.trajectory, second.trajectory)


def test_nothing_is_pickled_and_nothing_else_is_left(saved) -> None:
    assert sorted(file.name for file in saved.iterdir()) == ["config.json", "model.safetensors"]
    with safe_open(saved / "model.safetensors", "pt") as file:
        assert set(file.keys()) == set(make().state_dict())
    assert json.loads((saved / "config.json").read_text())["format"] == 1


def test_saving_again_replaces(saved) -> None:
    other = make(seed=3)
    other.save_pretrained(saved)
    e = torch.randn(2, 6)
    assert torch.equal(LatticeModel.from_pretrained(saved)(e).embedding, other(e).embedding)
    assert len(list(saved.iterdir())) == 2


def test_a_failed_save_leaves_the_old_model(saved, monkeypatch) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    def fail(tensors, file) -> None:
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("latticegnn.pretrained.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        make(seed=3).save_pretrained(saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name, refuses) -> None:
    (saved / name).unlink()
    with refuses(
        "a folder with config.json and model.safetensors", f"has no {name}", "pass the folder", FileNotFoundError
    ):
        LatticeModel.from_pretrained(saved)


@pytest.mark.parametrize("keep", [0, 6, 100, -1])
def test_damaged_weights_are_refused(saved, keep, refuses) -> None:
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with refuses("must be a safetensors file", "model.safetensors", "copy or save it again"):
        LatticeModel.from_pretrained(saved)


def test_a_pickle_in_their_place_is_not_loaded(saved, refuses) -> None:
    torch.save(make().state_dict(), saved / "model.safetensors")
    with refuses("must be a safetensors file", "it cannot be read", "copy or save it again"):
        LatticeModel.from_pretrained(saved)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '{"format": 1}', '{"model": {}}', '{"format": 1, "model": [1, 2]}', "\udcff"],
    ids=ascii,
)
def test_a_damaged_configuration_is_refused(saved, text, refuses) -> None:
    (saved / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with refuses("must be a model's configuration", "it cannot be read", "save the model again"):
        LatticeModel.from_pretrained(saved)


def edit(saved, **changes) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"] |= changes.pop("model", {})
    (saved / "config.json").write_text(json.dumps(config | changes))


@pytest.mark.parametrize("version", [2, 0, "1", None])
def test_another_format_is_refused(saved, version, refuses) -> None:
    edit(saved, format=version)
    with refuses("format must be 1", f"has {version!r}", "load it with the version that wrote it"):
        LatticeModel.from_pretrained(saved)


def test_unknown_keys_are_refused(saved, refuses) -> None:
    edit(saved, model={"chanels": 3})
    with refuses("the arguments of LatticeModel", "'chanels'", "did you mean 'channels'?"):
        LatticeModel.from_pretrained(saved)
    edit(saved, model={"qqqq": 3})
    (saved / "config.json").write_text((saved / "config.json").read_text().replace('"chanels": 3, ', ""))
    with refuses("the arguments of LatticeModel", "'qqqq'", "known are spec"):
        LatticeModel.from_pretrained(saved)


def test_unknown_keys_further_down_are_refused(saved, refuses) -> None:
    edit(saved, model={"spec": {"shap": [4, 4, 4]}})
    with refuses("A lattice spec has the keys", "'shap'", "Did you mean 'shape'?"):
        LatticeModel.from_pretrained(saved)
    edit(saved, model={"spec": SPEC.to_dict(), "inputs": {"fase": "z-"}})
    with refuses("Ports have the keys", "'fase'", "Did you mean 'face'?"):
        LatticeModel.from_pretrained(saved)


def test_weights_of_another_model_are_refused(saved, tmp_path, refuses) -> None:
    make(channels=4).save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    with refuses("weights and configuration", "size mismatch", "save the model again"):
        LatticeModel.from_pretrained(saved)
    make(interior="learned").save_pretrained(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "model.safetensors", saved)
    with refuses("must belong together", "Unexpected key(s)", "save the model again"):
        LatticeModel.from_pretrained(saved)


def test_a_saved_model_runs_no_code_from_outside_unless_trusted(tmp_path, refuses) -> None:
    layer = tmp_path / "layer.py"
    layer.write_text(
        "from pathlib import Path\nfrom torch import nn\n"
        f"Path({str(tmp_path / 'ran')!r}).touch()\n"
        "class Mine(nn.Module):\n"
        "    def __init__(self, in_channels, out_channels):\n"
        "        super().__init__()\n"
        "        self.own = nn.Linear(in_channels, out_channels)\n"
        "    def forward(self, x, edge_index):\n"
        "        return self.own(x)\n"
    )
    LatticeModel(steps=7, embedding_dim=8).save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["model"]["experts"] = {"distant": {"class_path": f"{layer}:Mine"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with refuses("must come from latticegnn, torch or PyG", "layer.py:Mine", "trust_code=True"):
        LatticeModel.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "ran").exists()
    model = LatticeModel(steps=7, embedding_dim=8, experts=config["model"]["experts"])
    model.save_pretrained(tmp_path / "model")
    loaded = LatticeModel.from_pretrained(tmp_path / "model", trust_code=True)
    assert not loaded.training
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
