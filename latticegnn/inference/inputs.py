"""What is to be predicted, an item at a time: texts, JSONL or rows of vectors; a bad one is told, not raised."""

from __future__ import annotations

import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal, NamedTuple, get_args

import numpy as np

from latticegnn.data.lines import check_encoding, decoded, open_binary, raw_lines
from latticegnn.data.records import json_records, record_rows
from latticegnn.data.texts import SUFFIXES
from latticegnn.data.vectors import FORMATS, open_vectors

InputFormat = Literal["auto", "text", "jsonl", "vectors"]
INPUT_FORMATS = get_args(InputFormat)
FIELDS = ("text", "input")
"""Fields of a JSONL object that hold its text, unless another is named."""

CHUNK = 1024
"""Rows of vectors that are read at once."""


class Item(NamedTuple):
    """One input.

    Args:
        line: Its line, or its row of vectors, from 1.
        value: A text, or a vector [D]; None where it cannot be used.
        fault: Why not.
    """

    line: int
    value: str | np.ndarray | None
    fault: str | None = None


class Inputs(Iterator[Item]):
    r"""The items of a file or a pipe, read as they are asked for, in constant memory.

    Lines end with ``\n``; a text is stripped. Each line is an item, a blank one, too: what is put out stays aligned.

    Args:
        file: A file, packed by gzip or not, or an open binary stream.
        format: "text": a text a line. "jsonl": an object a line. "vectors": prepared embeddings, see `open_vectors`.
            "auto" goes by the suffix; of a stream it is "text".
        field: JSONL: the field of the text, "text" or else "input" unless named. Vectors: which array, where there are
            several.
        encoding: Of text and JSONL, see `check_encoding`.
        name: What errors call a stream.

    Attributes:
        dim: Of vectors; None of texts.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: For a suffix, format or encoding that is unknown, or a file that cannot be read; from the iterator,
            when a gzip file is damaged.
    """

    def __init__(
        self,
        file: Path | IO[bytes],
        format: InputFormat = "auto",
        field: str | None = None,
        encoding: str = "utf-8",
        name: str = "standard input",
    ) -> None:
        check_encoding(encoding)
        self._encoding = encoding
        self.name = str(file) if isinstance(file, Path) else name
        self._field, self._hash = field, hashlib.sha256()
        self.dim: int | None = None
        self.format = _format(file, format)
        if self.format == "text" and field is not None:
            raise ValueError(
                f"a field belongs to jsonl and vectors; got {field!r} with the format text; leave it out, or name the "
                "format."
            )
        if self.format == "vectors":
            if not isinstance(file, Path):
                raise ValueError("vectors are read from a file; got standard input; give the file with --input.")
            rows = open_vectors(file, field)
            self.dim = rows.shape[1]
            chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
            self._items = self._of_vectors(row for chunk in chunks for row in chunk)
        else:
            if isinstance(file, Path) and not file.is_file():
                raise FileNotFoundError(f"inputs are read from a file that exists; {file} is none; check the path.")
            self._items = self._of_lines(file)

    def __next__(self) -> Item:
        """Read the next item."""
        return next(self._items)

    def digest(self) -> str:
        """Return the sha256 of what was read so far, in hexadecimal digits."""
        return self._hash.hexdigest()

    def _of_vectors(self, rows: Iterator[np.ndarray]) -> Iterator[Item]:
        for number, row in enumerate(rows, start=1):
            self._hash.update(row.tobytes())
            yield Item(number, row)

    def _of_lines(self, file: Path | IO[bytes]) -> Iterator[Item]:
        with open_binary(file) if isinstance(file, Path) else contextlib.nullcontext(file) as stream:
            for number, raw in raw_lines(stream, self.name):
                self._hash.update(raw.removesuffix(b"\n") + b"\n")  # the last line may get its end later
                place = f"{self.name}, line {number}"
                try:
                    line = decoded(raw, self._encoding, place)
                    yield Item(number, line.strip() if self.format == "text" else self._text(line, number))
                except ValueError as error:
                    yield Item(number, None, str(error))

    def _text(self, line: str, number: int) -> str:
        """Return the text of a line of JSONL; "" for a blank one."""
        counts: Counter[str] = Counter()
        for place, record in json_records([(number, line)], Path(self.name), counts):
            field = self._field or next((name for name in FIELDS if name in record), FIELDS[0])
            return "".join(row.input for row in record_rows([(place, record)], counts, field, None, None))
        return ""


def _format(file: Path | IO[bytes], format: str) -> str:
    if format not in INPUT_FORMATS:
        raise ValueError(f"format must be one of {', '.join(INPUT_FORMATS)}; got {format!r}; choose one of them.")
    if format != "auto" or not isinstance(file, Path):
        return "text" if format == "auto" else format
    if file.suffix in FORMATS:
        return "vectors"
    suffix = (file.with_suffix("") if file.suffix.lower() == ".gz" else file).suffix.lower()
    found = SUFFIXES.get(suffix, "")
    if found not in INPUT_FORMATS:
        known = [end for end, kind in SUFFIXES.items() if kind in INPUT_FORMATS]
        raise ValueError(
            f"without a format, an input's suffix must be one of {', '.join([*known, *FORMATS])}; got {str(file)!r}; "
            "name the format: text, jsonl or vectors."
        )
    return found
