"""The user's texts: every format gives the rows that were written, and a bad row is named, not dropped."""

import csv
import gzip
import io
import json
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from latticegnn.data import read_texts, text_corpus, text_file
from latticegnn.data.lines import LONGEST_LINE
from latticegnn.data.partition import partition
from latticegnn.data.texts import OPTIONS

NAMES = ["train", "validation", "test"]


@pytest.fixture
def write(tmp_path):
    """Write a file of the test's folder; bytes as they are, strings as UTF-8."""

    def make(name: str, content: bytes | str) -> Path:
        file = tmp_path / name
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    return make


def rows_of(path, *args, **options):
    return [(row.input, row.target, row.group) for row in read_texts(path, *args, **options)]


def jsonl(records) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_plain_text(write):
    file = write("a.txt", "\ufeff One, ünïcode.\r\n\n \t\nTwo.\n\u2028 Three\u2028and a half")
    found = read_texts(file)
    assert [row.input for row in found] == ["One, ünïcode.", "Two.", "Three\u2028and a half"]
    assert found.skipped == {"empty": 2}
    assert rows_of(file)[1] == ("Two.", None, "Two.")


def test_jsonl(write):
    records = [
        {"input": "in 1", "target": "out 1", "group": "g", "meta": {"id": {"doc": "d1"}}},
        {"input": " in\n2 ", "target": "ö\u2028", "group": "g", "meta": {"id": {"doc": "d2"}}, "meta.id.doc": "plain"},
    ]
    file = write("a.jsonl", "\ufeff" + jsonl(records) + "\r\n")
    assert rows_of(file) == [("in 1", None, "in 1"), (" in\n2 ", None, " in\n2 ")]
    assert rows_of(file, target="target", group="group") == [("in 1", "out 1", "g"), (" in\n2 ", "ö\u2028", "g")]
    # A field of exactly that name comes before one that the dots lead to.
    assert rows_of(file, input="target", group="meta.id.doc") == [("out 1", None, "d1"), ("ö\u2028", None, "plain")]


def test_csv_and_tsv(write):
    text = 'id,question,answer\r\n1,"What, ""now""?","two\r\nlines"\r\n\r\n2,Plain,5" disk\r\n3,,nothing\r\n'
    expected = [('What, "now"?', "two\r\nlines", "1"), ("Plain", '5" disk', "2")]
    for name, content in (("a.csv", text), ("a.TSV", text.replace(",", "\t").replace("What\t", "What,"))):
        found = read_texts(write(name, "\ufeff" + content), input="question", target="answer", group="id")
        assert [(row.input, row.target, row.group) for row in found] == expected
        assert found.skipped == {"empty": 2}  # the blank line, and the row without a question


