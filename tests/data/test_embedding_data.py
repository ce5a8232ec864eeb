"""Embedding data: rows are checked, counted and split; batches resume exactly."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from latticegnn.data import EmbeddingData, EpochSampler, load_vectors

ROOT = Path(__file__).parents[2]
NAMES = ["train", "validation", "test"]


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def matrix(rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def test_heavy_packages_are_imported_by_the_calls_that_need_them():
    """PyG imports transformers where it is installed; our own files must not, whatever stands above them."""
    for file in (ROOT / "latticegnn/data").glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            heavy = {"transformers", "torchdata", "huggingface_hub"} & {name.partition(".")[0] for name in names}
            assert not heavy, f"{file.name} imports {heavy}"


def test_pairs_become_tensors(tmp_path, tiny):
    settings = {"source": str(tiny()), "pooling": "max"}
    data = EmbeddingData("qa", limit=400, teacher=settings, cache_dir=tmp_path, progress=False)
    with pytest.raises(ValueError) as error:
        _ = data.splits
    explains(error, "must be prepared before use", "`splits`", "Call prepare()")
    data.prepare()
    train = data.splits["train"]
    assert list(data.splits) == NAMES
    assert train.inputs.shape == train.targets.shape == (len(train), data.dim) == (len(train.input_texts), 32)
    assert train.inputs.dtype == torch.float32
    assert train.inputs is not train.targets
    teacher = data._built_teacher()
    np.testing.assert_allclose(train.inputs, teacher.encode(train.input_texts), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(train.targets, teacher.encode(train.target_texts), rtol=1e-4, atol=1e-5)
    card = json.loads(json.dumps(data.card()))
    assert card["teacher"]["fingerprint"] == teacher.fingerprint
    assert sum(card["rows"].values()) + sum(card["dropped"].values()) == 400
    before = train
    data.prepare()
    assert data.splits["train"] is before


def test_sentences_are_their_own_targets(tmp_path, tiny):
    data = EmbeddingData("sentences", limit=60, teacher=str(tiny()), cache_dir=tmp_path, progress=False)
    data.prepare()
    train = data.splits["train"]
    assert train.inputs is train.targets
    assert train.input_texts is train.target_texts


def test_a_text_file_and_a_teacher_object(tmp_path, tiny):
    from latticegnn.data import Teacher

    lines = ["the cat", "a dog", "red bird", "small mat", "blue rug", "large cat", "the dog sits", "bird sings"]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    teacher = Teacher(str(tiny()))
    data = EmbeddingData("file", None, teacher, path=tmp_path / "texts.txt", cache_dir=tmp_path, progress=False)
    data.prepare()
    assert sorted(text for split in data.splits.values() for text in split.input_texts) == sorted(lines)


def test_bad_and_repeated_rows_are_counted():
    vectors = matrix(40)
    vectors[3, 2] = np.nan
    vectors[4, 0], vectors[4, 1] = np.nan, np.inf
    vectors[5, 5] = -np.inf
    vectors[6:9] = 0
    vectors[20] = vectors[10]
    data = EmbeddingData.from_arrays(vectors)
    assert data.dropped == {"nan": 2, "inf": 1, "zero": 3, "duplicate": 1}
    kept = torch.cat([split.inputs for split in data.splits.values()]).numpy()
    expected = np.delete(vectors, [3, 4, 5, 6, 7, 8, 20], axis=0)
    assert sorted(map(bytes, kept)) == sorted(map(bytes, expected))


def test_bad_targets_drop_the_row_and_pairs_stay_together():
    vectors = matrix(40)
    targets = 2 * vectors
    targets[0] = np.nan
    data = EmbeddingData.from_arrays(vectors, targets, limit=20)
    assert data.dropped["nan"] == 1
    assert sum(len(split) for split in data.splits.values()) == 20
    for split in data.splits.values():
        torch.testing.assert_close(split.targets, 2 * split.inputs)


def test_texts_with_equal_vectors_never_cross_splits(tmp_path, tiny):
    # To the tiny vocabulary, every sentence of unknown words of the same number is the same text.
    lines = [f"zzz{n} cat" for n in range(20)] + ["the cat", "a dog", "red bird", "small mat", "blue rug", "under"]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    data = EmbeddingData("file", None, str(tiny()), path=tmp_path / "texts.txt", cache_dir=tmp_path, progress=False)
    data.prepare()
    assert data.dropped["duplicate"] > 0
    rows = [row.tobytes() for split in data.splits.values() for row in split.inputs.numpy()]
    assert len(rows) == len(set(rows))


def test_prepared_files(tmp_path):
    vectors = matrix(50)
    np.save(tmp_path / "a.npy", vectors.astype(np.float64))
    save_file({"anything": vectors}, tmp_path / "a.safetensors")
    cards = []
    for name in ("a.npy", "a.safetensors"):
        data = EmbeddingData("vectors", None, path=tmp_path / name)
        data.prepare()
        assert data.dim == 6
        cards.append(data.card())
        assert cards[-1].pop("sources") == [
            {"task": "vectors", "path": str(tmp_path / name), "train_rows": 38, "weight": 1.0}
        ]
    assert cards[0] == cards[1]
    assert cards[0]["teacher"] is None


@pytest.mark.parametrize("source", ["arrays", "teacher"])
def test_the_dimension_is_checked(tmp_path, tiny, source):
    if source == "arrays":
        with pytest.raises(ValueError) as error:
            EmbeddingData.from_arrays(matrix(10), expected_dim=384)
        explains(error, "384 expected", "gives 6", "Set embedding_dim to 6")
    else:
        directory = str(tiny())
        data = EmbeddingData(limit=10, teacher=directory, cache_dir=tmp_path, expected_dim=384, progress=False)
        with pytest.raises(ValueError) as error:
            data.prepare()
        explains(error, "384 expected", directory, "gives 32", "Set embedding_dim to 32")


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"task": "chess"}, ["`task` must be one of ['qa'", "'chess'", "default"]),
        ({"task": "file"}, ["`path` belongs to", "task 'file', path None", "Name the file"]),
        ({"path": "x.txt"}, ["`path` belongs to", "task 'qa', path PosixPath('x.txt')", "Leave `path` out"]),
        ({"batch_size": 0}, ["`batch_size` must be at least 1", "received 0", "Try 32"]),
        ({"limit": 2}, ["`limit` counts the rows", "received 2", "None for all"]),
    ],
)
def test_bad_settings_are_named(settings, parts):
    with pytest.raises(ValueError) as error:
        EmbeddingData(**settings)
    explains(error, *parts)


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros(3, dtype=np.float32), ["must be a floating-point matrix", "shape [3]", "Stack one embedding a row"]),
        (np.zeros((3, 2), dtype=np.int64), ["must be a floating-point matrix", "type int64", "Stack"]),
        (np.ones((9, 2), dtype=np.float32), ["at least 3 rows", "received 1", "Add rows"]),
    ],
)
def test_bad_arrays_are_named(array, parts):
    with pytest.raises(ValueError) as error:
        EmbeddingData.from_arrays(array)
    explains(error, *parts)


def test_unequal_inputs_and_targets():
    with pytest.raises(ValueError) as error:
        EmbeddingData.from_arrays(matrix(10), matrix(9))
    explains(error, "must have the same shape", "[10, 6] and [9, 6]", "one target a row")


def test_bad_vector_files(tmp_path):
    with pytest.raises(FileNotFoundError) as missing:
        load_vectors(tmp_path / "none.npy")
    explains(missing, "must be an existing file", "none.npy", "Check the path")
    (tmp_path / "a.csv").write_text("1,2")
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "b.npy").write_bytes(b"")
    (tmp_path / "a.safetensors").write_bytes(b"\x05")
    save_file({"x": matrix(3), "y": matrix(3)}, tmp_path / "two.safetensors")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object))
    for name, parts in {
        "a.csv": ["must be a .npy or .safetensors file", "a.csv", "numpy.save"],
        "a.npy": ["must hold one plain array", "a.npy", "Save it again"],
        "b.npy": ["must hold one plain array", "b.npy", "Save it again"],
        "objects.npy": ["must hold one plain array", "objects.npy", "Save it again"],
        "a.safetensors": ["must be a sound safetensors file", "a.safetensors", "Save it again"],
        "two.safetensors": ["exactly one tensor", "['x', 'y']", "on its own"],
    }.items():
        with pytest.raises(ValueError) as error:
            load_vectors(tmp_path / name)
        explains(error, *parts)


def test_a_split_left_empty_is_an_error(tmp_path, tiny):
    (tmp_path / "texts.txt").write_text("\n".join(f"zzz{n}" for n in range(9)))
    data = EmbeddingData("file", None, str(tiny()), path=tmp_path / "texts.txt", cache_dir=tmp_path, progress=False)
    with pytest.raises(ValueError) as error:
        data.prepare()
    explains(error, "must keep at least 1 row", "'duplicate': 8", "repair the source")


# --- batches and their order


@pytest.fixture
def data() -> EmbeddingData:
    return EmbeddingData.from_arrays(matrix(80), 2 * matrix(80), batch_size=16, seed=5)


def order(loader) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader]


def flat(batches: list[list[int]]) -> list[int]:
    return [index for batch in batches for index in batch]


def test_batches(data):
    assert len(data.dataloader("train")) == 3
    train = data.splits["train"]
    for batch in data.dataloader("train"):
        assert list(batch) == ["input", "target", "index"]
        torch.testing.assert_close(batch["input"], train.inputs[batch["index"]])
        torch.testing.assert_close(batch["target"], train.targets[batch["index"]])
    for name in ("validation", "test"):
        assert flat(order(data.dataloader(name))) == list(range(len(data.splits[name])))


def test_epochs_differ_and_repeat_by_seed(data):
    loader, twin = data.dataloader("train"), data.dataloader("train")
    epochs = [order(loader) for _ in range(3)]
    assert all(len(set(flat(epoch))) == 48 for epoch in epochs), "whole batches of 60 rows"
    assert len(set().union(*map(flat, epochs))) > 56, "other rows are left over in each epoch"
    assert epochs[0] != epochs[1] != epochs[2]
    twin.sampler.set_epoch(1)
    assert order(twin) == epochs[1]


def test_loading_draws_nothing_from_the_global_seed(data):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    order(data.dataloader("train"))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("batch_size", [16, 20])  # of 60 rows: 12 are left over, or none
@pytest.mark.parametrize("stop", range(9))
def test_resuming_anywhere_gives_the_uninterrupted_order(batch_size, stop):
    data = EmbeddingData.from_arrays(matrix(80), batch_size=batch_size, seed=5)

    def endless(loader):
        while True:
            yield from loader

    reference = endless(data.dataloader("train"))
    expected = [next(reference)["index"].tolist() for _ in range(stop + 8)]
    interrupted = data.dataloader("train")
    stream = endless(interrupted)
    for _ in range(stop):
        next(stream)
    state = interrupted.state_dict()
    resumed = data.dataloader("train")
    resumed.load_state_dict(state)
    stream = endless(resumed)
    assert [next(stream)["index"].tolist() for _ in range(8)] == expected[stop:]


def test_a_state_saved_after_the_last_batch_starts_the_next_epoch(data):
    loader = data.dataloader("train")
    order(loader)
    state = loader.state_dict()
    expected = order(loader)
    resumed = data.dataloader("train")
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(1)
    assert order(resumed) == expected


def test_sampler_alone():
    sampler = EpochSampler(10, seed=2)
    walk = iter(sampler)
    head = [next(walk) for _ in range(4)]
    state = sampler.state_dict()
    assert state == {"epoch": 0, "position": 4, "rows": 10, "seed": 2, "batch_size": 1, "parts": [(10, 1.0)]}
    tail = list(walk)
    assert sorted(head + tail) == list(range(10))
    assert sampler.epoch == 1
    resumed = EpochSampler(10, seed=2)
    resumed.load_state_dict(state)
    resumed.set_epoch(0)  # staying in the epoch keeps the position
    assert list(resumed) == tail
    resumed.set_epoch(0)
    assert list(resumed) == head + tail
    broken_off = EpochSampler(10, seed=2)
    next(iter(broken_off))
    assert list(broken_off) == head + tail
    assert list(EpochSampler(3, shuffle=False)) == [0, 1, 2]


def test_processes_share_each_batch_and_together_make_one():
    def batches(world):
        parts = [list(EpochSampler(26, seed=3, batch_size=8, rank=rank, world=world)) for rank in range(world)]
        each = 8 // world
        return [[row for part in parts for row in part[k * each : (k + 1) * each]] for k in range(3)]

    assert batches(1) == batches(2) == batches(4)
    stretches = [list(EpochSampler(10, shuffle=False, batch_size=6, rank=rank, world=3)) for rank in range(3)]
    assert stretches == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9]]


def test_a_position_holds_for_another_number_of_processes():
    one = EpochSampler(26, seed=3, batch_size=8)
    walk = iter(one)
    for _ in range(8):
        next(walk)
    rest = list(walk)
    state = EpochSampler(26, seed=3, batch_size=8).state_dict() | {"position": 8}
    parts = []
    for rank in range(2):
        sampler = EpochSampler(26, seed=3, batch_size=8, rank=rank, world=2)
        sampler.load_state_dict(state)
        parts.append(list(sampler))
    assert rest == parts[0][:4] + parts[1][:4] + parts[0][4:] + parts[1][4:]


def test_sampler_errors():
    with pytest.raises(ValueError) as error:
        EpochSampler(0)
    explains(error, "at least 1 row", "received 0", "Check the split")
    with pytest.raises(ValueError) as error:
        EpochSampler(7, batch_size=8)
    explains(error, "at least a batch", "received 7 rows, batch_size 8", "lower batch_size")
    with pytest.raises(ValueError) as error:
        EpochSampler(70, batch_size=8, world=3)
    explains(error, "an equal part", "batch_size 8 for 3", "Choose a multiple of 3")
    with pytest.raises(ValueError) as error:
        EpochSampler(70, parts=[(60, 1), (9, 1)])
    explains(error, "must add up to its 70 rows", "[(60, 1.0), (9, 1.0)]", "Check the sources")
    for key, value in (("rows", 11), ("seed", 9), ("batch_size", 2), ("parts", [(5, 1.0), (5, 2.0)])):
        state = {"epoch": 0, "position": 4, **EpochSampler(10, seed=2)._refers_to(), key: value}
        with pytest.raises(ValueError) as error:
            EpochSampler(10, seed=2).load_state_dict(state)
        explains(error, "same data, batch size and seed", f"{key} = {value}", "start a new run")
