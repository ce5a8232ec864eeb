"""Files of word vectors: gone through before they are read, so that gensim meets only sound ones."""

import logging
import mmap
import re
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from latticegnn.data.rows import reading, require_memory

if TYPE_CHECKING:
    from gensim.models import KeyedVectors

Format = Literal["auto", "word2vec-binary", "word2vec-text", "glove"]

LINE_BYTES = 2**20
"""Longest line of a text format; one of 10,000 numbers is a tenth of it."""

WORD_BYTES = 300
"""Memory that a word takes beside its vector, roughly."""

_HEADER = re.compile(rb"\s*([+-]?\d{1,18})\s+([+-]?\d{1,18})\s*")
_TELLING = 4  # so many floats whose bytes all happen to be digits are never met


def survey(path: Path, format: Format, limit: int | None) -> tuple[Format, int, int]:
    """Go through a file without keeping anything: return its format, the rows to read and their width."""
    if not path.is_file():
        raise FileNotFoundError(
            f"Word vectors must be an existing file; received {str(path)!r}, which is not one. Check the path."
        )
    if path.suffix in (".gz", ".bz2", ".xz", ".zst", ".zip"):
        raise ValueError(f"Word vectors must not be packed; received {str(path)!r}. Unpack the file first.")
    with path.open("rb") as stream:
        first = stream.readline(LINE_BYTES)
    if not first:
        raise ValueError(f"Word vectors must be a file of at least one word; {path} is empty. Get it again.")
    header = _HEADER.fullmatch(first)
    if format == "auto":
        format = "word2vec-binary" if path.suffix == ".bin" else "word2vec-text" if header else "glove"
    if format == "glove":
        return format, *_survey_text(path, format, 0, None, len(first.rstrip().split(b" ")) - 1, limit)
    if header is None:
        raise ValueError(
            f"A word2vec file must begin with a line of two numbers, words and dimensions; {path} begins with "
            f"{first[:40]!r}. Set format to what it is: one of {list(get_args(Format))}."
        )
    count, dim = int(header[1]), int(header[2])
    # A word and a separator take two bytes at least; a number takes four, or as text a digit and a space.
    least = count * (2 + dim * (4 if format == "word2vec-binary" else 2)) - 1 + len(first)
    size = path.stat().st_size
    if count < 1 or dim < 1 or size < least:
        raise ValueError(
            f"A {format} file must be as large as its header says; {path} promises {count} words of {dim} dimensions, "
            f"both at least 1, {max(least, 0):,} bytes or more, and has {size:,}. Get it again, or correct `format`."
        )
    walk = _survey_binary if format == "word2vec-binary" else _survey_text
    return format, *walk(path, format, len(first), count, dim, limit)


def load(path: Path, format: Format, rows: int, dim: int) -> "KeyedVectors":
    """Read the first rows of a file that `survey` went through; a word that is no UTF-8 holds surrogates."""
    try:
        from gensim.models import KeyedVectors
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Word vectors are read by gensim; {path} holds some, and gensim is not installed; "
            "pip install 'latticegnn[words]'."
        ) from error
    require_memory(rows * (4 * dim + WORD_BYTES), path, "Give a smaller `limit`")
    options = {"binary": format == "word2vec-binary", "no_header": format == "glove", "limit": rows}
    noise = logging.getLogger("gensim")
    level = noise.level
    noise.setLevel(logging.ERROR)  # it warns of each repeated word
    with warnings.catch_warnings(), np.errstate(over="ignore"):  # what overflows becomes infinite and is dropped
        warnings.simplefilter(
            "ignore", ResourceWarning
        )  # gensim leaves GloVe's files to be closed by whoever cleans up
        try:
            return KeyedVectors.load_word2vec_format(str(path), unicode_errors="surrogateescape", **options)
        except ValueError as error:
            error.__traceback__ = None  # it would keep the file open
        finally:
            noise.setLevel(level)
    with reading(path, "Word vectors must be a sound file", "Get it again"):
        line, value = _no_number(path, 0 if format == "glove" else 1)
    raise ValueError(
        f"All that follows a word must be numbers; {path}, line {line}, has {value!r}. Correct or remove that line."
    )


def _survey_text(
    path: Path, format: Format, start: int, count: int | None, dim: int, limit: int | None
) -> tuple[int, int]:
    """Return the rows to read and their width."""
    rows, above = 0, 1 if start else 0
    with path.open("rb") as stream:
        stream.seek(start)
        for line in iter(partial(stream.readline, LINE_BYTES), b""):
            if rows == limit:
                return rows, dim
            word, *values = line.rstrip().split(b" ")
            if not word or len(values) != dim or not values:
                raise ValueError(
                    f"A row of a {format} file must be a word and {max(dim, 1)} numbers between single spaces; {path}, "
                    f"line {above + rows + 1}, has {len(values)} after {word[:40]!r}. Correct that line, or `format`."
                )
            rows += 1
    _check_count(path, rows, count)
    return rows, dim


def _survey_binary(path: Path, format: Format, start: int, count: int, dim: int, limit: int | None) -> tuple[int, int]:
    """Return the rows to read and their width."""
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        size = len(content)
        for row in range(count if limit is None else min(count, limit)):
            space = content.find(b" ", start)
            word = content[start:space].lstrip(b"\n") if 0 <= space < start + LINE_BYTES else b""
            start = space + 1 + 4 * dim
            texts = row == 0 and dim >= _TELLING and not content[space + 1 : start].strip(b"0123456789+-.eE \r\n")
            if not word or b"\n" in word or start > size or texts:
                raise ValueError(
                    f"A row of a {format} file must be a word, a space and {dim} numbers of 4 bytes; {path}, row "
                    f"{row + 1} of {count}, is not ({word[:40]!r}). Get the file again, or correct `format`."
                )
        rows = row + 1
        if rows == count and content[start : start + 2].strip(b"\n"):
            _check_count(path, None, count)
    return rows, dim


def _check_count(path: Path, rows: int | None, count: int | None) -> None:
    if count is not None and rows != count:
        raise ValueError(
            f"A word2vec file must hold as many words as its first line says; {path} says {count} and has "
            f"{'more' if rows is None else rows}. Correct the first line, or get the file again."
        )


def _no_number(path: Path, skip: int) -> tuple[int, str]:
    """Return the first line with a value that is no number, from 1, and the value."""
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            for value in line.rstrip().split(b" ")[1:] if number > skip else []:
                text = value.decode(errors="surrogateescape")
                try:
                    np.float32(text)
                except ValueError:
                    return number, text
    raise ValueError("no line was found to blame")
