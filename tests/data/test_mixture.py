"""Rows of several sources, in memory and on disk: mixed by weight, without a leak, the same in every way of reading."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from latticegnn.data import EmbeddingData, EpochSampler, Source, TextFields, VectorFields, WordVectors, datamodule
from latticegnn.data.partition import key

NAMES = ["train", "validation", "test"]


def matrix(rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def batches(data: EmbeddingData, epochs: int = 2) -> list[dict[str, torch.Tensor]]:
    loader = data.dataloader("train")
    return [batch for _ in range(epochs) for batch in loader]


def same(one: list[dict[str, torch.Tensor]], other: list[dict[str, torch.Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a[key], b[key]) for a, b in zip(one, other, strict=True) for key in ("input", "target", "index")
    )


@pytest.fixture
def files(tmp_path):
    """Two files of prepared embeddings; the second repeats ten rows of the first."""
    np.save(tmp_path / "a.npy", matrix(100))
    np.save(tmp_path / "b.npy", np.concatenate([matrix(60, seed=1), matrix(100)[20:30]]))
    return tmp_path


@given(
    parts=st.lists(st.tuples(st.integers(1, 30), st.floats(0, 3)), min_size=1, max_size=4),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_an_epoch_visits_each_row_as_often_as_its_weight_says(parts, seed, epoch) -> None:
    assume(any(round(count * weight) for count, weight in parts))
    sampler = EpochSampler(sum(count for count, _ in parts), seed, parts=parts)
    sampler.set_epoch(epoch)
    visits, start = Counter(sampler), 0
    assert visits.total() == sampler.visits
    for count, weight in parts:
        own = [visits[row] for row in range(start, start + count)]
        assert sum(own) == round(count * weight)
        assert max(own) - min(own) <= 1
        start += count


def test_a_weight_of_a_half_visits_other_rows_in_each_epoch() -> None:
    sampler = EpochSampler(40, parts=[(20, 1.0), (20, 0.5)])
    first, second = list(sampler), list(sampler)
    assert set(first) != set(second)
    assert all(set(range(20)) <= set(epoch) for epoch in (first, second))


def test_sources_are_mixed_and_nothing_held_out_is_trained_on(files) -> None:
    more = [Source("vectors", files / "b.npy", weight=2.0)]
    data = EmbeddingData("vectors", None, batch_size=10, path=files / "a.npy", more=more)
    data.prepare()
    inputs = {name: {row.tobytes() for row in split.tensors()[0].numpy()} for name, split in data.splits.items()}
    assert not inputs["train"] & (inputs["validation"] | inputs["test"])
    assert not inputs["validation"] & inputs["test"]
    card = json.loads(json.dumps(data.card()))
    assert sum(card["rows"].values()) + card["dropped"]["duplicate"] == 170
    assert card["dropped"]["duplicate"] > 0
    (first, second) = card["sources"]
    assert (first["weight"], second["weight"]) == (1.0, 2.0)
    assert first["train_rows"] + second["train_rows"] == len(data.splits["train"])
    assert data.epoch_rows == first["train_rows"] + 2 * second["train_rows"]
    visits = Counter(row for batch in batches(data, 1) for row in batch["index"].tolist())
    assert visits.total() == data.epoch_rows // 10 * 10
    assert all(count <= (1 if row < first["train_rows"] else 2) for row, count in visits.items())


@pytest.mark.parametrize("mixed", [False, True])
def test_rows_on_disk_give_the_batches_of_rows_in_memory(files, mixed, monkeypatch) -> None:
    def build(**more) -> EmbeddingData:
        others = [Source("vectors", files / "b.npy", weight=0.5)] if mixed else []
        data = EmbeddingData("vectors", None, batch_size=8, path=files / "a.npy", more=others, **more)
        data.prepare()
        return data

    memory = build()
    monkeypatch.setattr(datamodule, "IN_MEMORY", 1000)  # bytes: smaller than any training split here
    disk = build()
    assert isinstance(memory.splits["train"].inputs, torch.Tensor)
    assert not isinstance(disk.splits["train"].inputs, torch.Tensor)
    assert same(batches(disk), batches(memory))
    assert same(batches(build(num_workers=2)), batches(memory))
    for name in NAMES:
        for one, other in zip(disk.splits[name].tensors(), memory.splits[name].tensors(), strict=True):
            assert torch.equal(one, other)
    assert disk.dropped == memory.dropped


def test_a_loader_with_workers_resumes_within_an_epoch(files, monkeypatch) -> None:
    monkeypatch.setattr(datamodule, "IN_MEMORY", 1000)
    data = EmbeddingData("vectors", None, batch_size=8, path=files / "a.npy", num_workers=2)
    data.prepare()
    loader = data.dataloader("train")
    walk = iter(loader)
    for _ in range(3):
        next(walk)
    state, rest = loader.state_dict(), list(walk)
    resumed = data.dataloader("train")
    resumed.load_state_dict(state)
    assert same(list(resumed), rest)


def test_a_sample_is_spread_over_the_split(files) -> None:
    data = EmbeddingData("vectors", None, path=files / "a.npy")
    data.prepare()
    whole, _ = data.splits["train"].tensors()
    sample, targets = data.splits["train"].tensors(most=10)
    assert targets is sample
    assert torch.equal(sample, whole[[k * len(whole) // 10 for k in range(10)]])
    assert data.splits["train"].tensors(most=10**6)[0] is whole


def test_prepared_pairs_by_key_and_by_file(tmp_path) -> None:
    questions, answers = matrix(50), matrix(50, seed=1)
    np.savez(tmp_path / "pairs.npz", q=questions, a=answers)
    np.save(tmp_path / "q.npy", questions)
    np.save(tmp_path / "a.npy", answers)
    by_key = EmbeddingData("vectors", None, path=tmp_path / "pairs.npz", vectors=VectorFields("q", "a"))
    by_file = EmbeddingData(
        "vectors", None, path=tmp_path / "q.npy", vectors=VectorFields(target_path=tmp_path / "a.npy")
    )
    for data in (by_key, by_file):
        data.prepare()
        assert data.pairs
        inputs, targets = data.splits["train"].tensors()
        place = {row.tobytes(): k for k, row in enumerate(questions)}
        found = [place[row.tobytes()] for row in inputs.numpy()]
        np.testing.assert_array_equal(targets.numpy(), answers[found])


def test_reading_stops_after_so_many_rows(tmp_path, tiny, monkeypatch) -> None:
    vectors = matrix(50)
    vectors[30:] = np.nan
    np.save(tmp_path / "a.npy", vectors)
    for most in (datamodule.IN_MEMORY, 10):
        monkeypatch.setattr(datamodule, "IN_MEMORY", most)
        data = EmbeddingData("vectors", None, path=tmp_path / "a.npy", max_total_samples=30)
        data.prepare()
        assert sum(data.card()["rows"].values()) == 30
        assert data.dropped == {"nan": 0, "inf": 0, "zero": 0, "duplicate": 0}
    lines = [json.dumps({"input": text}) for text in ("the cat", "a dog", "red bird", "small mat", "blue rug")]
    (tmp_path / "texts.jsonl").write_text("\n".join([*lines, "no JSON"]))
    data = EmbeddingData("file", None, str(tiny()), path=tmp_path / "texts.jsonl", cache_dir=tmp_path, progress=False)
    with pytest.raises(ValueError, match="line 6"):
        data.prepare()
    data.sources[0] = Source("file", tmp_path / "texts.jsonl", max_total_samples=5)
    data.prepare()
    assert sum(data.card()["rows"].values()) == 5


def test_pairs_of_a_file_with_named_fields(tmp_path, tiny) -> None:
    rows = [("the cat", "sits"), ("a dog", "sings"), ("red bird", "on mat"), ("small mat", "under rug"), ("", "x")]
    (tmp_path / "qa.csv").write_text("q,a\n" + "".join(f"{q},{a}\n" for q, a in rows))
    fields = TextFields(input="q", target="a")
    data = EmbeddingData(
        "file", None, str(tiny()), path=tmp_path / "qa.csv", text=fields, cache_dir=tmp_path, progress=False
    )
    data.prepare()
    assert data.pairs
    found = {pair for split in data.splits.values() for pair in zip(split.input_texts, split.target_texts, strict=True)}
    assert found == set(rows[:4])
    assert data.dropped["empty"] == 1


def test_word_vectors_are_a_teacher(tmp_path) -> None:
    words = ["red", "blue", "cat", "dog", "sits", "sings"]
    table = matrix(len(words), seed=3)
    lines = [f"{word} {' '.join(f'{x:.9g}' for x in row)}" for word, row in zip(words, table, strict=True)]
    (tmp_path / "glove.txt").write_text("\n".join(lines) + "\n")
    (tmp_path / "texts.txt").write_text("red cat\nblue dog\ncat sits\ndog sings\nred dog sits\n")
    settings = {"path": str(tmp_path / "glove.txt"), "unknown": "error"}
    data = EmbeddingData(
        "file", None, settings, path=tmp_path / "texts.txt", cache_dir=tmp_path / "c", expected_dim=6, progress=False
    )
    data.prepare()
    teacher = WordVectors(**settings)
    for split in data.splits.values():
        np.testing.assert_array_equal(split.tensors()[0].numpy(), teacher.encode(split.input_texts))
    assert data.card()["teacher"]["fingerprint"] == teacher.fingerprint


def test_no_held_out_text_of_one_source_is_trained_on_in_another(tmp_path, tiny) -> None:
    """Neither in other case or punctuation, nor as a target."""
    nouns, verbs = ["cat", "dog", "bird", "mat", "rug"], ["sits", "sings", "on", "under", "red", "blue"]
    texts = [f"the {noun} {verb}" for noun in nouns for verb in verbs]
    (tmp_path / "a.txt").write_text("\n".join(texts))
    pairs = [{"q": f"{text} small large", "a": f"{text.title()}."} for text in texts]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    more = [Source("file", tmp_path / "b.jsonl", text=TextFields(input="q", target="a"))]
    data = EmbeddingData(
        "file", None, str(tiny()), path=tmp_path / "a.txt", more=more, cache_dir=tmp_path / "c", progress=False
    )
    data.prepare()
    owners: dict[str, str] = {}
    for name in ("test", "validation", "train"):
        split = data.splits[name]
        for text in {key(text) for text in (*split.input_texts, *split.target_texts)}:
            assert owners.setdefault(text, name) == name
    assert data.dropped["duplicate"] > 0
    assert data.pairs


def test_training_rows_of_weight_0_are_left_out_and_held_out_ones_stay(files) -> None:
    more = [Source("vectors", files / "b.npy", weight=0)]
    data = EmbeddingData("vectors", None, path=files / "a.npy", more=more)
    data.prepare()
    alone = EmbeddingData("vectors", None, path=files / "a.npy")
    alone.prepare()
    trained = {row.tobytes() for row in data.splits["train"].tensors()[0].numpy()}
    assert trained <= {row.tobytes() for row in alone.splits["train"].tensors()[0].numpy()}
    assert data.card()["sources"][1]["train_rows"] == 0
    assert len(data.splits["test"]) > len(alone.splits["test"])


def test_bad_sources_are_named(files, tmp_path, refuses) -> None:
    with refuses("`weight` must be at least 0", "received -1", "1 visits each row once"):
        Source("qa", weight=-1)
    with refuses("`text` belongs to the task 'file'", "task 'qa'", "Leave it out"):
        Source("qa", text=TextFields(input="q"))
    with refuses("`max_total_samples` must be at least 3", "7 with task 'qa'", "Use `limit`"):
        Source("qa", max_total_samples=7)
    np.save(tmp_path / "wide.npy", matrix(20, dim=7))
    data = EmbeddingData("vectors", None, path=files / "a.npy", more=[Source("vectors", tmp_path / "wide.npy")])
    with refuses("must have one dimension", "[6, 7]", "by the same teacher"):
        data.prepare()
    data = EmbeddingData("vectors", None, path=files / "a.npy", vectors=VectorFields(target_path=tmp_path / "wide.npy"))
    with refuses("must have the same shape", "[100, 6]", "Give one target a row"):
        data.prepare()
