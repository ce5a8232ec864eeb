"""The search for answers: exact, ordered, the same whatever shares a batch, and read only as it was written."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import latticegnn.answers as room
from latticegnn.answers import AnswerIndex, answers_of
from latticegnn.data.split import EmbeddingSplit


def made(vectors: np.ndarray, backend: str = "exact") -> AnswerIndex:
    return AnswerIndex([str(row) for row in range(len(vectors))], vectors, backend=backend)


def twin(index: AnswerIndex, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every score in float64, sorted whole."""
    wide = queries.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    scores = np.stack([(index.vectors.astype(np.float64) * query).sum(1) for query in wide])
    order = np.stack([sorted(range(len(index)), key=lambda at: (-row[at], at))[:k] for row in scores])
    return np.take_along_axis(scores, order, 1), order


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 70), st.integers(0, 10_000), st.integers(1, 60))
def test_the_search_is_the_plain_one(n, dim, k, seed, distinct) -> None:
    draw = np.random.default_rng(seed)
    vectors = draw.normal(size=(min(n, distinct), dim))[draw.integers(0, min(n, distinct), n)]  # some of them equal
    index, queries = made(vectors.astype(np.float32)), draw.normal(size=(5, dim)).astype(np.float32)
    scores, places = index.search(queries, k)
    expected, order = twin(index, queries, k)
    assert scores.shape == places.shape == (5, min(k, n))
    np.testing.assert_array_equal(places, order)
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-15)


def test_many_equal_answers_come_by_their_place() -> None:
    vectors = np.random.default_rng(0).normal(size=(400, 6)).astype(np.float32)
    vectors[50:350] = vectors[7]
    for backend in ("exact", "faiss"):
        _, places = made(vectors, backend).search(vectors[7:8], 12)
        assert places[0].tolist() == [7, *range(50, 61)]


def test_known_cosines() -> None:
    index = made(np.array([[1.0, 0.0], [0.0, 5.0], [3.0, 4.0], [-2.0, 0.0]]))
    scores, places = index.search(np.array([[10.0, 0.0]]), 4)
    assert places.tolist() == [[0, 2, 1, 3]]
    np.testing.assert_allclose(scores, [[1, 0.6, 0, -1]], atol=1e-7)
    rows = index.rows(np.array([[0.0, 1.0]]), 1)
    assert rows == [[{"text": "1", "score": pytest.approx(1), "index": 1}]]


def test_a_query_does_not_hang_on_its_batch(monkeypatch) -> None:
    draw = np.random.default_rng(1)
    index, queries = made(draw.normal(size=(300, 40)).astype(np.float32)), draw.normal(size=(33, 40))
    scores, places = index.search(queries, 7)
    for row in range(33):
        alone = index.search(queries[row : row + 1], 7)
        np.testing.assert_array_equal(alone[0][0], scores[row])
        np.testing.assert_array_equal(alone[1][0], places[row])
    monkeypatch.setattr(room, "SCORES", 1000)  # three queries a block
    np.testing.assert_array_equal(index.search(queries, 7)[0], scores)
    assert index.search(queries[:0], 7)[0].shape == (0, 7)


def test_faiss_finds_the_same() -> None:
    draw = np.random.default_rng(2)
    index, queries = made(draw.normal(size=(500, 24)).astype(np.float32)), draw.normal(size=(20, 24))
    for found, other in zip(index.search(queries, 10), index.searched_by("faiss").search(queries, 10), strict=True):
        np.testing.assert_array_equal(found, other)
    assert index.searched_by("exact") is index


def test_an_index_is_read_as_it_was_written(tmp_path) -> None:
    vectors = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    texts = ['a "text"', "two\nlines\r\u2028three", "ä"]
    index = AnswerIndex(texts, vectors, ["x", "", "z"], "f" * 64)
    index.save(tmp_path / "index")
    read = AnswerIndex.load(tmp_path / "index")
    assert (read.texts, read.titles, read.fingerprint) == (texts, ["x", "", "z"], "f" * 64)
    np.testing.assert_array_equal(read.vectors, index.vectors)
    assert read.digest() == index.digest()
    made(vectors).save(tmp_path / "plain")
    plain = AnswerIndex.load(tmp_path / "plain")
    assert plain.titles is None
    assert plain.digest() != index.digest()


