"""Models on the hub: found by name in its cache, pushed with a card, and as strict as in a folder."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard, ModelHubMixin, hub_mixin

import latticegnn as lg

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SPEC = lg.LatticeSpec(shape=(3, 3, 3), connectivity="full")


def make(**settings: object) -> lg.LatticeModel:
    return lg.LatticeModel(SPEC, **({"embedding_dim": 6, "channels": 3, "steps": 2} | settings)).eval()


def cached(root: Path, folder: Path, name: str = "me/cube", revision: str = "main") -> None:
    """Lay a folder out as the hub's cache keeps a repository."""
    place = root / f"models--{name.replace('/', '--')}"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / revision).write_text(COMMIT)


@pytest.fixture
def pushed(monkeypatch) -> SimpleNamespace:
    """What would go over the wire: the calls of the hub's client, and copies of the files."""
    seen = SimpleNamespace(calls=[], files={})

    class Client:
        def __init__(self, token=None) -> None:
            seen.calls.append(("token", token))

        def create_repo(self, repo_id, private, exist_ok) -> SimpleNamespace:
            seen.calls.append(("create", repo_id, private, exist_ok))
            return SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, repo_id, folder_path, **options) -> str:
            seen.calls.append(("upload", repo_id, options["repo_type"], options["revision"], options["commit_message"]))
            seen.files |= {file.name: file.read_bytes() for file in Path(folder_path).iterdir()}
            return f"https://huggingface.co/{repo_id}/commit/{COMMIT}"

    monkeypatch.setattr(hub_mixin, "HfApi", Client)
    return seen


def test_a_name_is_found_in_the_cache(tmp_path, refuses) -> None:
    model, e = make(seed=4), torch.randn(3, 6)
    model.save_pretrained(tmp_path / "made")
    cached(tmp_path / "cache", tmp_path / "made", revision="v1")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    again = lg.LatticeModel.from_pretrained("me/cube", revision="v1", **where)
    assert torch.equal(again(e).embedding, model(e).embedding)
    assert not again.training
    by_commit = lg.LatticeModel.from_pretrained("me/cube", revision=COMMIT, **where)
    assert by_commit.settings == model.settings
    for missing in ({"revision": "v2"}, {}):
        with refuses("or a repository on the hub that can be had", "'me/cube'", "hf auth login", FileNotFoundError):
            lg.LatticeModel.from_pretrained("me/cube", **missing, **where)
    with refuses("or a repository on the hub", "'me/other'", "Check the name", FileNotFoundError):
        lg.LatticeModel.from_pretrained("me/other", **where)


def test_trust_is_asked_for_what_comes_from_the_hub(tmp_path, refuses) -> None:
    (tmp_path / "mine.py").write_text("from torch_geometric.nn import SAGEConv\n\n\nclass Mine(SAGEConv):\n    pass\n")
    model = make(experts={"distant": {"class_path": f"{tmp_path / 'mine.py'}:Mine"}})
    model.save_pretrained(tmp_path / "made")
    cached(tmp_path / "cache", tmp_path / "made")
    where = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    with refuses("must come from latticegnn, torch or PyG", "mine.py", "trust_code=True"):
        lg.LatticeModel.from_pretrained("me/cube", **where)
    assert lg.LatticeModel.from_pretrained("me/cube", trust_code=True, **where).settings == model.settings


def test_a_folder_comes_before_a_name_and_has_no_revision(tmp_path, monkeypatch, refuses) -> None:
    monkeypatch.chdir(tmp_path)
    make(seed=2).save_pretrained("me/cube")
    assert lg.LatticeModel.from_pretrained("me/cube").settings["seed"] == 2
    for path in ("me/cube", Path("me/none"), "./me/none"):
        with refuses("one of a repository", "revision='main'", "leave it out"):
            lg.LatticeModel.from_pretrained(path, revision="main")
    with refuses("a folder with config.json", "has no config.json", "pass the folder", FileNotFoundError):
        lg.LatticeModel.from_pretrained(Path("me/none"))


def test_a_push_is_one_commit_of_the_files_and_a_card(pushed, refuses) -> None:
    model = make(seed=3)
    assert isinstance(model, ModelHubMixin)
    address = model.push_to_hub("me/cube", private=True, token="secret", branch="v1", commit_message="First")
    assert address.startswith("https://huggingface.co/me/cube/commit/")
    assert pushed.calls == [
        ("token", "secret"), ("create", "me/cube", True, True), ("upload", "me/cube", "model", "v1", "First"),
    ]  # fmt: skip
    assert sorted(pushed.files) == ["README.md", "config.json", "model.safetensors"]
    assert json.loads(pushed.files["config.json"]) == {"format": 1, "model": model.settings}
    card = ModelCard(pushed.files["README.md"].decode())
    assert card.data.library_name == "latticegnn"
    assert card.data.metrics is None
    assert "# A lattice of 3 × 3 × 3 cells" in card.text
    assert "No table of results comes with this model" in card.text
    pushed.calls.clear()
    with refuses("its settings", "config={'steps': 3}", "leave it out"):
        model.push_to_hub("me/cube", config={"steps": 3})
    with refuses("its card is made of them", "model_card_kwargs={'license': 'mit'}", "leave it out"):
        model.push_to_hub("me/cube", model_card_kwargs={"license": "mit"})
    assert pushed.calls == []


def test_a_card_goes_where_its_weights_go_and_not_with_others(tmp_path, pushed) -> None:
    make().save_pretrained(tmp_path / "run")
    (tmp_path / "run" / "README.md").write_text("The honest table")
    (tmp_path / "run" / "teacher.json").write_text("{}")
    model = lg.LatticeModel.from_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "run")
    model.save_pretrained(tmp_path / "copy")
    assert (tmp_path / "copy" / "README.md").read_text() == "The honest table"
    model.push_to_hub("me/cube")
    assert pushed.files["README.md"] == b"The honest table"
    assert pushed.files["teacher.json"] == b"{}"

    with torch.no_grad():
        model.cell.step += 0.1
    model.save_pretrained(tmp_path / "changed")
    assert sorted(file.name for file in (tmp_path / "changed").iterdir()) == ["config.json", "model.safetensors"]
    pushed.files.clear()
    model.push_to_hub("me/cube")
    assert b"its weights have changed since" in pushed.files["README.md"].replace(b"\n", b" ")
    assert "teacher.json" not in pushed.files


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"skip": True}, "An embedding of 6 numbers is laid on the input ports (face z-)"),
        ({"skip": True}, "an answer of 6 numbers, to which the input is added"),
        ({"tokens": {"vocab_size": 20, "pad_id": 0}}, "inputs: token ids [B, L]"),
        (
            {"stopping": {"absolute": {"tolerance": 0.1}}},
            "for as many steps as each sample needs to settle, 2 in training",
        ),
    ],
)
def test_a_card_says_what_the_model_is(settings, said) -> None:
    assert said in " ".join(make(**settings).generate_model_card().text.split())
