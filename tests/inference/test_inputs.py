"""What is read, and what is wrong with what cannot be."""

import gzip
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from latticegnn.inference import Inputs

LONG = b"x" * 1_000_001

FAULTS: dict[str, tuple[str, bytes, int, str]] = {  # format, content, line, part of what is said
    "not UTF-8": ("text", b"one\ntw\xff\nthree\n", 2, "byte 0xff at column 3"),
    "half a character": ("text", b"one\n\xe2\x82\n", 2, "must be UTF-8"),
    "UTF-16": ("text", "one\n".encode("utf-16-be"), 1, "holds one at column 1"),
    "a NUL": ("text", b"one\ntwo\nth\0ree\n", 3, "no NUL character"),
    "a long line": ("text", b"one\n" + LONG + b"\nthree\n", 2, "at most 1,000,000 characters"),
    "a very long line": ("text", b"one\n" + 9 * LONG + b"\nthree\n", 2, "at most 1,000,000 characters"),
    "a long last line": ("text", b"one\n" + 5 * LONG, 2, "at most 1,000,000 characters"),
    "no JSON": ("jsonl", b'{"text": "a"}\nnonsense\n', 2, "line 2, column 1 is not valid JSON"),
    "half of JSON": ("jsonl", b'{"text": "a"}\n{"text": "b', 2, "is not valid JSON"),
    "two objects": ("jsonl", b'{"text": "a"} {"text": "b"}\n', 1, "is not valid JSON"),
    "a list": ("jsonl", b'["a"]\n', 1, "holds a list of 1"),
    "a string": ("jsonl", b'"a"\n', 1, "one JSON object"),
    "a null": ("jsonl", b"null\n", 1, "holds null"),
    "no field": ("jsonl", b'{"text": "a"}\n{"txt": "b"}\n', 2, "must have the field 'text'"),
    "a number": ("jsonl", b'{"text": 7}\n', 1, "field 'text' is 7"),
    "a null field": ("jsonl", b'{"text": null}\n', 1, "field 'text' is null"),
    "a list of texts": ("jsonl", b'{"text": ["a", "b"]}\n', 1, "is a list of 2"),
    "half a surrogate": ("jsonl", b'{"text": "a \\ud83d"}\n', 1, "U+D83D at character 3"),
    "an escaped NUL": ("jsonl", b'{"text": "a\\u0000"}\n', 1, "U+0000 at character 2"),
    "deep nesting": ("jsonl", b'{"text": ' + 100_000 * b"[" + b"\n", 1, "is not valid JSON"),
    "JSON in latin-1": ("jsonl", '{"text": "ä"}\n'.encode("latin-1"), 1, "byte 0xe4"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_line_is_told_by_its_number(name) -> None:
    format, content, line, said = FAULTS[name]
    items = list(Inputs(io.BytesIO(content), format))
    bad = [item for item in items if item.fault is not None]
    assert [(item.line, item.value) for item in bad] == [(line, None)]
    assert said in bad[0].fault
    assert [item.line for item in items] == list(range(1, len(items) + 1))
    assert len(items) == len(content.splitlines()), "what follows is read"


def test_lines_are_stripped_and_blank_ones_kept(tmp_path) -> None:
    content = "\ufeff one \r\n\n\t\ntwo\u2028three\rfour\nlast".encode()
    values = ["one", "", "", "two\u2028three\rfour", "last"]
    (tmp_path / "a.txt").write_bytes(content)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(content))
    for source in (io.BytesIO(content), tmp_path / "a.txt", tmp_path / "a.txt.gz"):
        assert [item.value for item in Inputs(source)] == values
    assert [item.value for item in Inputs(io.BytesIO("ä\n".encode("latin-1")), encoding="latin-1")] == ["ä"]


def test_jsonl_takes_text_or_input_or_a_named_field(tmp_path) -> None:
    rows = [{"text": "a", "input": "b"}, {"input": "c"}, {"text": " d\n"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [item.value for item in Inputs(tmp_path / "a.jsonl")] == ["a", "c", " d\n", ""]
    (tmp_path / "b.ndjson").write_text('{"data": {"q": "e"}}')
    assert [item.value for item in Inputs(tmp_path / "b.ndjson", field="data.q")] == ["e"]


def test_rows_of_vectors_come_in_order(tmp_path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3000, 3)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    np.savez(tmp_path / "v.npz", a=vectors[:5], b=vectors)
    save_file({"v": vectors}, tmp_path / "v.safetensors")
    for file, field in (("v.npy", None), ("v.npz", "b"), ("v.safetensors", None)):
        inputs = Inputs(tmp_path / file, field=field)
        items = list(inputs)
        assert (inputs.dim, [item.line for item in items]) == (3, list(range(1, 3001)))
        np.testing.assert_array_equal(np.stack([item.value for item in items]), vectors)


def test_the_digest_is_of_what_was_read() -> None:
    def digest(content: bytes, lines: int) -> str:
        inputs = Inputs(io.BytesIO(content))
        for _ in range(lines):
            next(inputs)
        return inputs.digest()

    assert digest(b"a\nb\nc", 2) == digest(b"a\nb\nx", 2) == digest(b"a\nb", 2) != digest(b"a\nc\nc", 2)
    assert digest(b"a\nb", 1) != digest(b"a\nb", 2)
    assert digest(b"a\xff\nb", 1) != digest(b"a\xfe\nb", 1)


def test_what_is_no_input_is_refused_at_once(tmp_path, refuses) -> None:
    for name in ("a.txt", "a.jsonl"):
        with refuses("from a file that exists", str(tmp_path / name), "check the path", FileNotFoundError):
            Inputs(tmp_path / name)
    with refuses("must be an existing file", "a.npy", "Check the path", FileNotFoundError):
        Inputs(tmp_path / "a.npy")
    with refuses("suffix must be one of .txt, .jsonl", "a.csv", "name the format"):
        Inputs(tmp_path / "a.csv")
    with refuses("format must be one of", "'csv'", "choose one"):
        Inputs(tmp_path / "a.txt", "csv")
    with refuses("a field belongs to jsonl and vectors", "'text' with the format text", "leave it out"):
        Inputs(io.BytesIO(b""), field="text")
    with refuses("read from a file", "got standard input", "--input"):
        Inputs(io.BytesIO(b""), "vectors")
    with refuses("`encoding` must be", "'utf-16'", "iconv"):
        Inputs(io.BytesIO(b""), encoding="utf-16")
    np.save(tmp_path / "v.npy", np.arange(4))
    with refuses("floating-point matrix", "[4]", "Stack"):
        Inputs(tmp_path / "v.npy")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\ntwo\n" * 1000)[:-9])
    with refuses("must be a whole gzip file", "a.txt.gz", "Copy or compress"):
        list(Inputs(tmp_path / "a.txt.gz"))


class Endless(io.RawIOBase):
    """A stream of one line that has no end, up to some bytes."""

    def __init__(self, size: int) -> None:
        self.left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count = min(len(buffer), self.left)
        self.left -= count
        buffer[:count] = b"x" * count
        return count


def test_an_endless_line_is_not_held() -> None:
    tracemalloc.start()
    (item,) = Inputs(io.BufferedReader(Endless(200_000_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "more" in item.fault
    assert peak < 30_000_000


def test_a_format_is_found_by_the_suffix() -> None:
    for name in ("a.TXT", "a.txt.GZ"):
        with pytest.raises(FileNotFoundError):
            Inputs(Path(name))