def test_dialogues_of_jsonl(write):
    turns = [
        {"role": "user", "content": "Hello."},
        {"role": "user", "content": "Anyone?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "Good."},
    ]
    mixed = ["a", "b", {"text": "c"}, {"speaker": "Ann", "text": "d"}, {"speaker": "Ann", "text": " "}]
    file = write(
        "d.jsonl", jsonl({"chat": {"turns": value}} for value in (turns, mixed, ["alone"], [], ["a", "", "b"]))
    )
    found = read_texts(file, turns="chat.turns")
    rows = [(row.input, row.target, row.group) for row in found]
    assert [row[:2] for row in rows] == [
        ("Hello.\nAnyone?", "Yes."),
        ("Yes.", "Good."),
        ("a", "b"),
        ("b", "c"),
        ("c", "d"),
    ]
    assert [row[2] for row in rows] == [rows[0][2]] * 2 + [rows[2][2]] * 3
    assert rows[0][2] != rows[2][2]
    assert found.skipped == {"short dialogue": 2, "empty": 2}
    named = write("n.jsonl", jsonl([{"turns": ["a", "b"], "film": "Alien"}]))
    assert rows_of(named, turns="turns", group="film") == [("a", "b", "Alien")]


def test_plain_dialogues(write):
    file = write("d.txt", "Ann: Hello.\r\nAnn: Anyone?\nBob: At 12:30.\nAnn:\n\n\n  \nalone\n\nA: x\nB: y")
    found = read_texts(file, "dialogue")
    assert [(row.input, row.target) for row in found] == [
        ("Ann: Hello.", "Ann: Anyone?"),
        ("Ann: Anyone?", "Bob: At 12:30."),
        ("Bob: At 12:30.", "Ann:"),
        ("A: x", "B: y"),
    ]
    assert found.skipped == {"short dialogue": 1}
    file = write("s.txt", file.read_text().replace("alone", "C: alone\nC : still"))
    found = read_texts(file, "dialogue", speakers=True)
    assert [(row.input, row.target) for row in found] == [("Hello.\nAnyone?", "At 12:30."), ("x", "y")]
    assert found.skipped == {"short dialogue": 1, "empty": 1}


def test_gzip_and_other_encodings(write):
    content = jsonl([{"input": "naïve"}, {"input": "plain"}])
    assert rows_of(write("a.jsonl.gz", gzip.compress(content.encode()))) == rows_of(write("a.jsonl", content))
    assert rows_of(write("b.txt.GZ", gzip.compress(b""))) == []
    latin = write("c.txt", "naïve".encode("latin-1"))
    assert rows_of(latin, encoding="latin-1") == [("naïve", None, "naïve")]
    assert rows_of(write("j.txt", "表示\n".encode("shift_jis")), encoding="shift_jis") == [("表示", None, "表示")]


FORMATS = {
    "a.txt": ("one\ntwo\n", b"\xff\n", {}),
    "a.jsonl": (jsonl([{"input": "one"}, {"input": "two"}]), b"{\n", {}),
    "a.csv": ("input\none\ntwo\n", b"a,b\n", {}),
    "d.jsonl": (jsonl([{"t": ["one", "two", "three"]}]), b"[]\n", {"turns": "t"}),
    "d.txt": ("one\ntwo\nthree\n\n", b"\xff\n", {"format": "dialogue"}),
}


@pytest.mark.parametrize("name", FORMATS)
def test_max_total_samples_reads_no_further_line(write, name):
    """A failure means that a large file is read on after the rows asked for."""
    good, bad, options = FORMATS[name]
    file = write(name, good.encode() + bad)
    assert [text for text, *_ in rows_of(file, max_total_samples=2, **options)] == ["one", "two"]
    assert len(rows_of(file, max_total_samples=1, **options)) == 1
    with pytest.raises(ValueError, match="line"):
        rows_of(file, max_total_samples=3, **options)


def test_rows_come_before_the_file_ends(write):
    """The damaged end of a long file is an error when it is reached, not before."""
    packed = gzip.compress("".join(f"text {n} {n**9}\n" for n in range(50_000)).encode())
    found = read_texts(write("a.txt.gz", packed[: len(packed) // 2]))
    assert next(found).input == "text 0 0"
    with pytest.raises(ValueError, match="whole gzip file"):
        list(found)


BAD = [
    ("a.txt", b"good\nbad \xff\n", {}, ["must be UTF-8", "line 2 holds byte 0xff at column 5", "Convert"]),
    ("a.txt", b"good\nb\0d\n", {}, ["no NUL", "line 2 holds one at column 2", "Remove it"]),
    ("a.txt", "one".encode("utf-16"), {}, ["no NUL", "line 1", "iconv -f utf-16"]),
    ("a.txt", b"x" * (LONGEST_LINE + 1), {}, ["at most 1,000,000", "line 1 has more", "cut a long one"]),
    ("a.txt", b"x\n" + b"y" * (5 * LONGEST_LINE), {}, ["at most 1,000,000", "line 2 has more", "cut a long one"]),
    ("a.txt.gz", gzip.compress(b"text\n" * 9, mtime=0)[:-3], {}, ["whole gzip file", "line ", "file again"]),
    ("a.txt.gz", b"plain\n", {}, ["whole gzip file", "line 1", "file again"]),
    ("a.jsonl", b'{"input": "a"}\n{"input": "b"\n', {}, ["one JSON object", "line 2, column 14", "json.dumps"]),
    ("a.jsonl", b"[" * 100_000, {}, ["one JSON object", "line 1 is not", "json.dumps"]),
    ("a.jsonl", b"9" * 5000, {}, ["one JSON object", "line 1 is not", "json.dumps"]),
    ("a.jsonl", b'["a", "b"]', {}, ["one JSON object", "line 1 holds a list of 2", "Give the text a name"]),
    ("a.jsonl", b'{"text": "a"}', {}, ["'input'", "line 1 has no 'input' in an object of the fields ['text']", "name"]),
    ("a.jsonl", b'{"a": {"c": 1}}', {"input": "a.b"}, ["'a.b'", "no 'b' in an object of the fields ['c']", "a dot"]),
    ("a.jsonl", b'{"a": "x"}', {"input": "a.b"}, ["'a.b'", "line 1 has no 'b' in \"x\"", "a dot"]),
    ("a.jsonl", b'{"input": 3}', {}, ["must be a string", "line 1, field 'input' is 3", "in quotes"]),
    ("a.jsonl", b'{"input": null}', {}, ["must be a string", "line 1, field 'input' is null", "in quotes"]),
    ("a.jsonl", b'{"input": "a\\u0000"}', {}, ["without NUL", "'input' holds U+0000 at character 2", "Remove"]),
    ("a.jsonl", b'{"input": "\\ud83d"}', {}, ["Unicode", "'input' holds U+D83D at character 1", "surrogate"]),
    ("a.jsonl", b'{"input": "a", "g": " "}', {"group": "g"}, ["must name a document", "field 'g' is blank", "leave"]),
    ("a.csv", b"input\na\nb,c\n", {}, ["as many cells", "line 3 has 2, the header 1", "Quote"]),
    ("a.csv", b"x,input\n1,a\n2\n", {}, ["as many cells", "line 3 has 1, the header 2", "Quote"]),
    ("a.csv", b'x,input\n1,"a\nb"\n2\n', {}, ["as many cells", "line 4 has 1, the header 2", "Quote"]),
    ("a.csv", b"x,y\n1,a\n", {}, ["each column", "line 1 holds 'input' 0 times among ['x', 'y']", "','"]),
    ("a.csv", b"input,input\n1,a\n", {}, ["each column", "line 1 holds 'input' 2 times", "Name a column"]),
    ("a.tsv", b"x,input\n1,a\n", {}, ["each column", "among ['x,input']", "delimiter is '\\t'"]),
    ("a.csv", b'input\n"a" b\n', {}, ["well-formed", "starts at", "line 2", "double the quotes"]),
    ("a.csv", b'input\na\n"b\nc\nd\n', {}, ["well-formed", "line 3 is not", "double the quotes"]),
    ("a.csv", b"input\ra\r", {}, ["well-formed", "line 1 is not", "line ends"]),
    ("a.csv", b"input\n" + b"x" * 131_073, {}, ["well-formed", "line 2 is not (field larger", "Quote"]),
    ("a.jsonl", b'{"t": "x"}', {"turns": "t"}, ["list of turns", "line 1, field 't' is \"x\"", "Name the field"]),
    ("a.jsonl", b'{"t": ["x", 3]}', {"turns": "t"}, ["A turn must be", "line 1, turn 2 is 3", "Rename"]),
    ("a.jsonl", b'{"t": [{"a": 1}]}', {"turns": "t"}, ["A turn must", "turn 1 is an object of the", "Rename"]),
    ("a.jsonl", b'{"t": [{"text": "a", "content": "b"}]}', {"turns": "t"}, ["either 'text'", "turn 1", "Rename"]),
    ("a.jsonl", b'{"t": [{"text": 1}]}', {"turns": "t"}, ["must be a string", "turn 1, field 'text' is 1", "quotes"]),
    ("a.jsonl", b'{"t": [{"role": 1, "text": "a"}]}', {"turns": "t"}, ["a string", "field 'role' is 1", "quotes"]),
    ("a.jsonl", b'{"t": ["a\\u0000"]}', {"turns": "t"}, ["without NUL", "turn 1, field 'turn' holds", "Remove"]),
    (
        "d.txt",
        b"Ann: Hi.\nHello.\n",
        {"format": "dialogue", "speakers": True},
        ["its speaker", "line 2 is 'He", "leave"],
    ),
]


@pytest.mark.parametrize(("name", "content", "options", "parts"), BAD)
def test_a_row_that_cannot_be_used_is_named(write, name, content, options, parts):
    file = write(name, content)
    with pytest.raises(ValueError) as error:
        rows_of(file, **options)
    for part in [str(file), *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("a.json", {}, ["suffix of a text file must be one of", "a.json", "name its format"]),
        ("a.gz", {}, ["suffix of a text file must be one of", "a.gz", "name its format"]),
        ("a.txt", {"format": "xml"}, ["`format` must be one of", "received 'xml'", "'auto'"]),
        ("a.txt", {"target": "b"}, ["'text' takes the options []", "{'target': 'b'}", "Leave the others out"]),
        ("a.csv", {"turns": "b"}, ["'csv' takes", "{'turns': 'b'}", "Leave the others out"]),
        ("a.jsonl", {"speakers": True}, ["'jsonl' takes", "{'speakers': True}", "Leave the others out"]),
        ("a.jsonl", {"turns": "t", "target": "b"}, ["`turns` makes", "'target': 'b'", "Leave"]),
        ("a.txt", {"max_total_samples": 0}, ["must be at least 1", "received 0", "None"]),
        ("a.txt", {"encoding": "utf-16"}, ["`encoding`", "received 'utf-16'", "Convert"]),
        ("a.txt", {"encoding": "nonsense"}, ["`encoding`", "received 'nonsense'", "Convert"]),
        ("a.txt", {"encoding": "hex"}, ["`encoding`", "received 'hex'", "Convert"]),
    ],
)
def test_options_that_do_not_fit_are_refused_before_reading(write, refuses, name, options, parts):
    file = write(name, b"\xff")
    with refuses(*parts):
        read_texts(file, **options)


def test_missing_and_empty_files(write, tmp_path, refuses):
    with refuses("must be an existing file", "none.csv", "Check the path", kind=FileNotFoundError):
        read_texts(tmp_path / "none.csv")
    with refuses("must hold text", "is empty", "Write one"):
        text_corpus(write("a.csv", ""))
    with refuses("must hold text", "{'empty': 1}", "Write one"):
        text_corpus(write("a.jsonl", '{"input": " "}'))
    with refuses("at least 3", "received 2", "give None"):
        text_corpus(write("a.txt", b"\xff"), limit=2)
    with refuses("at least 3 distinct", "has 2", "Add texts"):
        text_corpus(write("b.csv", "input\none\ntwo\nONE!\n"))


def test_plain_text_has_the_splits_it_always_had(write):
    """These hashes were taken before the other formats came; a change moves rows between everyone's splits."""
    lines = "".join(f"Text {n} of the tide, ünïcode.\n\n" for n in range(100)) + "TEXT 0 of the tide: ünïcode\n"
    file = write("a.txt", lines)
    assert text_file(file).sha256 == "adc367acf2982e23be8927cf069cc937d2227887bae76880849fd320ba4bf050"
    assert text_file(file, 20, 1).sha256 == "6c6c0e4e195941f967407d813088a05547953b52c606ee2727efdb9253ed407c"
    assert text_corpus(file, limit=20, seed=1) == text_file(file, 20, 1)
    assert text_corpus(file).skipped == {"duplicate": 1, "empty": 100}


def test_the_order_of_rows_and_files_does_not_change_the_splits(write):
    records = [{"input": f"q{n}", "target": f"a{n}", "group": f"g{n // 3}"} for n in range(300)]
    options = {"target": "target", "group": "group"}
    whole = text_corpus(write("a.jsonl", jsonl(records)), **options)
    assert text_corpus(write("b.jsonl", jsonl(records[::-1])), **options) == whole
    files = [write("1.jsonl", jsonl(records[:70])), write("2.jsonl", jsonl(records[70:]))]
    for order in (files, files[::-1]):
        assert partition("file", chain(*(read_texts(file, **options) for file in order)), None, 0) == whole
    groups = [set(whole.splits[name].groups) for name in NAMES]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 100
    first = text_corpus(files[0], **options, limit=30, max_total_samples=60)
    assert sum(map(len, first.splits.values())) == 30
    assert {text for split in first.splits.values() for text in split.inputs} <= {f"q{n}" for n in range(60)}


@pytest.mark.parametrize("form", ["jsonl", "dialogue"])
def test_no_dialogue_lies_in_two_splits(write, form):
    dialogues = [[f"turn {n} of {d}" for n in range(2 + d % 4)] for d in range(60)]
    dialogues[7][1] = dialogues[8][0] = "Yes."  # a text of two dialogues stays in one
    orders = []
    for number, ordered in enumerate((dialogues, dialogues[::-1])):
        if form == "jsonl":
            file = write(f"{number}.jsonl", jsonl({"turns": turns} for turns in ordered))
            orders.append(text_corpus(file, turns="turns"))
        else:
            file = write(f"{number}.txt", "\n\n".join("\n".join(turns) for turns in ordered))
            orders.append(text_corpus(file, "dialogue"))
    assert orders[0] == orders[1]
    splits = orders[0].splits
    texts = [{*splits[name].inputs, *splits[name].targets} for name in NAMES]
    assert sum(map(len, texts)) == len(set.union(*texts))
    pairs = {pair for name in NAMES for pair in zip(splits[name].inputs, splits[name].targets, strict=True)}
    assert {("turn 0 of 11", "turn 1 of 11"), ("turn 1 of 11", "turn 2 of 11")} <= pairs
    assert orders[0].skipped["duplicate"] in (1, 2)  # as many pairs as the dialogue that lost it had with it
    assert len(pairs) == sum(len(turns) - 1 for turns in dialogues) - orders[0].skipped["duplicate"]


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
rows = st.lists(st.tuples(texts, texts, texts), max_size=8)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(rows=rows)
def test_any_rows_come_back_as_they_were_written(write, rows):
    fields = ["input", "target", "group"]
    options = {"target": "target", "group": "group"}
    records = jsonl(dict(zip(fields, row, strict=True)) for row in rows)
    assert rows_of(write("a.jsonl", records), **options) == rows
    for name, delimiter, quoting in (("a.csv", ",", csv.QUOTE_MINIMAL), ("a.tsv.gz", "\t", csv.QUOTE_ALL)):
        stream = io.StringIO(newline="")
        csv.writer(stream, delimiter=delimiter, quoting=quoting).writerows([fields, *rows])
        content = stream.getvalue().encode()
        assert rows_of(write(name, gzip.compress(content) if name.endswith(".gz") else content), **options) == rows


@quick
@given(content=st.binary() | st.text('{}[]",:\n\r\t \\ub0é').map(str.encode), form=st.sampled_from(sorted(OPTIONS)))
def test_any_bytes_give_rows_or_a_refusal(write, content, form):
    """A failure means that a library's own error, or an endless loop, reaches the user."""
    variants = {"jsonl": [{}, {"turns": "b"}], "dialogue": [{}, {"speakers": True}]}.get(form, [{}])
    for options in variants:
        for name in ("a.txt", "a.gz"):
            file, message, found = write(name, content), name, []
            try:
                found = rows_of(file, form, **options)
            except ValueError as refusal:
                message = str(refusal)
            assert name in message
            assert all(text.strip() and group for text, _, group in found)
