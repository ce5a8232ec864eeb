"""The user's own texts: plain lines, JSONL, CSV or dialogues, read a row at a time, and cut into a corpus."""

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from latticegnn.data import records
from latticegnn.data.lines import check_encoding, lines_of
from latticegnn.data.partition import Corpus, Row, check_limit, partition

TextFormat = Literal["auto", "text", "jsonl", "csv", "tsv", "dialogue"]

SUFFIXES = {".txt": "text", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
"""Suffix, before any `.gz` → format."""

DELIMITERS = {"csv": ",", "tsv": "\t"}

OPTIONS: dict[str, set[str]] = {
    "text": set(),
    "jsonl": {"input", "target", "group", "turns"},
    "csv": {"input", "target", "group"},
    "tsv": {"input", "target", "group"},
    "dialogue": {"speakers"},
}
"""Format → the options it takes."""


class TextRows(Iterator[Row]):
    """The rows of a file, read as they are asked for.

    Attributes:
        skipped: How much was skipped so far, by reason: `"empty"`, blank lines and rows with a blank text;
            `"short dialogue"`, dialogues of fewer than two turns.
    """

    def __init__(self, rows: Iterator[Row], skipped: Counter[str]) -> None:
        """Take the rows, and the count that reading them adds to."""
        self.skipped = skipped
        self._rows = rows

    def __next__(self) -> Row:
        """Read as far as the next row."""
        return next(self._rows)


def read_texts(
    path: str | Path,
    format: TextFormat = "auto",
    *,
    input: str | None = None,
    target: str | None = None,
    group: str | None = None,
    turns: str | None = None,
    speakers: bool = False,
    max_total_samples: int | None = None,
    encoding: str = "utf-8",
) -> TextRows:
    r"""Read a file of texts, one row (input, target, group) at a time; the file is never held.

    ======== ============== ============================================================================================
    format   suffix         rows
    ======== ============== ============================================================================================
    text     .txt           a text a line, stripped
    jsonl    .jsonl .ndjson an object a line, with named fields; with `turns`, a dialogue a line
    csv, tsv .csv .tsv      a header, then a row of cells each; quoted cells may hold line ends
    dialogue                a turn a line, stripped; a blank line between dialogues
    ======== ============== ============================================================================================

    A name may end in ``.gz`` besides. Texts of JSONL and CSV stay as they are, spaces included. Each two adjacent turns
    of a dialogue are a row, question → answer; adjacent turns of one speaker are first joined by a line end. The turns
    of a JSONL dialogue are strings, or objects with `text` or `content` and, if known, `role` or `speaker`.

    Blank texts and dialogues of fewer than two turns are skipped and counted; anything else that is no row is an error
    when it is reached. A line has at most 1,000,000 characters, a cell of CSV 131,072 (``csv.field_size_limit``).

    Args:
        path: The file.
        format: As in the table; `"auto"` takes it from the suffix.
        input: Field of the text; None for `"input"`. In JSONL, dots lead into nested objects, `"data.text"`,
            unless a field has that very name.
        target: Field of the answer; None where the input is its own target.
        group: Field that names the document of a row: rows of one document never lie in two splits. None: rows of one
            input, or of one dialogue, are a group.
        turns: Field of a JSONL dialogue's list of turns.
        speakers: Whether each turn of the format `"dialogue"` starts with its speaker, as in ``"Ann: Good morning."``.
            The speaker is then no part of the text, and joins adjacent turns; otherwise nothing is taken off.
        max_total_samples: Most rows to read, at least 1; no line after the last of them is read. None for all.
        encoding: Of the file, as Python names it; one in which ASCII is itself.

    Returns:
        An iterator of `Row`, with a count of what was skipped.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When an option does not fit the format; from the iterator, when a row cannot be used: the file, the
            line and the field are named.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A text corpus must be an existing file; received {str(path)!r}, which is not one. "
            "Check the path (it is relative to the working directory)."
        )
    if max_total_samples is not None and max_total_samples < 1:
        raise ValueError(
            f"`max_total_samples` must be at least 1; received {max_total_samples}. Give None to read all rows."
        )
    check_encoding(encoding)
    chosen = _format(path, format)
    _check_options(chosen, {"input": input, "target": target, "group": group, "turns": turns, "speakers": speakers})
    skipped: Counter[str] = Counter()
    lines = lines_of(path, encoding)
    if chosen == "text":
        rows = records.text_rows(lines, skipped)
    elif chosen == "dialogue":
        rows = records.dialogue_rows(records.plain_dialogues(lines, path, speakers), skipped)
    elif turns is not None:
        objects = records.json_records(lines, path, skipped)
        rows = records.dialogue_rows(records.json_dialogues(objects, turns, group), skipped)
    else:
        input = "input" if input is None else input
        if chosen == "jsonl":
            found = records.json_records(lines, path, skipped)
        else:
            names = [name for name in (input, target, group) if name is not None]
            found = records.csv_records(lines, path, skipped, DELIMITERS[chosen], names)
        rows = records.record_rows(found, skipped, input, target, group)
    return TextRows(itertools.islice(rows, max_total_samples), skipped)


def text_corpus(
    path: str | Path, format: TextFormat = "auto", *, limit: int | None = None, seed: int = 0, **options: Any
) -> Corpus:
    """Read a file of texts whole, as `read_texts` does, and cut it into three splits between its documents.

    A text that occurs in two groups, up to case, spacing and punctuation, is kept in the first one, before the splits
    are made; within a group of single rows too it is kept once, within a dialogue in every row.

    `limit` and `max_total_samples` differ: a limit reads the whole file and draws a fair sample of it, nested in that
    of a larger limit, without moving a row to another split. `max_total_samples` stops reading; the corpus then is the
    file's first rows, which are no fair sample of an ordered file, and their splits are their own.

    Args:
        path: As for `read_texts`.
        format: As for `read_texts`.
        limit: Greatest number of rows in all splits together, at least 3; None for all.
        seed: Decides the splits and the sample.
        options: Keyword arguments of `read_texts`; duplicates are among its `max_total_samples`.

    Returns:
        The corpus `"file"`, with a count of the texts that were skipped.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: As `read_texts` and its rows do, when there are no rows, when fewer than three groups remain, or
            when `limit` is below 3.
    """
    check_limit(limit)
    found = read_texts(path, format, **options)
    rows = list(found)
    if not rows:
        raise ValueError(
            f"A text corpus must hold text; {path} is empty, or all of it was skipped ({dict(found.skipped)}). "
            "Write one text per line into it, or one object, row or dialogue, as its format has it."
        )
    corpus = partition("file", rows, limit, seed, linked=options.get("turns") is not None or format == "dialogue")
    return replace(corpus, skipped=corpus.skipped + found.skipped)


def _format(path: Path, format: str) -> str:
    if format not in get_args(TextFormat):
        raise ValueError(
            f"`format` must be one of {list(get_args(TextFormat))}; received {format!r}. 'auto' goes by the suffix."
        )
    if format != "auto":
        return format
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"Without a `format`, the suffix of a text file must be one of {list(SUFFIXES)}, with or without .gz; "
            f"received {str(path)!r}. Rename the file, or name its format: {list(OPTIONS)}."
        )
    return SUFFIXES[suffix]


def _check_options(format: str, options: dict[str, str | bool | None]) -> None:
    given = {name: value for name, value in options.items() if value not in (None, False)}
    if not OPTIONS[format].issuperset(given):
        raise ValueError(
            f"The format {format!r} takes the options {sorted(OPTIONS[format])}; received {given}. "
            "Leave the others out, or name another format."
        )
    if "turns" in given and not {"input", "target"}.isdisjoint(given):
        raise ValueError(
            f"`turns` makes the inputs and targets of a dialogue; received {given}. Leave `input` and `target` out, or "
            "`turns`."
        )
