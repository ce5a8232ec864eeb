"""Rows of text from a file's lines: plain, JSONL, CSV and dialogues. A row that cannot be used is refused by its place.

Every reader takes the file's lines as `lines_of` yields them, the path for its messages, and a count of what it skips:
`"empty"` (a blank line, or a row with a text that is blank) and `"short dialogue"` (fewer than two turns).
"""

import csv
import hashlib
import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from latticegnn.data.partition import Row

Lines = Iterable[tuple[int, str]]
Turn = tuple[str | None, str]
"""Speaker, if known, and text."""

_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_SPEAKER = re.compile(r"([^:]+):(?:\s+(.*))?")


def text_rows(lines: Lines, skipped: Counter[str]) -> Iterator[Row]:
    """Yield each line, stripped: a text and its own group."""
    for _, line in lines:
        text = line.strip()
        yield from _rows(text, None, text, skipped)


def json_records(lines: Lines, path: Path, skipped: Counter[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the object of each line of a JSONL file."""
    for number, line in lines:
        place = f"{path}, line {number}"
        if not line.strip():
            skipped["empty"] += 1
            continue
        try:
            record = json.loads(line.rstrip())
        except (ValueError, RecursionError) as error:
            column = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise ValueError(
                f"Each line of a JSONL file must be one JSON object; {place}{column} is not valid JSON ({reason}). "
                "Correct it, or write the file again with one json.dumps a line."
            ) from None
        if not isinstance(record, dict):
            raise ValueError(
                f"Each line of a JSONL file must be one JSON object; {place} holds {_shown(record)}. "
                'Give the text a name: {"input": "…"}.'
            )
        yield place, record


def csv_records(
    lines: Lines, path: Path, skipped: Counter[str], delimiter: str, names: list[str]
) -> Iterator[tuple[str, dict[str, str]]]:
    r"""Yield the place and the cells by column of each row of a CSV file, whose first row is its header.

    Quotes are doubled inside of quoted cells, which may hold line ends. A cell may have as many characters as the csv
    module takes: 131,072, or what ``csv.field_size_limit`` was set to.

    Args:
        lines: The file's lines.
        path: Their file.
        skipped: Added to.
        delimiter: ``","`` or ``"\t"``.
        names: Columns that the header must hold, each once.
    """
    reader = csv.reader((line for _, line in lines), delimiter=delimiter, strict=True)
    header: list[str] = []
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"Each row of a CSV file must be well-formed; the row that starts at {place} is not ({error}). "
                "Quote cells that hold quotes, delimiters or line ends, and double the quotes inside of them."
            ) from None
        if cells is None:
            return
        if not cells:
            skipped["empty"] += 1
        elif not header:
            header = cells
            for name in names:
                if header.count(name) != 1:
                    raise ValueError(
                        f"A CSV file's header must hold each column asked for once; {place} holds {name!r} "
                        f"{header.count(name)} times among {header[:20]}. Name a column that is there, or correct the "
                        f"header (the delimiter is {delimiter!r})."
                    )
        elif len(cells) != len(header):
            raise ValueError(
                f"Each row of a CSV file must have as many cells as the header; {place} has {len(cells)}, the header "
                f"{len(header)}. Quote cells that hold the delimiter {delimiter!r} or line ends."
            )
        else:
            yield place, dict(zip(header, cells, strict=True))


def record_rows(
    records: Iterable[tuple[str, dict[str, Any]]],
    skipped: Counter[str],
    input: str,
    target: str | None,
    group: str | None,
) -> Iterator[Row]:
    """Yield a row of each record's fields of these names; without a name for it, the group is the input."""
    for place, record in records:
        question = _text(record, input, place)
        answer = None if target is None else _text(record, target, place)
        yield from _rows(question, answer, question if group is None else _name(record, group, place), skipped)


def json_dialogues(
    records: Iterable[tuple[str, dict[str, Any]]], turns: str, group: str | None
) -> Iterator[tuple[str | None, list[Turn]]]:
    """Yield each record's group, if asked for, and its list of turns."""
    for place, record in records:
        found = _reached(record, turns, place)
        if not isinstance(found, list):
            raise ValueError(
                f"A dialogue must be a list of turns; {place}, field {turns!r} is {_shown(found)}. "
                "Name the field that holds the list."
            )
        name = None if group is None else _name(record, group, place)
        yield name, [_turn(turn, f"{place}, turn {number}") for number, turn in enumerate(found, start=1)]


def plain_dialogues(lines: Lines, path: Path, speakers: bool) -> Iterator[tuple[None, list[Turn]]]:
    """Yield the turns of each dialogue of a text file: a line a turn, a blank line after each dialogue.

    Args:
        lines: The file's lines.
        path: Their file.
        speakers: Whether each line starts with its speaker, as in ``"Ann: Good morning."``; that is then no text.
    """
    turns: list[Turn] = []
    for number, line in itertools.chain(lines, [(0, "")]):
        line = line.strip()
        if not line:
            if turns:
                yield None, turns
            turns = []
        elif not speakers:
            turns.append((None, line))
        elif match := _SPEAKER.fullmatch(line):
            turns.append((match[1].strip(), match[2] or ""))
        else:
            raise ValueError(
                f"With `speakers`, each turn must start with its speaker, as in 'Ann: Good morning.'; {path}, line "
                f"{number} is {line[:80]!r}. Write the speaker before it, or leave `speakers` out."
            )


def dialogue_rows(dialogues: Iterable[tuple[str | None, list[Turn]]], skipped: Counter[str]) -> Iterator[Row]:
    """Yield a row of each two adjacent turns: question, answer, and the dialogue as their group.

    Adjacent turns of one known speaker are one turn, joined by a line end. The name of a group that has none of its own
    is a hash of the turns, so that it does not depend on the dialogue's place in the file.
    """
    for group, turns in dialogues:
        texts = _joined(turns)
        if len(texts) < 2:
            skipped["short dialogue"] += 1
        name = group or "dialogue:" + hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        for question, answer in itertools.pairwise(texts):
            yield from _rows(question, answer, name, skipped)


def _joined(turns: list[Turn]) -> list[str]:
    parts: list[list[str]] = []
    last = None
    for speaker, text in turns:
        if speaker is None or speaker != last:
            parts.append([])
        parts[-1].append(text)
        last = speaker
    return ["\n".join(text for text in texts if text.strip()) for texts in parts]


def _turn(turn: Any, place: str) -> Turn:
    if isinstance(turn, str):
        return None, _text({"turn": turn}, "turn", place)
    texts = [name for name in ("text", "content") if isinstance(turn, dict) and name in turn]
    speakers = [name for name in ("role", "speaker") if isinstance(turn, dict) and name in turn]
    if len(texts) != 1 or len(speakers) > 1:
        raise ValueError(
            "A turn must be a string, or an object with either 'text' or 'content' and at most one of 'role' and "
            f"'speaker'; {place} is {_shown(turn)}. Rename or remove its fields."
        )
    return _text(turn, speakers[0], place) if speakers else None, _text(turn, texts[0], place)


def _rows(input: str, target: str | None, group: str, skipped: Counter[str]) -> Iterator[Row]:
    if input.strip() and (target is None or target.strip()):
        yield Row(input, target, group)
    else:
        skipped["empty"] += 1


def _reached(record: dict[str, Any], name: str, place: str) -> Any:
    """Return the field of exactly this name, or the one that its dots lead to."""
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            raise ValueError(
                f"Each row must have the field {name!r}; {place} has no {part!r} in {_shown(value)}. "
                "Add it, or name another field (a dot leads into an object)."
            )
        value = value[part]
    return value


def _text(record: dict[str, Any], name: str, place: str) -> str:
    value = _reached(record, name, place)
    if not isinstance(value, str):
        raise ValueError(
            f"A text must be a string; {place}, field {name!r} is {_shown(value)}. Put it in quotes, or name "
            "another field."
        )
    if found := _NO_TEXT.search(value):
        raise ValueError(
            f"A text must be Unicode characters without NUL; {place}, field {name!r} holds "
            f"U+{ord(found[0]):04X} at character {found.start() + 1}. Remove it (half of a surrogate pair comes of a "
            "text cut inside of an emoji)."
        )
    return value


def _name(record: dict[str, Any], name: str, place: str) -> str:
    group = _text(record, name, place)
    if not group.strip():
        raise ValueError(
            f"A group must name a document; {place}, field {name!r} is blank. Fill it in, or leave `group` out."
        )
    return group


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return f"an object of the fields {list(value)[:20]}"
    return f"a list of {len(value)}" if isinstance(value, list) else json.dumps(value)[:80]
