"""What a run leaves beside its model is what prediction needs."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

import latticegnn as lg
from latticegnn.data.teacher_card import read_teacher

WORDS = ["the", "a", "cat", "dog", "bird", "mat", "rug", "sits", "sings"]
MODEL = {"spec": {"shape": [3, 3, 5], "radii": [0.5, 1.0, 1.5]}, "embedding_dim": 32, "channels": 4, "steps": 5}


@pytest.fixture
def config(tmp_path, saved, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    pairs = [f"{WORDS[row % 9]} {WORDS[row // 9 % 9]} {WORDS[row // 81]}" for row in range(120)]
    rows = [{"input": f"which {pair}?", "target": f"{pair} is red."} for pair in pairs]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    content = {
        "data": {
            "task": "file", "path": "pairs.jsonl", "limit": None, "text": {"target": "target"}, "cache_dir": "cache",
            "teacher": {"source": str(saved.teacher), "pooling": "cls"},
        },
        "model": MODEL, "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        "baselines": [], "log_level": "error",
    }  # fmt: skip
    Path("pairs.yaml").write_text(yaml.safe_dump(content))
    return Path("pairs.yaml")


def test_a_run_on_pairs_answers_at_once(config, saved, call) -> None:
    status, out, err = call("fit", "--config", config)
    assert status == 0, err
    run = Path(out[-1].decode())
    rows = json.loads((run / "metrics.json").read_text())["data"]["rows"]
    predictor = lg.Predictor(run)
    teacher = lg.Teacher(str(saved.teacher), pooling="cls")
    assert read_teacher(run / "model")[1:] == (teacher.fingerprint, 32)
    assert predictor.index is not None
    assert predictor.index.titles is not None
    assert 0 < len(predictor.index) <= sum(rows.values())
    assert len(set(predictor.index.texts)) == len(predictor.index)
    for title, text in zip(predictor.index.titles, predictor.index.texts, strict=True):
        assert text == f"{title.removeprefix('which ').removesuffix('?')} is red."
    expected = teacher.encode(predictor.index.texts)
    np.testing.assert_allclose(predictor.index.vectors, expected, atol=1e-5)
    status, out, err = call("predict", "--model", "runs/latest", "--text", "which cat?", "--k", 2)
    assert (status, err) == (0, [])
    (row,) = map(json.loads, out)
    assert [answer["text"] for answer in row["answers"]] == [
        answer["text"] for answer in predictor.predict(["which cat?"], "answers", k=2)[0]["answers"]
    ]


def test_a_run_on_vectors_takes_vectors(config, call) -> None:
    vectors = np.random.default_rng(0).normal(size=(150, 32)).astype(np.float32)
    np.save("v.npy", vectors)
    content = yaml.safe_load(config.read_text()) | {"data": {"task": "vectors", "path": "v.npy", "limit": None}}
    Path("vectors.yaml").write_text(yaml.safe_dump(content))
    status, out, err = call("fit", "--config", "vectors.yaml")
    assert (status, err) == (0, [])
    run = Path(out[-1].decode())
    assert {file.name for file in (run / "model").iterdir()} == {"config.json", "model.safetensors"}
    predictor = lg.Predictor(run)
    assert predictor.index is None
    assert len(predictor.predict(vectors[:3])) == 3
    status, _, err = call("predict", "--model", run, "--text", "a cat")
    assert status == 2
    assert "Texts need the teacher of the model's inputs" in err[0]
