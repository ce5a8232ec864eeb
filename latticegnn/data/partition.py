"""Rows of text, cut into three splits between their documents."""

import hashlib
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

import numpy as np

logger = logging.getLogger("latticegnn")

SPLIT_SHARES = {"train": 0.75, "validation": 0.125, "test": 0.125}
"""Share of the rows that each split of a whole corpus aims at."""

LARGEST_HELD_OUT = 0.1
"""Share of the rows a held-out split aims at that one document may bring to it, unless the middle one brings more."""

MOST_HELD_OUT = 5_000
"""Rows without documents that a held-out split takes at most: enough for any figure, and neighbours among them are
looked for in pairs."""

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
    that holds more than a tenth (`LARGEST_HELD_OUT`) of the rows that a held-out split aims at, and more rows than the
    median group, always stays in training: no single document of many decides a held-out figure, and the luck of the
    seed moves it less. A `limit` then draws from every split by a seeded order that is spread evenly over the groups: a
    smaller limit gives a subset of a larger one, and no row ever changes its split.

    Args:
        name: `"sentences"`, `"qa"` or `"file"`.
        splits: Keys `"train"`, `"validation"`, `"test"`.
        skipped: How many texts the source held that no split may have, by reason: `"duplicate"`, and those of
            `read_texts`. A `limit` counts none here.
    """

    name: str
    splits: dict[str, Split]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def sha256(self) -> str:
        """Hash of every row and its split, in hexadecimal digits."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for row in zip(split.inputs, split.targets or split.inputs, split.groups, strict=True):
                digest.update("\0".join((name, *row, "\n")).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


@dataclass(frozen=True)
class Row:
    """One text to learn from.

    Args:
        input: The text.
        target: The answer wanted; None where the input is its own target.
        group: Name of the document that the row comes from.
    """

    input: str
    target: str | None
    group: str


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
    held_out = {split: int(rows * SPLIT_SHARES[split]) for split in ("validation", "test")}
    sizes = {split: max(1, min(MOST_HELD_OUT, size)) for split, size in held_out.items()}
    sizes = {"train": rows - sum(sizes.values()), **sizes}
    quotas = _quotas(sizes, limit)
    order = np.random.default_rng(seed).permutation(rows)
    ends = np.cumsum(list(sizes.values()))
    return {split: order[end - sizes[split] :][: quotas[split]] for split, end in zip(sizes, ends, strict=True)}


def partition(
    name: str, rows: Iterable[Row], limit: int | None, seed: int, linked: bool = False, labels: bool = False
) -> Corpus:
    """Drop duplicates and cut rows into the three splits of a `Corpus`; their order does not matter.

    A text that occurs twice, up to case, spacing and punctuation, as an input or as a target, is kept once: of the rows
    that hold it, the first one in the order of group and input stays.

    Args:
        name: Name of the corpus.
        rows: The rows, with targets in all of them or in none.
        limit: Greatest number of rows in all splits together, at least 3; None for all.
        seed: Decides the splits and the sample.
        linked: Whether the rows of a group share texts by their nature, as the pairs of a dialogue do, where each
            answer is the next question. A text then stays in every row of one group, and equal rows are kept once.
        labels: Whether targets recur by their nature, as a sentence's next word does. A row is then known by its input.

    Raises:
        ValueError: When `limit` is below 3, or fewer than three groups remain.
    """
    check_limit(limit)
    rows = list(rows)
    kept = unique(rows, linked, labels)
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in kept:
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
    return Corpus(name, drawn, Counter(duplicate=len(rows) - len(kept)))


def unique(rows: Iterable[Row], linked: bool = False, labels: bool = False) -> list[Row]:
    """Return the rows that no duplicate drops, in the order of group and input; see `partition`."""
    owners: dict[str, str] = {}
    seen: set[tuple[str, ...]] = set()
    kept = []
    for row in sorted(rows, key=lambda row: (row.group, row.input, row.target or "")):
        keys = tuple(key(text) for text in (row.input, None if labels else row.target) if text is not None)
        recurs = keys in seen if linked else any(text in owners for text in keys)
        for text in keys:
            owners.setdefault(text, row.group)
        if not recurs and all(owners[text] == row.group for text in keys):
            kept.append(row)
        seen.add(keys)
    return kept


def key(text: str) -> str:
    """Reduce a text to its words; one without any (a line of symbols) stands for itself."""
    return " ".join(re.findall(r"\w+", text.casefold())) or text


def _rank(seed: int, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()[:8])


def _split(groups: dict[str, list[Row]], seed: int) -> dict[str, list[str]]:
    members: dict[str, list[str]] = {split: [] for split in SPLIT_SHARES}
    rows = dict.fromkeys(SPLIT_SHARES, 0)
    sizes = {group: len(found) for group, found in groups.items()}
    held_out = min(share for split, share in SPLIT_SHARES.items() if split != "train")
    # Of a few documents each is too large for that; half of them may be held out all the same.
    largest = max(median(sizes.values()), LARGEST_HELD_OUT * held_out * sum(sizes.values()))
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


def _draw(groups: dict[str, list[Row]], members: list[str], quota: int, seed: int) -> Split:
    """Return the first `quota` rows of a fixed order in which any prefix holds each group in proportion to its size."""
    places = []
    for group in members:
        ordered = sorted(groups[group], key=lambda row: _rank(seed, row.input))
        offset = _rank(seed, group) / 2**64
        places += [((rank + offset) / len(ordered), row.group, row.input, row) for rank, row in enumerate(ordered)]
    rows = [row for *_, row in sorted(places, key=lambda place: place[:3])[:quota]]
    targets = [row.target for row in rows if row.target is not None]
    return Split([row.input for row in rows], targets or None, [row.group for row in rows])
