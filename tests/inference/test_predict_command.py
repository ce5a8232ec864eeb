"""`latticegnn predict` and `latticegnn index`: every input once, in order, whatever happens in between."""

import io
import json
import os
import resource
import shutil
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import latticegnn as lg
from latticegnn.inference import Inputs, Summary, Wanted, open_output, stream

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["the", "a", "cat", "dog", "bird", "mat", "rug", "sits", "sings"]
LINES = [f"{WORDS[row // 9]} small {WORDS[row % 9]} under {WORDS[5 * row % 7]}" for row in range(75)]
WHOLE = "\n".join(LINES).encode() + b"\n"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A working directory with inputs of 75 lines."""
    monkeypatch.chdir(tmp_path)
    Path("in.txt").write_bytes(WHOLE)
    return tmp_path


def rows_of(lines: list[bytes]) -> list[dict]:
    return [json.loads(line) for line in lines]


def assert_same(found: list[dict], expected: list[dict]) -> None:
    """Compare rows of answers; scores to rounding."""
    for rows in (found, expected):
        assert [row["line"] for row in rows] == list(range(1, len(expected) + 1))
    parts = [[answer for row in rows for answer in row["answers"]] for rows in (found, expected)]
    assert [(answer["index"], answer["text"]) for answer in parts[0]] == [(a["index"], a["text"]) for a in parts[1]]
    assert [answer["score"] for answer in parts[0]] == pytest.approx([a["score"] for a in parts[1]], abs=1e-6)


@contextmanager
def piped(monkeypatch: pytest.MonkeyPatch, content: bytes) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        yield


def test_lines_come_back_in_order(here, saved, predictor, call, monkeypatch) -> None:
    expected = [{"line": line} | row for line, row in enumerate(predictor.predict(LINES, "answers", k=2), start=1)]
    words = ("predict", "--model", saved.folder, "--k", 2)
    for batch_size in (1, 7, 64, 1000):
        with piped(monkeypatch, WHOLE):
            status, out, err = call(*words, "--batch_size", batch_size)
        assert (status, err) == (0, [])
        assert_same(rows_of(out), expected)
    status, out, err = call(*words, "--input", "in.txt", "--output", "out.jsonl")
    assert (status, out, err) == (0, [], [])
    assert_same(rows_of(Path("out.jsonl").read_bytes().splitlines()), expected)


def test_one_text_may_hold_anything(saved, predictor, call) -> None:
    for text in ("a cat", "null", "{a: [b", "two\nlines", "ä \u2028"):
        status, out, err = call("predict", "--model", saved.folder, "--text", text, "--as", "embedding")
        assert (status, err, len(out)) == (0, [], 1)
        np.testing.assert_allclose(
            json.loads(out[0])["embedding"], predictor.predict([text])[0]["embedding"], rtol=0, atol=1e-6
        )
    status, out, err = call("predict", "--model", saved.folder, "--text", "")
    assert (status, out, err) == (
        2,
        [],
        ["latticegnn: --text, line 1: A text must have words; got an empty one. Leave it out."],
    )


def test_embeddings_are_written_as_a_matrix(here, saved, predictor, call) -> None:
    expected = np.array([row["embedding"] for row in predictor.predict(LINES)])
    np.save("in.npy", predictor.teacher.encode(LINES).astype(np.float64))
    for source in ("in.txt", "in.npy"):
        words = ("predict", "--model", saved.folder, "--input", source, "--as", "embedding", "--batch_size", 16)
        assert call(*words, "--output", "out.npy") == (0, [], [])
        assert call(*words, "--output", "out.safetensors") == (0, [], [])
        for found in (np.load("out.npy"), load_file("out.safetensors")["embeddings"]):
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    assert lg.data.load_vectors("out.npy").shape == (75, 32)
    assert not list(here.glob("*.part"))


BAD = b"the cat\n\nthe \xff dog\na bird\n \t\nthe mat\n"


def test_a_bad_line_stops_after_those_before_it(here, saved, call, monkeypatch) -> None:
    for batch_size in (1, 2, 64):
        with piped(monkeypatch, b"a dog\n" + BAD):
            status, out, err = call("predict", "--model", saved.folder, "--batch_size", batch_size)
        assert (status, [row["line"] for row in rows_of(out)]) == (2, [1, 2])
        assert err == ["latticegnn: standard input, line 3: A text must have words; got an empty one. Leave it out."]


def test_bad_lines_are_skipped_told_and_kept_in_place(here, saved, predictor, call, monkeypatch) -> None:
    words = ("predict", "--model", saved.folder, "--as", "embedding", "--on_error", "skip", "--batch_size", 4)
    with piped(monkeypatch, BAD):
        status, out, err = call(*words)
    assert status == 0
    found = rows_of(out)
    assert [row["line"] for row in found] == [1, 2, 3, 4, 5, 6]
    assert ["error" in row for row in found] == [False, True, True, False, True, False]
    assert "byte 0xff" in found[2]["error"]
    assert [line.split(":")[1] for line in err[:3]] == [" line 2", " line 3", " line 5"]
    assert err[3:] == ["latticegnn: 6 lines, 3 of them bad"]
    Path("bad.txt").write_bytes(BAD)
    assert call(*words, "--input", "bad.txt", "--output", "bad.npy")[0] == 0
    matrix = np.load("bad.npy")
    assert np.isnan(matrix).all(axis=1).tolist() == [False, True, True, False, True, False]
    np.testing.assert_allclose(matrix[3], predictor.predict(["a bird"])[0]["embedding"], atol=1e-6)


def test_many_bad_lines_are_not_told_one_by_one(saved, call, monkeypatch) -> None:
    with piped(monkeypatch, 500 * b"\n"):
        status, out, err = call("predict", "--model", saved.folder, "--on_error", "skip")
    assert (status, len(out), len(err)) == (0, 500, 21)
    assert err[-1] == "latticegnn: 500 lines, 500 of them bad"


def test_bad_vectors_are_told_by_their_row(here, saved, call) -> None:
    vectors = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    vectors[2, 4], vectors[4] = np.nan, 0
    np.save("in.npy", vectors)
    words = ("predict", "--model", saved.folder, "--input", "in.npy")
    status, out, err = call(*words)
    assert (status, len(out)) == (2, 2)
    assert "in.npy, line 3: A vector must be finite" in err[0]
    status, out, _ = call(*words, "--on_error", "skip")
    assert ["error" in row for row in rows_of(out)] == [False, False, True, False, True]


def test_texts_that_are_cut_are_counted(saved, call, monkeypatch) -> None:
    with piped(monkeypatch, b"the cat\n" + 200 * b"dog " + b"\n"):
        status, out, err = call("predict", "--model", saved.folder)
    assert (status, len(out), err) == (0, 2, ["latticegnn: 2 lines, 1 texts longer than the teacher reads, and cut"])


def inputs_of(content: bytes | Path) -> Inputs:
    return Inputs(content if isinstance(content, Path) else io.BytesIO(content))


def run(
    predictor: lg.Predictor, content: bytes | Path, output: Path, resume: bool = False, batch_size: int = 8
) -> Summary:
    """What the command does, with a model that is loaded already."""
    identity = {"model": predictor.fingerprint, "output": "embedding"}
    opened = open_output(output, identity, predictor.dim, resume)
    try:
        return stream(predictor, lambda: inputs_of(content), opened, Wanted(), batch_size)
    finally:
        opened.close()


@pytest.fixture(scope="module")
def finished(predictor, tmp_path_factory) -> dict[str, Path]:
    """Outputs of a run that nothing broke off, by their suffix."""
    folder = tmp_path_factory.mktemp("finished")
    np.save(folder / "in.npy", predictor.teacher.encode(LINES))
    for suffix in (".jsonl", ".npy", ".safetensors"):
        run(predictor, folder / "in.npy", folder / f"out{suffix}")
    return {suffix: folder / f"out{suffix}" for suffix in (".jsonl", ".npy", ".safetensors")}


class Cut(Exception):
    """Breaks a run off."""


@pytest.mark.parametrize("suffix", [".jsonl", ".npy", ".safetensors"])
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_run_that_was_broken_off_ends_as_a_whole_one(suffix, predictor, finished, tmp_path_factory, data) -> None:
    """Broken off after any batch, before or after it is committed, and any bytes of the rest lost: nothing shows."""
    output = tmp_path_factory.mktemp("cut") / f"out{suffix}"
    inputs = finished[suffix].parent / "in.npy"
    stop, commits = data.draw(st.integers(1, 10)), data.draw(st.booleans())
    opened = open_output(output, {"model": predictor.fingerprint, "output": "embedding"}, predictor.dim)
    kept, count = opened.commit, 0

    def commit(lines: int, digest: str) -> None:
        nonlocal count
        count += 1
        if count == stop and not commits:
            raise Cut
        kept(lines, digest)
        if count == stop:
            raise Cut

    opened.commit = commit
    with pytest.raises(Cut):
        stream(predictor, lambda: Inputs(inputs), opened, Wanted(), 8)
    opened.close()
    part = output if suffix == ".jsonl" else output.with_name(f"{output.name}.part")
    size = part.stat().st_size
    os.truncate(part, data.draw(st.integers(max(0, size - 5000), size)))
    summary = run(predictor, inputs, output, resume=True, batch_size=data.draw(st.integers(1, 80)))
    assert summary.lines == 75
    assert summary.before <= 8 * (stop if commits else stop - 1)
    if suffix == ".jsonl":
        found, whole = (rows_of(file.read_bytes().splitlines()) for file in (output, finished[suffix]))
        assert [row["line"] for row in found] == list(range(1, 76))
        matrices = [np.array([row["embedding"] for row in rows]) for rows in (found, whole)]
    else:
        matrices = [lg.data.load_vectors(file) for file in (output, finished[suffix])]
    np.testing.assert_allclose(*matrices, rtol=0, atol=1e-6)


def test_a_whole_output_is_gone_on_with_where_its_input_grew(here, predictor) -> None:
    for suffix in (".jsonl", ".npy"):
        output = here / f"out{suffix}"
        assert run(predictor, b"the cat\na dog", output, resume=True).before == 0, "nothing is there: it begins"
        before = output.read_bytes()
        assert run(predictor, b"the cat\na dog\n", output, resume=True).before == 2
        assert output.read_bytes() == before
        summary = run(predictor, b"the cat\na dog\nthe mat\n", output, resume=True)
        assert (summary.before, summary.lines) == (2, 3)
    assert len((here / "out.jsonl").read_bytes().splitlines()) == 3
    found = np.load(here / "out.npy")
    np.testing.assert_allclose(found[2], predictor.predict(["the mat"])[0]["embedding"], atol=1e-6)


def test_a_line_that_was_bad_may_be_mended_and_gone_on_from(here, saved, call) -> None:
    lines = WHOLE.splitlines()
    lines[40] = b""
    Path("in.txt").write_bytes(b"\n".join(lines))
    words = ("predict", "--model", saved.folder, "--input", "in.txt", "--output", "out.jsonl", "--batch_size", 8)
    status, _, err = call(*words)
    assert (status, len(Path("out.jsonl").read_bytes().splitlines())) == (2, 40)
    assert "in.txt, line 41" in err[0]
    status, _, err = call(*words)
    assert status == 2
    assert "an unfinished output is not written over; out.jsonl has 40 lines of one; go on with --resume" in err[0]
    Path("in.txt").write_bytes(WHOLE)
    status, _, err = call(*words, "--resume")
    assert (status, err) == (0, ["latticegnn: 75 lines, 40 of them by an earlier run"])
    assert [row["line"] for row in rows_of(Path("out.jsonl").read_bytes().splitlines())] == list(range(1, 76))
    assert call(*words)[0] == 0, "a whole one is written over"


def test_what_does_not_belong_together_is_not_gone_on_with(here, saved, call, save_lattice) -> None:
    words = ("predict", "--input", "in.txt", "--output", "out.jsonl", "--resume")
    assert call(*words, "--model", saved.folder)[0] == 0
    kept = Path("out.jsonl").read_bytes()

    def refused(*more: object, said: tuple[str, ...]) -> None:
        status, out, err = call(*words, *more)
        assert (status, out, len(err)) == (2, [], 1), err
        for part in said:
            assert part in err[0]

    own = ("--model", saved.folder)
    refused(*own, "--k", 3, said=("goes on with what it began with", "differs in k: [5] then, [3] now", "restore that"))
    refused(*own, "--as", "embedding", said=("differs in output", "'answers'", "restore that"))
    shutil.copytree(saved.folder, "other")
    save_lattice(Path("other"), channels=5)
    refused("--model", "other", said=("differs in model", "now", "write to another file"))
    Path("in.txt").write_bytes(b"another " + WHOLE)
    refused(*own, said=("the first 75 lines of in.txt have changed since", "restore them"))
    Path("in.txt").write_bytes(WHOLE)
    Path("out.jsonl").write_bytes(kept.replace(b'{"line": 3,', b'{"line": 4,'))
    refused(*own, said=("every line is its own", "out.jsonl, line 3 is", "write to another file"))
    Path("out.jsonl.progress.json").write_text("{")
    refused(*own, said=("must say how far out.jsonl has come", "cannot be read", "delete both"))
    Path("out.jsonl.progress.json").unlink()
    refused(*own, said=("the file it keeps beside it", "has no out.jsonl.progress.json", "leave --resume out"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--text", "a", "--input", "in.txt"), ("inputs come from one place", "leave one out")),
        (("--input", "none.txt"), ("a file that exists", "none.txt", "check the path")),
        (("--input", "in.csv"), ("suffix must be one of", "in.csv", "name the format")),
        (("--text", "a", "--output", "out.csv"), ("an output ends in .jsonl", "out.csv for answers", "rename it")),
        (("--text", "a", "--output", "out.npy"), ("for embeddings in .npy", "out.npy for answers", "rename it")),
        (
            ("--text", "a", "--output", "none/out.jsonl"),
            ("a folder that exists", "none/out.jsonl", "create none"),
        ),
        (("--text", "a", "--as", "text"), ("need a model with a text decoder", "has none", "Ask for")),
        (("--text", "a", "--as", "vector"), ("as must be one of embedding, text, answers", "vector", "--help")),
        (("--text", "a", "--k", "0"), ("k counts answers", "got 0", "5 is the default")),
        (("--text", "a", "--batch_size", "0"), ("at least 1", "got 0", "64 is the default")),
        (("--resume",), ("from a file", "got none", "--input")),
        (("--text", "a", "--answers", "none"), ("an answer index is a folder", "none has no", "latticegnn index")),
        (("--text", "a", "--model", "none"), ("a saved model's", "none is neither", "runs/latest")),
        (("--text", "a", "--generation.strategy", "best"), ("greedy, beam, sample", "best", "--help")),
        (("--input", "narrow.npy"), ("the model's dimension, 32", "narrow.npy has 7", "embed with the teacher")),
        (("--input", "in.txt", "--format", "vectors"), ("must be a .npy", "in.txt", "numpy.save")),
        (("--input", "in.txt", "--field", "q"), ("a field belongs to jsonl", "'q'", "leave it out")),
        (("--text", "a", "--teacher", "./none"), ("must be an existing directory", "./none", "Check the path")),
    ],
)
def test_a_mistake_is_told_in_one_line(words, said, here, saved, call) -> None:
    np.save("narrow.npy", np.ones((2, 7), dtype=np.float32))
    model = () if "--model" in words else ("--model", saved.folder)
    status, out, err = call("predict", *model, *words)
    assert (status, out, len(err)) == (2, [], 1), err
    for part in said:
        assert part in err[0]
    assert {file.name for file in here.iterdir()} == {"in.txt", "narrow.npy"}, "nothing was written"


def test_an_index_of_ones_own_answers(here, saved, predictor, call) -> None:
    status, out, err = call("index", "--model", saved.folder, "--input", "in.txt", "--output", "mine")
    assert (status, out, err) == (0, [b"mine"], [])
    index = lg.AnswerIndex.load(Path("mine"))
    assert (index.texts, index.titles, index.fingerprint) == (LINES, None, predictor.teacher.fingerprint)
    np.testing.assert_allclose(index.vectors, predictor.teacher.encode(LINES), atol=1e-6)
    words = ("predict", "--model", saved.folder, "--text", LINES[30], "--k", 1, "--answers", "mine")
    found = [json.loads(call(*words, "--backend", backend)[1][0]) for backend in ("exact", "faiss")]
    assert found[0] == found[1]
    assert set(found[0]["answers"][0]) == {"text", "score", "index"}
    Path("bad.txt").write_bytes(b"one\n\n")
    status, _, err = call("index", "--model", saved.folder, "--input", "bad.txt", "--output", "bad")
    assert status == 2
    assert "answers must be texts; line 2 is none" in err[0]


def test_a_full_disk_costs_nothing(here, saved, call) -> None:
    """A limit on the size of files stands for a disk without room: both fail a write with an OSError."""
    words = ("predict", "--model", saved.folder, "--input", "in.txt", "--output", "out.jsonl", "--batch_size", 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        status, _, err = call(*words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 2
    assert "out.jsonl failed after" in err[0]
    assert "File too large" in err[0]
    assert "make room; go on with --resume" in err[0]
    assert call(*words, "--resume")[0] == 0
    assert [row["line"] for row in rows_of(Path("out.jsonl").read_bytes().splitlines())] == list(range(1, 76))


def test_a_reader_that_goes_away_ends_it(here, saved, call) -> None:
    os.mkfifo("pipe")
    Path("many.txt").write_bytes(WHOLE * 20)

    def read_a_little() -> None:
        with open("pipe", "rb") as pipe:
            pipe.readline()

    reader = threading.Thread(target=read_a_little)
    reader.start()
    status, _, err = call("predict", "--model", saved.folder, "--input", "many.txt", "--output", "pipe")
    reader.join()
    assert status == 141
    assert "the reader of the output is gone after" in err[0]
