"""Texts to learn from: the English prose that every CPython carries, or a text file of the user's.

Nothing is downloaded and nothing is imported: source files are parsed only.
"""

import functools
import sysconfig
from pathlib import Path

from latticegnn.data.docstrings import documented_objects, sentences_of, topics
from latticegnn.data.partition import Corpus, Row, partition
from latticegnn.data.partition import check_limit as check_limit
from latticegnn.data.partition import cut as cut
from latticegnn.data.texts import text_corpus


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
    return partition("sentences", sentence_rows(standard_library()), limit, seed)


def questions_and_answers(limit: int | None = None, seed: int = 0) -> Corpus:
    """Return pairs: qualified name and signature of a public object → the first sentence of its docstring.

    For example ``heapq.merge(*iterables, key=None, reverse=False)`` → ``Merge multiple sorted inputs into a single
    sorted output.`` Answers are unique up to case, spacing and punctuation; the group of a pair is the module
    of its source file (`"unittest.mock"`).

    Args:
        limit: Greatest number of rows (pairs) in all splits together, at least 3; None for all (about 5,100).
        seed: Decides the splits and the sample.

    Raises:
        ValueError: When `limit` is below 3.
        FileNotFoundError: When the running interpreter has no standard library in source form.
    """
    return partition("qa", _pair_rows(standard_library()), limit, seed)


def text_file(path: str | Path, limit: int | None = None, seed: int = 0) -> Corpus:
    """Return the lines of a UTF-8 text file: one text per line, blank lines skipped, each line its own group.

    Lines are stripped, and equal ones (up to case, spacing and punctuation) kept once. The whole file is read even with
    a `limit`, because the first lines of an ordered file would be no fair sample of it. For other formats see
    `text_corpus`.

    Args:
        path: The file.
        limit: Greatest number of rows in all splits together, at least 3; None for all.
        seed: Decides the splits and the sample.

    Raises:
        FileNotFoundError: When there is no such file.
        ValueError: When the file is empty, is not UTF-8 (the line is named), has fewer than three distinct texts, or
            when `limit` is below 3.
    """
    return text_corpus(path, "text", limit=limit, seed=seed)


def standard_library() -> Path:
    """Find the running interpreter's standard library; FileNotFoundError where it has none in source form."""
    root = Path(sysconfig.get_path("stdlib"))
    if not (root / "abc.py").is_file():
        raise FileNotFoundError(
            f"The packaged corpora read the standard library's source files; {root} holds none. "
            "Use a complete CPython installation, or a text file of your own (task 'file')."
        )
    return root


@functools.lru_cache(maxsize=2)
def sentence_rows(root: Path) -> list[Row]:
    """Return the sentences below `root` with their documents, in the order of the files, repetitions included."""
    rows = [
        Row(sentence, None, f"topic:{topic}")
        for topic, text in topics(root / "pydoc_data" / "topics.py").items()
        for sentence in sentences_of(text)
    ]
    for entry in documented_objects(root):
        rows += [Row(sentence, None, entry.module) for sentence in sentences_of(entry.doc, summary=True)]
    return rows


def _pair_rows(root: Path) -> list[Row]:
    rows = []
    for entry in documented_objects(root):
        if not any(part.startswith("_") for part in entry.name.split(".")):
            first_paragraph = entry.doc.lstrip().partition("\n\n")[0]
            answer = next(iter(sentences_of(first_paragraph, summary=True)), None)
            if answer is not None:
                rows.append(Row(entry.name + entry.signature, answer, entry.module))
    return rows
