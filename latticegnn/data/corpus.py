"""Texts to learn from: the English prose that every CPython carries, or a text file of the user's.

Nothing is downloaded and nothing is imported: source files are parsed only.
"""

import functools
import hashlib
import logging
import re
import sysconfig
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from latticegnn.data.docstrings import documented_objects, sentences_of, topics

logger = logging.getLogger("latticegnn")

SPLIT_SHARES = {"train": 0.75, "validation": 0.125, "test": 0.125}
"""Share of the rows that each split of a whole corpus aims at."""

LARGEST_HELD_OUT = 0.1
"""Share of the rows a held-out split aims at that one document may bring to it."""

LIMIT_SHARES = {"train": 0.70, "validation": 0.10, "test": 0.20}
"""Share of the rows that each split of a limited corpus aims at: a small sample needs a larger test split."""


@dataclass(frozen=True)
class Split:
    """One part of a corpus: n rows.

    Args:
        inputs: n texts.
        targets: n texts, the answer of each row; None where the input is its own target (autoencoding).
        groups: n names of the documents that the rows come from.
    """

    inputs: list[str]
    targets: list[str] | None
    groups: list[str]

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return len(self.inputs)


@dataclass(frozen=True)
class Corpus:
    """Texts in three splits, cut between documents: a group lies in one split only, and no text occurs in two.

    Groups are taken in the order of sha256(seed, group), each to the split that is furthest below its share of the rows
    (`SPLIT_SHARES`), so that the result depends on the seed and the texts alone, never on the order of files. A group
    of several rows that holds more than a tenth (`LARGEST_HELD_OUT`) of the rows that a held-out split aims at always
    stays in training: no single document decides a held-out figure, and the luck of the seed moves it less. A `limit`
    then draws from every split by a seeded order that is spread evenly over the groups: a smaller limit gives a subset
    of a larger one, and no row ever changes its split.

    Args:
        name: `"sentences"`, `"qa"` or `"file"`.
        splits: Keys `"train"`, `"validation"`, `"test"`.
    """

    name: str
    splits: dict[str, Split]

    @property
    def sha256(self) -> str:
        """Hash of every row and its split, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for row in zip(split.inputs, split.targets or split.inputs, split.groups, strict=True):
                digest.update("\0".join((name, *row, "\n")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Row:
    input: str
    target: str | None
    group: str


def sentences(limit: int | None = None, seed: int = 0) -> Corpus:
    """Return single sentences: Python's reference topics and the standard library's docstrings.

    A sentence that occurs twice, up to case, spacing and punctuation, is kept once, before the splits are made. The
    group of a sentence is its reference topic (`"topic:assert"`) or the module of its source file (`"json.decoder"`).

    Args:
        limit: Greatest number of rows in all splits together, at least 3; None for all (about 18,000).
        seed: Decides the splits and the sample.

    Raises:
        ValueError: When `limit` is below 3.
        FileNotFoundError: When the running interpreter has no standard library in source form.
    """
    return _corpus("sentences", _sentence_rows(_standard_library()), limit, seed)


def questions_and_answers(limit: int | None = None, seed: int = 0) -> Corpus:
    """Return pairs: qualified name and signature of a public object → the first sentence of its docstring.

    For example `"heapq.merge(*iterables, key=None, reverse=False)"` → `"Merge multiple sorted inputs into a single
    sorted output."`. Answers are unique up to case, spacing and punctuation; the group of a pair is the module
    of its source file (`"unittest.mock"`).

    Args:
        limit: Greatest number of rows (pairs) in all splits together, at least 3; None for all (about 5,100).
        seed: Decides the splits and the sample.

    Raises:
        ValueError: When `limit` is below 3.
        FileNotFoundError: When the running interpreter has no standard library in source form.
    """
    return _corpus("qa", _pair_rows(_standard_library()), limit, seed)


def text_file(path: str | Path, limit: int | None = None, seed: int = 0) -> Corpus:
    """Return the lines of a UTF-8 text file: one text per line, blank lines skipped, each line its own group.

    Lines are stripped, and equal ones (up to case, spacing and punctuation) kept once. The whole file is read even with
    a `limit`, because the first lines of an ordered file would be no fair sample of it.

    Args:
        path: The file.
        limit: Greatest number of rows in all splits together, at least 3; None for all.
        seed: Decides the splits and the sample.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is empty, is not UTF-8 (the line is named), has fewer than three distinct texts, or
            when `limit` is below 3.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"A text corpus must be an existing file; received {str(path)!r}, which is not one. "
            "Check the path (it is relative to the working directory)."
        )
    rows = []
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"A text corpus must be UTF-8; {path}, line {number} holds byte 0x{raw[error.start]:02x} at column "
                    f"{error.start + 1}. Convert the file, e.g. `iconv -f latin1 -t utf-8`."
                ) from None
            if line:
                rows.append(_Row(line, None, line))
    if not rows:
        raise ValueError(f"A text corpus must hold text; {path} is empty. Write one text per line into it.")
    return _corpus("file", rows, limit, seed)


def check_limit(limit: int | None) -> None:
    """Refuse a limit that leaves a split without a row."""
    if limit is not None and limit < 3:
        raise ValueError(
            f"`limit` counts the rows of all three splits, so it must be at least 3; received {limit}. "
            "Raise it, or give None for all rows."
        )


