"""Short texts for a text decoder to learn: phrases from Python's identifiers, and a sentence's next word."""

import ast
import functools
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from latticegnn.data.corpus import sentence_rows, standard_library
from latticegnn.data.docstrings import parse, python_files
from latticegnn.data.partition import Corpus, Row, Split, partition

FREQUENT = 5
"""Phrases that a word must occur in, so that a held-out one can be made of words that were learned from others."""

SHORTEST_PREFIX = 3
"""Words and marks that a next word is asked for after, at least."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_TOKEN = re.compile(r"\w+|[^\w\s]")


def phrases(limit: int | None = None, seed: int = 0, words: tuple[int, int] = (2, 2)) -> Corpus:
    """Return the identifiers of Python's standard library as phrases: `"read_lines"`, `"ReadLines"` → `"read lines"`.

    Each word has two ASCII letters or more and occurs in at least `FREQUENT` phrases. What is held out is the
    combination: of the phrases of the validation and test splits every word also occurs in training phrases, and those
    with another are left out, counted as `"unseen word"`. A phrase is its own target.

    Args:
        limit: Greatest number of phrases in all splits together, at least 3; None for all (about 5,000 of two words).
        seed: Decides the splits and the sample.
        words: Fewest and most words of a phrase, at least 1.

    Raises:
        ValueError: When `limit` is below 3, or `words` are no such range.
        FileNotFoundError: When the running interpreter has no standard library in source form.
    """
    low, high = words
    if not 1 <= low <= high:
        raise ValueError(
            f"`words` are the fewest and the most words of a phrase, 1 ≤ fewest ≤ most; received {list(words)}. [2, 2] "
            "is the default."
        )
    found = {words_of(name) for name in _identifiers(standard_library())}
    rows = [Row(" ".join(phrase), None, " ".join(phrase)) for phrase in frequent(found, low, high)]
    return known_words(partition("phrases", rows, limit, seed))


def next_tokens(limit: int | None = None, seed: int = 0) -> Corpus:
    """Return beginnings of sentences → the word or mark that comes next, one of each sentence.

    The sentences are those of `latticegnn.data.corpus.sentences`, held out by document. A sentence is cut after
    `SHORTEST_PREFIX` words and marks or more, at a place that its own text decides. A row is known by its input alone,
    as the same word comes next in many.

    Args:
        limit: Greatest number of rows in all splits together, at least 3; None for all (about 17,000).
        seed: Decides the splits and the sample.

    Raises:
        ValueError: When `limit` is below 3.
        FileNotFoundError: When the running interpreter has no standard library in source form.
    """
    rows = [row for sentence in sentence_rows(standard_library()) if (row := next_token(sentence)) is not None]
    return partition("next_token", rows, limit, seed, labels=True)


def words_of(identifier: str) -> tuple[str, ...]:
    """Split an identifier at underscores and changes of case, in lower case; () where a part is no word."""
    parts = [word.lower() for part in identifier.split("_") for word in _WORD.findall(part)]
    sound = "".join(parts) == identifier.replace("_", "").lower() and all(p.isalpha() and len(p) > 1 for p in parts)
    return tuple(parts) if sound else ()


def frequent(phrases: Iterable[tuple[str, ...]], low: int, high: int) -> list[tuple[str, ...]]:
    """Keep phrases of `low` to `high` words each of which occurs in at least `FREQUENT` of those that are kept."""
    kept = sorted({phrase for phrase in phrases if low <= len(phrase) <= high})
    while True:
        counts = Counter(word for phrase in kept for word in set(phrase))
        left = [phrase for phrase in kept if all(counts[word] >= FREQUENT for word in phrase)]
        if len(left) == len(kept):
            return kept
        kept = left


def known_words(corpus: Corpus) -> Corpus:
    """Leave out held-out phrases with a word that no training phrase has."""
    known = {word for phrase in corpus.splits["train"].inputs for word in phrase.split()}
    splits, skipped = dict(corpus.splits), Counter(corpus.skipped)
    for name in ("validation", "test"):
        split = splits[name]
        kept = [row for row in range(len(split)) if known.issuperset(split.inputs[row].split())]
        skipped["unseen word"] += len(split) - len(kept)
        splits[name] = Split([split.inputs[row] for row in kept], None, [split.groups[row] for row in kept])
    return replace(corpus, splits=splits, skipped=skipped)


def next_token(sentence: Row) -> Row | None:
    """Cut a sentence: its beginning, and the word or mark that comes next; None where it is too short."""
    tokens = list(_TOKEN.finditer(sentence.input))
    places = len(tokens) - SHORTEST_PREFIX
    if places < 1:
        return None
    drawn = int.from_bytes(hashlib.sha256(sentence.input.encode()).digest()[:8]) % places
    found = tokens[SHORTEST_PREFIX + drawn]
    return Row(sentence.input[: found.start()].rstrip(), found.group(), sentence.group)


@functools.lru_cache(maxsize=2)
def _identifiers(root: Path) -> frozenset[str]:
    trees = (parse(file) for _, file in python_files(root))
    return frozenset(name for tree in trees if tree is not None for name in names(tree))


def names(tree: ast.Module) -> Iterator[str]:
    """Yield the identifiers of a module: variables, attributes, functions, classes, parameters and keywords."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.keyword(arg=str(name)):
                yield name
