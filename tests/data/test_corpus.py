"""Corpora: no text in two splits, nothing imported, the same for everyone."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from latticegnn.data import corpus, partition
from latticegnn.data.docstrings import documented, parse, python_files, sentences_of, topics

ROOT = Path(__file__).parents[2]
READERS = [corpus.sentences, corpus.questions_and_answers]
NAMES = ["train", "validation", "test"]


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def rows_of(split: partition.Split) -> set:
    return set(zip(split.inputs, split.targets or split.inputs, split.groups, strict=True))


@pytest.mark.parametrize("reader", READERS)
def test_splits_are_disjoint_and_balanced(reader):
    whole = reader()
    assert list(whole.splits) == NAMES
    texts = [text for s in whole.splits.values() for text in (*s.inputs, *(s.targets or ()))]
    assert max(Counter(partition.key(text) for text in texts).values()) == 1
    groups = [set(split.groups) for split in whole.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))
    total = sum(map(len, whole.splits.values()))
    for name, split in whole.splits.items():
        assert len(split) == len(split.inputs) == len(split.groups)
        assert abs(len(split) / total - partition.SPLIT_SHARES[name]) < 0.08


def test_the_packaged_corpora_are_large_enough():
    pairs, prose = corpus.questions_and_answers(), corpus.sentences()
    assert sum(map(len, pairs.splits.values())) > 4000
    assert sum(map(len, prose.splits.values())) > 14000
    questions = [text for split in pairs.splits.values() for text in split.inputs]
    assert "heapq.merge(*iterables, key=None, reverse=False)" in questions
    assert not any(part.startswith("_") for text in questions for part in text.partition("(")[0].split("."))
    groups = {group for corpus in (pairs, prose) for split in corpus.splits.values() for group in split.groups}
    assert {"topic:assert", "unittest.mock", "unittest.case", "json", "json.decoder"} <= groups


def test_the_group_of_a_pair_is_its_source_file():
    pairs = corpus.questions_and_answers()
    of = {
        text: group for split in pairs.splits.values() for text, group in zip(split.inputs, split.groups, strict=True)
    }
    assert of["heapq.merge(*iterables, key=None, reverse=False)"] == "heapq"
    assert {of[text] for text in of if text.startswith("xml.dom.minidom.")} == {"xml.dom.minidom"}
    assert all(text.startswith(group) for text, group in of.items())
    assert not any(group.startswith("encodings") for group in of.values())  # near copies of each other


@pytest.mark.parametrize("seed", [0, 5])
@pytest.mark.parametrize("reader", READERS)
def test_no_document_decides_a_held_out_figure(reader, seed):
    """A failure means that the seed may hand a test split to one file, as large as it happens to be."""
    whole = reader(seed=seed)
    total = sum(map(len, whole.splits.values()))
    for name in ("validation", "test"):
        (_, most), *_ = Counter(whole.splits[name].groups).most_common(1)
        assert most <= 0.1 * partition.SPLIT_SHARES[name] * total
    assert "tkinter" in whole.splits["train"].groups


@pytest.mark.parametrize("reader", READERS)
def test_a_limit_draws_a_nested_spread_sample(reader):
    whole, large, small = reader(), reader(limit=600), reader(limit=50)
    assert sum(map(len, large.splits.values())) == 600
    assert [len(small.splits[name]) for name in NAMES] == [35, 5, 10]
    for name in NAMES:
        assert rows_of(small.splits[name]) < rows_of(large.splits[name]) < rows_of(whole.splits[name])
    assert len(set(large.splits["train"].groups)) > 60
    assert sum(map(len, reader(limit=10**6).splits.values())) == sum(map(len, whole.splits.values()))


@pytest.mark.slow
def test_another_process_finds_the_same_and_imports_nothing():
    here = [corpus.sentences(limit=500, seed=seed).sha256 for seed in (3, 4)]
    code = (
        "import sys; from latticegnn.data import questions_and_answers, sentences; "
        "questions_and_answers(); print(sentences(limit=500, seed=3).sha256); "
        "print([m for m in ('this', 'antigravity', 'turtledemo', 'pydoc_data', 'lib2to3') if m in sys.modules])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert there.stdout.splitlines() == [here[0], "[]"]  # importing `this` would also have printed a poem
    assert here[0] != here[1]


SOURCE = '''"""A module about things. It has two sentences here."""
class Thing(Base):
    """Keep one thing in its place."""
    def __init__(self, name: str, *, size: int = 3): pass
    def move(self, /, by: float, *rest, **options) -> None:
        """Move the thing somewhere else, e.g. Paris or Rome."""
    @staticmethod
    def make(kind):
        """Make a thing out of nothing."""
    @classmethod
    def copy(cls):
        """Copy the thing that exists."""
if True:
    async def helper(a, b=(1, 2)):
        """Help with the thing at hand."""
'''


def test_names_and_signatures(tmp_path):
    (tmp_path / "box").mkdir()
    (tmp_path / "box/__init__.py").write_text(SOURCE)
    (tmp_path / "box/tests").mkdir()
    (tmp_path / "box/tests/test_box.py").write_text('"""Never read by anybody at all."""')
    (tmp_path / "not-a-package").mkdir()
    (tmp_path / "not-a-package/a.py").write_text('"""Never read by anybody at all."""')
    ((module, file),) = python_files(tmp_path)
    assert [entry.name + entry.signature for entry in documented(module, parse(file))] == [
        "box",
        "box.Thing(name, *, size=3)",
        "box.Thing.move(by, *rest, **options)",
        "box.Thing.make(kind)",
        "box.Thing.copy()",
        "box.helper(a, b=(1, 2))",
    ]


def test_unparsable_files_are_reported(tmp_path, caplog):
    (tmp_path / "old.py").write_text("print 'python two'")
    assert parse(tmp_path / "old.py") is None
    assert "old.py" in caplog.text


def test_sentences_leave_code_and_markup_out():
    text = """Heading of the page
    *******************

    The first sentence, e.g. This one, stands here.  The second
    "one" follows it.  Too short.

    >>> import os
    This follows a doctest and is its output.

       x ::= a | b

    * A bullet that makes sense alone.
    * Another bullet that makes sense.
    """
    assert sentences_of(text) == [
        "The first sentence, e.g. This one, stands here.",
        'The second "one" follows it.',
        "A bullet that makes sense alone.",
        "Another bullet that makes sense.",
    ]
    assert sentences_of("Return the name of it") == []
    assert sentences_of("Return the name of it", summary=True) == ["Return the name of it"]


def test_topics_are_parsed_not_run(tmp_path):
    file = tmp_path / "topics.py"
    file.write_text("topics = {'b': 'two ' 'parts', 'a': 'one'}\nraise SystemExit")
    assert topics(file) == {"a": "one", "b": "two parts"}
    file.write_text("nothing = 1")
    with pytest.raises(ValueError) as error:
        topics(file)
    explains(error, "must be a dict literal", str(file), "complete CPython")


def test_an_interpreter_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        corpus.sentences()
    explains(error, "standard library's source files", str(tmp_path), "a text file of your own")


def test_text_file(tmp_path):
    file = tmp_path / "texts.txt"
    lines = [f"Text {n} about the sea, ünïcode." for n in range(40)]
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join([*lines, lines[0].upper()]).encode())
    whole = corpus.text_file(file)
    found = [text.casefold() for split in whole.splits.values() for text in split.inputs]
    assert sorted(found) == sorted(line.casefold() for line in lines)
    assert whole.splits["train"].targets is None
    assert [len(corpus.text_file(file, limit=10, seed=1).splits[name]) for name in NAMES] == [7, 1, 2]
    file.write_text("one\ntwo\nthree\n")
    assert [len(corpus.text_file(file).splits[name]) for name in NAMES] == [1, 1, 1]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["must hold text", "is empty", "Write one text per line"]),
        (b" \n\t\n", ["must hold text", "is empty", "Write one text per line"]),
        (b"good\nalso good\nbad \xff\n", ["must be UTF-8", "line 3 holds byte 0xff at column 5", "Convert the file"]),
        (b"one\ntwo\nTWO!\n", ["at least 3 distinct", "has 2", "Add texts"]),
    ],
)
def test_bad_text_files(tmp_path, content, parts):
    file = tmp_path / "texts.txt"
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        corpus.text_file(file)
    explains(error, *parts)


def test_missing_file_and_bad_limit(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        corpus.text_file(tmp_path / "none.txt")
    explains(error, "must be an existing file", "none.txt", "Check the path")
    with pytest.raises(ValueError) as error:
        corpus.sentences(limit=2)
    explains(error, "at least 3", "received 2", "give None")
