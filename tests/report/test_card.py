"""A run's card tells what its metrics tell, and nothing else."""

import json
from pathlib import Path

from huggingface_hub import ModelCard

import latticegnn as lg
from latticegnn.report.card import model_card, write_card

TEACHER = {"name": "Teacher('packaged:minilm')", "source": "packaged:minilm", "fingerprint": "ab" * 32}


def figures(name: str, value: float, **others: float) -> dict:
    row: dict = {"model": name, "parameters": 1234}
    for metric in ("mrr@10", "fvu"):
        row |= {metric: value, f"{metric}_low": value - 0.1, f"{metric}_high": value + 0.1}
    return row | others


def write_run(folder: Path, table: list[dict], **data: object) -> Path:
    model = lg.LatticeModel(lg.LatticeSpec((3, 3, 3), connectivity="full"), embedding_dim=6, steps=2)
    model.save_pretrained(folder / "model")
    told = {
        "task": "qa", "limit": 2000, "seed": 7, "dim": 6, "rows": {"train": 1400, "validation": 200, "test": 400},
        "dropped": {"nan": 2, "inf": 0}, "sources": [{"task": "qa", "path": None}], "teacher": TEACHER,
        "source_sha256": "cd" * 32,
    }  # fmt: skip
    result = {
        "table": table, "seed": 3, "parameters": model.parameter_counts(), "backend": "dense", "data": told | data,
        "machine": {"processes": 1, "threads": 2, "processor": "x86_64", "torch": "2.13.0"},
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(result))
    return folder


def test_the_table_the_verdicts_the_data_and_the_run(tmp_path) -> None:
    lost = {"lattice_minus": -0.05, "lattice_minus_low": -0.08, "lattice_minus_high": -0.02}
    even = {"lattice_minus": 0.01, "lattice_minus_low": -0.02, "lattice_minus_high": 0.04}
    cost = {"seconds": 61.4, "updates": 516}
    run = write_run(
        tmp_path,
        [figures("lattice", 0.5, **cost), figures("ridge", 0.55, **lost), figures("raw_teacher", 0.49, **even)],
    )
    card = ModelCard.load(write_card(run))
    assert card.data.to_dict() == {
        "library_name": "latticegnn",
        "metrics": ["mrr@10", "fvu"],
        "tags": ["cellular-automata", "embeddings", "graph-neural-networks", "model_hub_mixin"],
    }
    lines = card.text.splitlines()
    assert "| lattice | 1,234 | 0.500 [0.400, 0.600] | 0.500 [0.400, 0.600] |" in lines
    assert "- lattice − ridge: mrr@10 -0.050 [-0.080, -0.020], the lattice loses" in lines
    assert "- lattice − raw_teacher: mrr@10 +0.010 [-0.020, +0.040], no clear difference" in lines
    assert "- task: qa, limited to 2,000" in lines
    assert "- rows: train 1,400, validation 200, test 400; split by seed 7" in lines
    assert "- dropped: nan 2" in lines
    assert "- files: the packaged corpus" in lines
    assert "- embeddings: 6 numbers, by Teacher('packaged:minilm'), fingerprint `abababababab`" in lines
    assert "- seed 3, 516 updates in 61 s, aggregation backend dense" in lines
    assert "decoder" not in card.text
    assert lg.LatticeModel.from_pretrained(run / "model").origin == run / "model"


def test_other_kinds_of_runs(tmp_path) -> None:
    (tmp_path / "model" / "decoder").mkdir(parents=True)
    sources = [{"task": "vectors", "path": "/home/someone/vectors.npy"}]
    run = write_run(tmp_path, [figures("lattice", 0.5)], task="vectors", limit=None, teacher=None, sources=sources)
    text = model_card(run).text
    assert "No baseline was asked for." in text
    assert "- task: vectors\n" in text
    assert "- files: vectors.npy\n" in text
    assert "- embeddings: 6 numbers, prepared beforehand" in text
    assert "- seed 3, not timed" in text
    assert "A decoder of tokens lies in `decoder/`" in text
    assert "someone" not in text


def test_a_run_without_metrics_has_no_card(tmp_path, refuses) -> None:
    with refuses("a run that has measured its model", "no metrics.json", "fit --resume", FileNotFoundError):
        model_card(tmp_path)