def test_a_damaged_index_is_refused(tmp_path, refuses) -> None:
    vectors = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)
    folder = tmp_path / "index"
    made(vectors).save(folder)
    texts, matrix = folder / "answers.jsonl", folder / "vectors.safetensors"
    kept = texts.read_bytes(), matrix.read_bytes()
    texts.write_bytes(kept[0].replace(b'"1"', b'"one"'))
    with refuses("must be as it was saved", "of other texts", "index the answers again"):
        AnswerIndex.load(folder)
    texts.write_bytes(kept[0])
    matrix.write_bytes(kept[1][:-5])
    with refuses("must be as it was saved", str(folder), "index the answers again"):
        AnswerIndex.load(folder)
    matrix.write_bytes(kept[1])
    content, header = load_file(matrix), json.loads(kept[1][8 : 8 + int.from_bytes(kept[1][:8], "little")])
    content["vectors"][1] = np.nan
    save_file(content, matrix, header["__metadata__"])
    with refuses("finite and not zero", "nan for answer 1", "index the answers again"):
        AnswerIndex.load(folder)
    matrix.unlink()
    with refuses("a folder with answers.jsonl", "has no vectors.safetensors", "pass", FileNotFoundError):
        AnswerIndex.load(folder)


def test_what_cannot_be_indexed_or_searched_is_refused(refuses) -> None:
    vectors = np.eye(3, dtype=np.float32)
    with refuses("a text, a vector", "2 texts, 3 vectors and no titles", "as many of each"):
        AnswerIndex(["a", "b"], vectors)
    with refuses("a title each", "3 texts, 3 vectors and 1 titles", "as many of each"):
        AnswerIndex(["a", "b", "c"], vectors, ["x"])
    with refuses("at least one", "0 texts, 0 vectors", "as many"):
        AnswerIndex([], vectors[:0])
    with refuses("floating-point matrix", "[3]", "Stack"):
        AnswerIndex(["a", "b", "c"], vectors[0])
    with refuses("backend must be one of", "'flat'", "choose"):
        made(vectors, "flat")
    with refuses("finite and not zero", "zero for answer 1", "leave it out"):
        made(np.array([[1.0], [0.0]]))
    index = made(vectors)
    for k in (0, -1, 2.0, True):
        with refuses("whole number of at least 1", f"got {k!r}", "5 is the default"):
            index.search(vectors, k)
    with refuses("[m, 3]", "[2, 4]", "teacher of the answers"):
        index.search(np.ones((2, 4)))
    with refuses("finite and not zero", "inf in row 1", "drop it"):
        index.search(np.array([[1.0, 0, 0], [np.inf, 0, 0]]))


def test_the_answers_of_pairs_are_taken_once_and_titled() -> None:
    def split(inputs: list[str], targets: list[str], first: float) -> EmbeddingSplit:
        vectors = torch.arange(2 * len(targets)).reshape(-1, 2) + first
        return EmbeddingSplit(torch.zeros(len(inputs), 2), vectors, inputs, targets, inputs)

    splits = {"train": split(["p", "q", "r"], ["a", "b", "a"], 1.0), "test": split(["s", "t"], ["b", "c"], 9.0)}
    index = answers_of(splits, "f")
    assert index is not None
    assert (index.texts, index.titles, index.fingerprint) == (["a", "b", "c"], ["p", "q", "t"], "f")
    expected = np.array([[1, 2], [3, 4], [11, 12]])
    np.testing.assert_allclose(index.vectors, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-6)
    assert answers_of({"train": EmbeddingSplit(torch.ones(2, 2), torch.ones(2, 2))}, "") is None
