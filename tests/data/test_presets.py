"""Presets, and the model hub played by a server on this machine."""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from latticegnn.data import Teacher
from latticegnn.data.presets import PRESETS
from latticegnn.data.sources import MODEL_FILES, sha256_of

TEXTS = ["the cat sits on the mat", "a dog", "the small red bird sings under the blue rug", "cat"]
COMMIT = "1" * 40


@pytest.fixture
def store(tmp_path, monkeypatch) -> Callable[..., None]:
    """Return a function that puts a directory where a download would have left it; there is no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(directory: Path, hub_id: str, commit: str, branch: str | None = None) -> None:
        folder = tmp_path / "hub" / f"models--{hub_id.replace('/', '--')}"
        shutil.copytree(directory, folder / "snapshots" / commit)
        if branch:
            (folder / "refs").mkdir()
            (folder / "refs" / branch).write_text(commit)

    return put


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[dict[str, Path | None]]:
    """A model hub on this machine: id → directory, or None for a gated repository."""
    import huggingface_hub.constants

    repositories: dict[str, Path | None] = {}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0].removeprefix("/api/models").strip("/")
            owner, name, _, _, *rest = f"{path}/".split("/")
            directory = repositories[f"{owner}/{name}"]
            if directory is None:
                self.answer(403, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": "not on the list"})
            elif self.path.startswith("/api/"):
                tree = [
                    {"type": "file", "path": str(f.relative_to(directory)), "size": f.stat().st_size, "oid": f.name}
                    for f in directory.rglob("*")
                    if f.is_file()
                ]
                facts = tree if "/tree/" in self.path else {"id": f"{owner}/{name}", "sha": COMMIT}
                self.answer(200, json.dumps(facts).encode(), {"Content-Type": "application/json"})
            else:
                file = directory.joinpath(*rest)
                self.answer(200, file.read_bytes(), {"X-Repo-Commit": COMMIT, "ETag": f'"{sha256_of(file)}"'})

        do_HEAD = do_GET

        def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield repositories
    server.shutdown()
    server.server_close()


def test_presets_cover_the_families():
    families = {"bert", "distilbert", "roberta", "gpt2", "dialogpt", "llama2", "llama3", "mistral", "codellama"}
    assert set(PRESETS) == families | {"minilm"}
    for known in PRESETS.values():
        assert len(known.revision) == 40
        assert known.hub_id.count("/") == 1


def test_a_preset_is_its_hub_id_with_its_settings(tmp_path, tiny, store):
    from transformers import GPT2Config, GPT2Model

    directory = Path(shutil.copytree(tiny("gpt2"), tmp_path / "gpt2"))
    GPT2Model(GPT2Config(vocab_size=32, n_embd=768, n_layer=1, n_head=4, n_inner=8)).save_pretrained(directory)
    store(directory, PRESETS["gpt2"].hub_id, PRESETS["gpt2"].revision)
    store_id, commit = "openai-community/gpt2", PRESETS["gpt2"].revision
    teacher = Teacher("preset:gpt2")
    assert (teacher.pooling, teacher.revision, teacher.dim, teacher.max_length) == ("last", commit, 768, 128)
    spelled_out = Teacher(store_id, pooling="last", revision=commit)
    assert teacher.fingerprint == spelled_out.fingerprint
    np.testing.assert_array_equal(teacher.encode(TEXTS), spelled_out.encode(TEXTS))
    own = Teacher("preset:gpt2", pooling="max", normalize=False, max_length=7, prefix="a ")
    assert (own.pooling, own.normalize, own.max_length, own.prefix) == ("max", False, 7, "a ")


def test_a_revision_of_ones_own_wins(tiny, store, refuses):
    store(tiny(), PRESETS["bert"].hub_id, COMMIT, branch="mine")
    assert Teacher("preset:bert", revision="mine").revision == "mine"
    with refuses("repository of the model hub", f"at revision '{PRESETS['bert'].revision}'", "Check the id"):
        Teacher("preset:bert")


def test_a_preset_of_another_dimension_or_name_is_refused(tiny, store, refuses):
    store(tiny(), PRESETS["bert"].hub_id, PRESETS["bert"].revision)
    with refuses("embeddings of dimension 768", "gives 32", "name this one by its directory"):
        Teacher("preset:bert").encode(TEXTS)
    with refuses("must be one of ['bert', ", "received 'gpt5'", "Write e.g. 'preset:bert'"):
        Teacher("preset:gpt5")


def test_the_minilm_preset_is_the_packaged_model(store):
    packaged = Teacher("packaged:minilm")
    store(packaged._directory, PRESETS["minilm"].hub_id, PRESETS["minilm"].revision)
    long = " ".join(TEXTS * 20)
    named = Teacher("preset:minilm")
    np.testing.assert_array_equal(named.encode([*TEXTS, long]), packaged.encode([*TEXTS, long]))
    # The repository itself says 256; a bare hub id follows it.
    bare = Teacher(PRESETS["minilm"].hub_id, revision=PRESETS["minilm"].revision)
    assert (bare.pooling, bare.normalize, bare.max_length) == ("mean", True, 256)


def test_a_download_brings_what_sentence_transformers_says(tmp_path, tiny, hub):
    directory = Path(shutil.copytree(tiny(), tmp_path / "there"))
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in kinds.items()]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling/config.json").write_text('{"pooling_mode_max_tokens": true}')
    (directory / "onnx").mkdir()
    (directory / "onnx/config.json").write_text("{}")
    hub["somebody/tiny"] = directory
    teacher = Teacher("somebody/tiny")
    assert (teacher.pooling, teacher.normalize) == ("max", False)
    assert teacher._directory.name == COMMIT
    assert not (teacher._directory / "onnx").exists()
    np.testing.assert_array_equal(teacher.encode(TEXTS), Teacher(str(directory)).encode(TEXTS))


def test_a_gated_model_asks_to_log_in(hub, refuses):
    hub["meta-llama/Llama-2-7b-hf"] = None
    with refuses("whom its owner admits", "'meta-llama/Llama-2-7b-hf'", "log in with `hf auth login`"):
        Teacher("preset:llama2")


def test_a_model_with_its_own_code_is_not_run_unasked(tmp_path, tiny, refuses):
    directory = Path(shutil.copytree(tiny(), tmp_path / "own"))
    config = {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with refuses("runs only where it is trusted", f"the configuration of '{directory}'", "trust_remote_code=True"):
        Teacher(str(directory)).encode(TEXTS)
    assert not (tmp_path / "ran").exists()


def test_a_wrong_dtype_is_named(refuses):
    with refuses("`dtype` must be one of ['float32', 'bfloat16', 'float16']", "'int8'", "Take 'float32'"):
        Teacher(dtype="int8")


def old_fingerprint(teacher: Teacher) -> str:
    """The fingerprint as it was before there were dtypes and prefixes."""
    files = sorted(file for pattern in MODEL_FILES for file in teacher._directory.glob(pattern))
    identity = {
        "files": {file.name: sha256_of(file) for file in files},
        "revision": teacher.revision,
        "pooling": "mean",
        "normalize": True,
        "max_length": 128,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def test_old_caches_stay_valid(tiny):
    for teacher in (Teacher(), Teacher(str(tiny()))):
        assert teacher.fingerprint == old_fingerprint(teacher)
    assert Teacher().fingerprint == Teacher(pooling="mean", normalize=True, max_length=128).fingerprint
