"""The lines of a text file, gzipped or not, decoded one at a time; one that cannot be used is refused by its place."""

import codecs
import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LONGEST_LINE = 1_000_000
"""Most characters that a line may have, its end left out: what is read at once stays small."""

_LONGEST_BYTES = 4 * LONGEST_LINE  # no encoding of text in ASCII-compatible bytes takes more of them for a character
_LONGEST_READ = _LONGEST_BYTES + 8  # room for a byte-order mark and the end
_ASCII = bytes(range(128))


def lines_of(path: Path, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    r"""Yield each line of a file with its number, from 1; one line is held at a time.

    A line ends with ``\n`` alone, so that ``\r`` and the Unicode separators stay inside of a text; the end is kept. A
    byte-order mark of UTF-8 at the start is left out. A name that ends in ``.gz`` is unpacked.

    Args:
        path: The file, which must exist.
        encoding: As Python names it; one in which ASCII is itself (see `check_encoding`).

    Raises:
        ValueError: When a line holds bytes that are not of the encoding, a NUL, or more than `LONGEST_LINE` characters,
            or when a gzip file is damaged or cut short. The line is named.
    """
    with open_binary(path) as file:
        for number, raw in raw_lines(file, str(path)):
            yield number, decoded(raw, encoding, f"{path}, line {number}")


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked where its name ends in ``.gz``."""
    opened: Any = gzip.GzipFile(path) if path.suffix.lower() == ".gz" else path.open("rb")
    return opened


def raw_lines(file: IO[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    r"""Yield the number, from 1, and the bytes of each line; a byte-order mark of UTF-8 at the start is left out.

    Of a line that is longer than `decoded` takes, no more is held than shows that.

    Args:
        file: Read from where it stands.
        name: What errors call it.

    Raises:
        ValueError: When a gzip file is damaged or cut short.
    """
    for number in itertools.count(1):
        try:
            raw = file.readline(_LONGEST_READ)
            rest = raw
            while len(rest) == _LONGEST_READ and not rest.endswith(b"\n"):
                rest = file.readline(_LONGEST_READ)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"A file named .gz must be a whole gzip file; {name}, line {number} cannot be unpacked ({error}). "
                "Copy or compress the file again."
            ) from None
        if not raw:
            return
        yield number, raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw


def check_encoding(encoding: str) -> None:
    """Refuse what is no encoding of text, or one whose line ends are not ASCII's single byte."""
    try:
        fits = _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except (LookupError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "`encoding` must be a text encoding in which ASCII characters are their own bytes, as utf-8, latin-1 or "
            f"shift_jis; received {encoding!r}. Convert the file, e.g. `iconv -f utf-16 -t utf-8`."
        )


def decoded(raw: bytes, encoding: str, place: str) -> str:
    """Decode a line of `raw_lines`; one that cannot be used raises a ValueError that names its place."""
    nul = raw.find(b"\0")
    if nul >= 0:
        raise ValueError(
            f"A text must hold no NUL character; {place} holds one at column {nul + 1}. "
            "Remove it, or convert the file if it is UTF-16: `iconv -f utf-16 -t utf-8`."
        )
    size = len(raw.removesuffix(b"\n").removesuffix(b"\r"))
    if size <= _LONGEST_BYTES:
        try:
            line = raw.decode(encoding)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"A text corpus must be {encoding.upper()}; {place} holds byte 0x{raw[error.start]:02x} at column "
                f"{error.start + 1}. Convert the file, e.g. `iconv -f latin1 -t utf-8`, or name its `encoding`."
            ) from None
        size = len(line.removesuffix("\n").removesuffix("\r"))
        if size <= LONGEST_LINE:
            return line
    raise ValueError(
        f"A line must have at most {LONGEST_LINE:,} characters; {place} has more. "
        "Write one text a line, and cut a long one into several."
    )