def cut(rows: int, limit: int | None, seed: int) -> dict[str, np.ndarray]:
    """Cut `rows` rows without documents into the three splits by a seeded permutation, with a corpus's shares.

    Args:
        rows: Number of rows, at least 3; fewer are an error.
        limit: Greatest number of rows in all splits together, at least 3; None for all.
        seed: Decides the permutation.

    Returns:
        Split name → row indices.
    """
    if rows < 3:
        raise ValueError(f"Three splits need at least 3 rows that are sound and distinct; received {rows}. Add rows.")
    sizes = {split: max(1, int(rows * SPLIT_SHARES[split])) for split in ("validation", "test")}
    sizes = {"train": rows - sum(sizes.values()), **sizes}
    quotas = _quotas(sizes, limit)
    order = np.random.default_rng(seed).permutation(rows)
    ends = np.cumsum(list(sizes.values()))
    return {split: order[end - sizes[split] :][: quotas[split]] for split, end in zip(sizes, ends, strict=True)}


def _standard_library() -> Path:
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "abc.py").is_file():
        raise FileNotFoundError(
            f"The packaged corpora read the standard library's source files; {root} holds none. "
            "Use a complete CPython installation, or a text file of your own (task 'file')."
        )
    return root


@functools.lru_cache(maxsize=2)
def _sentence_rows(root: Path) -> list[_Row]:
    rows = [
        _Row(sentence, None, f"topic:{topic}")
        for topic, text in topics(root / "pydoc_data" / "topics.py").items()
        for sentence in sentences_of(text)
    ]
    for entry in documented_objects(root):
        rows += [_Row(sentence, None, entry.module) for sentence in sentences_of(entry.doc, summary=True)]
    return rows


def _pair_rows(root: Path) -> list[_Row]:
    rows = []
    for entry in documented_objects(root):
        if not any(part.startswith("_") for part in entry.name.split(".")):
            first_paragraph = entry.doc.lstrip().partition("\n\n")[0]
            answer = next(iter(sentences_of(first_paragraph, summary=True)), None)
            if answer is not None:
                rows.append(_Row(entry.name + entry.signature, answer, entry.module))
    return rows


def _corpus(name: str, rows: Iterable[_Row], limit: int | None, seed: int) -> Corpus:
    check_limit(limit)
    groups: dict[str, list[_Row]] = defaultdict(list)
    for row in _unique(rows):
        groups[row.group].append(row)
    if len(groups) < 3:
        raise ValueError(
            "A corpus is cut into three splits between its documents, so it needs at least 3 distinct ones; corpus "
            f"{name!r} has {len(groups)}. Add texts."
        )
    splits = _split(groups, seed)
    sizes = {split: sum(len(groups[group]) for group in members) for split, members in splits.items()}
    quotas = _quotas(sizes, limit)
    drawn = {split: _draw(groups, members, quotas[split], seed) for split, members in splits.items()}
    logger.info("corpus %s: %s", name, ", ".join(f"{split} {len(part)}" for split, part in drawn.items()))
    return Corpus(name, drawn)


def _unique(rows: Iterable[_Row]) -> list[_Row]:
    """Keep the first row of each text, in the order of group and input, so that the order of files does not matter."""
    seen: set[str] = set()
    kept = []
    for row in sorted(rows, key=lambda row: (row.group, row.input, row.target or "")):
        keys = {_key(text) for text in (row.input, row.target) if text is not None}
        if seen.isdisjoint(keys):
            kept.append(row)
        seen |= keys
    return kept


def _key(text: str) -> str:
    """Reduce a text to its words; one without any (a line of symbols) stands for itself."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def _rank(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()[:8])


def _split(groups: dict[str, list[_Row]], seed: int) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {split: [] for split in SPLIT_SHARES}
    rows = dict.fromkeys(SPLIT_SHARES, 0)
    sizes = {group: len(found) for group, found in groups.items()}
    held_out = min(share for split, share in SPLIT_SHARES.items() if split != "train")
    # One row is never too many: a file of a few lines has no smaller documents.
    largest = max(1.0, LARGEST_HELD_OUT * held_out * sum(sizes.values()))
    # The large ones first: training then takes the fewer of the small ones.
    for group in sorted(groups, key=lambda group: (sizes[group] <= largest, _rank(seed, group))):
        below = min(rows, key=lambda split: rows[split] / SPLIT_SHARES[split])
        split = below if sizes[group] <= largest else "train"
        members[split].append(group)
        rows[split] += sizes[group]
    assert all(members.values()), f"every split needs a document of at most {largest:.0f} rows"
    return members


def _quotas(sizes: dict[str, int], limit: int | None) -> dict[str, int]:
    """Share `limit` rows out by `LIMIT_SHARES`, at least one each; what one cannot fill goes to the others."""
    if limit is None or limit >= sum(sizes.values()):
        return sizes
    quotas = {split: min(sizes[split], max(1, int(limit * share))) for split, share in LIMIT_SHARES.items()}
    for split in ("train", "test", "validation"):
        quotas[split] += min(limit - sum(quotas.values()), sizes[split] - quotas[split])
    return quotas


def _draw(groups: dict[str, list[_Row]], members: list[str], quota: int, seed: int) -> Split:
    """Return the first `quota` rows of a fixed order in which any prefix holds each group in proportion to its size."""
    places = []
    for group in members:
        ordered = sorted(groups[group], key=lambda row: _rank(seed, row.input))
        offset = _rank(seed, group) / 2**64
        places += [((rank + offset) / len(ordered), row.group, row.input, row) for rank, row in enumerate(ordered)]
    rows = [row for *_, row in sorted(places, key=lambda place: place[:3])[:quota]]
    targets = [row.target for row in rows if row.target is not None]
    return Split([row.input for row in rows], targets or None, [row.group for row in rows])
