"""Word vectors: files come back as written, damaged ones are refused, and texts are the mean of their known words."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from latticegnn.data import EmbeddingCache, WordVectors

WORDS = ["the", "cat", "don't", "naïve", "U.S.", "3.14", "猫", "Paris"]
VECTORS = np.random.default_rng(0).normal(size=(len(WORDS), 5)).astype(np.float32)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


def binary(words: list[str], vectors: np.ndarray, end: bytes = b"\n") -> bytes:
    """Return what word2vec's own tool writes: a newline behind every vector; gensim writes none."""
    rows = [word.encode() + b" " + vector.tobytes() + end for word, vector in zip(words, vectors, strict=True)]
    return f"{len(words)} {vectors.shape[1]}\n".encode() + b"".join(rows)


def text(words: list[str], vectors: np.ndarray, header: bool = True, end: str = " \n") -> bytes:
    """Return what word2vec's own tool writes as text, with a space at the end of a line; GloVe's has none."""
    rows = [
        " ".join([word, *(repr(float(value)) for value in vector)]) + end
        for word, vector in zip(words, vectors, strict=True)
    ]
    return ((f"{len(words)} {vectors.shape[1]}\n" if header else "") + "".join(rows)).encode()


FORMATS = {
    "a.bin": binary(WORDS, VECTORS),
    "gensim.bin": binary(WORDS, VECTORS, b""),
    "a.txt": text(WORDS, VECTORS),
    "windows.vec": text(WORDS, VECTORS, end="\r\n"),
    "glove.txt": text(WORDS, VECTORS, header=False, end="\n"),
}


@pytest.fixture
def put(tmp_path) -> Callable[[str, bytes], Path]:
    def write(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.fixture
def vectors(put) -> WordVectors:
    return WordVectors(put("a.bin", FORMATS["a.bin"]))


@pytest.mark.parametrize("name", FORMATS)
def test_files_come_back_bit_for_bit(put, name):
    vectors = WordVectors(put(name, FORMATS[name]))
    assert (len(vectors), vectors.dim, vectors.pooling) == (8, 5, "mean")
    assert vectors.source.endswith(name)
    assert set(vectors.dropped.values()) == {0}
    for word, expected in zip(WORDS, VECTORS, strict=True):
        assert word in vectors
        assert vectors.vector(word).tobytes() == expected.tobytes()
    assert "dog" not in vectors


def test_what_gensim_writes_is_read(tmp_path):
    from gensim.models import KeyedVectors

    written = KeyedVectors(5)
    written.add_vectors(WORDS, VECTORS)
    for name, options in {
        "a.bin": {"binary": True},
        "a.txt": {},
        "b.txt": {"write_header": False},
    }.items():
        written.save_word2vec_format(str(tmp_path / name), **options)
        read = WordVectors(tmp_path / name)
        np.testing.assert_array_equal([read.vector(word) for word in WORDS], VECTORS)


@pytest.mark.parametrize("name", ["any.bin", "any.txt", "glove.txt"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=FINITE),
    stem=st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), max_size=5),
)
def test_any_floats_come_back(put, name, values, stem):
    words = [f"w{number}{stem}" for number in range(len(values))]
    content = binary(words, values) if name == "any.bin" else text(words, values, name == "any.txt", "\n")
    read = WordVectors(put(name, content))
    assert b"".join(read.vector(word).tobytes() for word in words) == values.tobytes()


@pytest.mark.parametrize("name", FORMATS)
def test_the_first_rows_alone(put, name):
    vectors = WordVectors(put(name, FORMATS[name]), limit=3)
    assert [word in vectors for word in WORDS] == [True] * 3 + [False] * 5
    assert len(WordVectors(put(name, FORMATS[name]), limit=99)) == 8


# --- texts


def test_a_text_is_the_mean_of_its_words(vectors):
    embeddings = vectors.encode(["the cat", " (cat),\n“cat”?!", "U.S. 'naïve' don't", "3.14 -- 猫。"])
    expected = [
        VECTORS[[0, 1]].astype(np.float64).mean(axis=0),
        VECTORS[1],
        VECTORS[[4, 3, 2]].astype(np.float64).mean(axis=0),
        VECTORS[[5, 6]].astype(np.float64).mean(axis=0),
    ]
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, np.asarray(expected, dtype=np.float32))
    assert vectors.encode([]).shape == (0, 5)


def test_unknown_words_by_policy(put, refuses):
    path = put("a.bin", FORMATS["a.bin"])
    texts = ["the dog!", "dog dog", "", "...", "cat"]
    skip, zero, error = (WordVectors(path, unknown=policy) for policy in ("skip", "zero", "error"))
    nothing = np.zeros(5, dtype=np.float32)
    np.testing.assert_array_equal(skip.encode(texts), [VECTORS[0], nothing, nothing, nothing, VECTORS[1]])
    np.testing.assert_array_equal(zero.encode(texts), [VECTORS[0] / 2, nothing, nothing, nothing, VECTORS[1]])
    assert skip.unknown_words == zero.unknown_words == 3
    skip.encode(["cat"])
    assert skip.unknown_words == 0
    with refuses("Every text must consist of known words", "text 1 ('the dog!') has 'dog'", "Set unknown to 'skip'"):
        error.encode(["cat", "the dog!"])
    for empty in ("", "..."):
        with refuses("Every text must consist of known words", f"text 0 ({empty!r}) has no word", "remove the text"):
            error.encode([empty])


def test_lower_case(put):
    vectors = WordVectors(put("a.bin", FORMATS["a.bin"]), lowercase=True)
    np.testing.assert_array_equal(
        vectors.encode(["THE Naïve"])[0], (VECTORS[[0, 3]].astype(np.float64)).mean(axis=0).astype("f4")
    )
    assert "CAT" in vectors
    np.testing.assert_array_equal(vectors.vector("CAT"), VECTORS[1])
    assert "Paris" not in vectors, "the vocabulary itself stays as it is"


def test_the_fingerprint_is_of_content_and_settings(put):
    path = put("a.bin", FORMATS["a.bin"])
    copy = put("copy.bin", FORMATS["a.bin"])
    first = WordVectors(path).fingerprint
    assert first == WordVectors(copy).fingerprint == WordVectors(path, "word2vec-binary").fingerprint
    changed = [WordVectors(path, unknown="skip"), WordVectors(path, lowercase=True), WordVectors(path, limit=7)]
    changed.append(WordVectors(put("b.bin", binary(WORDS, 2 * VECTORS))))
    assert len({first, *(vectors.fingerprint for vectors in changed)}) == 5


def test_the_cache_takes_them_for_a_teacher(vectors, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache")
    np.testing.assert_array_equal(cache.embed(vectors, ["the cat", "cat"]), vectors.encode(["the cat", "cat"]))


def test_vectors_given_out_are_copies(vectors):
    vectors.vector("cat")[:] = 0
    np.testing.assert_array_equal(vectors.vector("cat"), VECTORS[1])


def test_bad_questions(vectors, refuses, put):
    with refuses("must be in the vocabulary", "'dog'", "`in`"):
        vectors.vector("dog")
    with refuses("must be a list of strings", "'the cat'", "[text]"):
        vectors.encode("the cat")
    with refuses("`unknown` must be one of", "'drop'", "'error' is the default"):
        WordVectors("a.bin", unknown="drop")
    with refuses("`format` must be one of", "'fasttext'", "'auto' is the default"):
        WordVectors("a.bin", format="fasttext")
    with refuses("`limit` counts words", "received 0", "None for all"):
        WordVectors("a.bin", limit=0)


# --- damaged files


@pytest.mark.parametrize("name", FORMATS)
def test_bad_rows_are_dropped_and_counted(put, name, caplog):
    words = [*WORDS, "nan", "inf", "both", "cat"]
    bad = np.vstack([VECTORS, np.ones((4, 5), dtype=np.float32)])
    bad[8, 1], bad[9, 4], bad[10, :2] = np.nan, -np.inf, (np.inf, np.nan)
    content = binary(words, bad) if name.endswith(".bin") else text(words, bad, "glove" not in name, "\n")
    with caplog.at_level(logging.WARNING):
        vectors = WordVectors(put(name, content.replace("naïve".encode(), b"na\xefve")))
    assert vectors.dropped == {"duplicate": 1, "nan": 2, "inf": 1, "encoding": 1}
    assert len(vectors) == 7
    np.testing.assert_array_equal(vectors.vector("cat"), VECTORS[1])
    assert [record.name for record in caplog.records] == ["latticegnn"]


def test_numbers_beyond_float32_are_infinite(put):
    vectors = WordVectors(put("a.txt", b"3 1\na 1e39\nb -1e400\nc 1e-60\n"))
    assert vectors.dropped["inf"] == 2
    assert vectors.vector("c").tolist() == [0]


BIN, TXT, GLOVE = FORMATS["a.bin"], FORMATS["a.txt"], FORMATS["glove.txt"]
HEAD = len(b"8 5\n")
COUNT = ("as many words as its first line says", "Correct the first line")
LARGE = ("as large as its header says", "Get it again")
ROWS = ("A row of a", "or correct `format`")
TEXT_ROWS = ("A row of a", "Correct that line, or `format`")
BEGIN = ("must begin with a line of two numbers", "Set format")
NUMBERS = ("All that follows a word must be numbers", "Correct or remove that line")
EMPTY = ("at least one word", "Get it again")

DAMAGED = {
    # name of the file: content, (rule, remedy), what is named
    "empty.bin": (b"", EMPTY, "is empty"),
    "empty.txt": (b"", EMPTY, "is empty"),
    "header-alone.bin": (BIN[:HEAD], LARGE, "has 4"),
    "header-alone.txt": (TXT[:HEAD], LARGE, "8 words of 5"),
    "half-a-header.bin": (BIN[:2], BEGIN, "b'8 '"),
    "in-a-word.bin": (BIN[: HEAD + 2], LARGE, "has 6"),
    "in-a-vector.bin": (BIN[: HEAD + 30], LARGE, "has 34"),
    "before-the-last-byte.bin": (BIN[:-2], ROWS, "row 8 of 8"),
    "in-the-last-row.txt": (TXT[:-30], TEXT_ROWS, "line 9"),
    "before-the-last-row.txt": (b"".join(TXT.splitlines(True)[:-1]), COUNT, "says 8 and has 7"),
    "in-a-row.glove": (GLOVE[:-30], TEXT_ROWS, "line 8"),
    "fewer.bin": (BIN.replace(b"8 5", b"7 5"), COUNT, "says 7 and has more"),
    "more.bin": (BIN.replace(b"8 5", b"9 5"), ROWS, "row 9 of 9"),
    "fewer.txt": (TXT.replace(b"8 5", b"7 5"), COUNT, "says 7 and has 8"),
    "more.txt": (TXT.replace(b"8 5", b"9 5"), COUNT, "says 9 and has 8"),
    "narrower.bin": (BIN.replace(b"8 5", b"8 4"), ROWS, "4 numbers"),
    "wider.bin": (BIN.replace(b"8 5", b"8 6"), ("must be", "Get"), "wider.bin"),
    "narrower.txt": (TXT.replace(b"8 5", b"8 4"), TEXT_ROWS, "line 2, has 5 after b'the'"),
    "terabytes.bin": (BIN.replace(b"8 5", b"1000000000000 300"), LARGE, "1000000000000 words"),
    "terabytes.txt": (TXT.replace(b"8 5", b"8 1000000000000"), LARGE, "1000000000000 dimensions"),
    "absurd.txt": (TXT.replace(b"8 5", b"9" * 5000 + b" 5"), TEXT_ROWS, "line 2"),
    "absurd.bin": (BIN.replace(b"8 5", b"9" * 5000 + b" 5"), BEGIN, "999"),
    "negative.bin": (BIN.replace(b"8 5", b"-8 5"), LARGE, "promises -8 words"),
    "negative.txt": (TXT.replace(b"8 5", b"8 -5"), LARGE, "-5 dimensions"),
    "nothing.txt": (b"0 5\n", LARGE, "promises 0 words"),
    "no-dimensions.txt": (b"1 0\na\n", LARGE, "0 dimensions"),
    "no-header.bin": (BIN[HEAD:], BEGIN, "no-header.bin"),
    "words-for-numbers.bin": (BIN.replace(b"8 5", b"eight 5"), BEGIN, "b'eight 5"),
    "short-row.txt": (TXT.replace(b"cat ", b"cat"), TEXT_ROWS, "line 3"),
    "long-row.txt": (TXT.replace(b"cat ", b"cat 1.5 "), TEXT_ROWS, "line 3, has 6 after b'cat'"),
    "short-row.glove": (GLOVE.replace(b"cat ", b"cat"), TEXT_ROWS, "line 2"),
    "word-with-a-space.glove": (GLOVE.replace(b"cat ", b"cat at "), TEXT_ROWS, "line 2"),
    "blank-line.glove": (GLOVE.replace(b"\n", b"\n\n", 1), TEXT_ROWS, "line 2, has 0 after b''"),
    "no-word.txt": (TXT.replace(b"cat ", b" "), TEXT_ROWS, "line 3"),
    "tabs.txt": (TXT.replace(b" ", b"\t"), TEXT_ROWS, "line 2"),
    "no-number.txt": (TXT.replace(b"cat ", b"cat x"), NUMBERS, "line 3, has 'x"),
    "no-number.glove": (GLOVE.replace(b"cat ", b"cat \xff"), NUMBERS, "line 2, has"),
    "binary.txt": (BIN, TEXT_ROWS, "line 2"),
    "text.bin": (TXT, ROWS, "row 1 of 8"),
    "prose.txt": (b"To be or not\nto be\n", TEXT_ROWS, "line 2"),
    "words.txt": (b"To be or not\nthat is the question\n", NUMBERS, "line 1, has 'be'"),
    "word.txt": (b"word\n", TEXT_ROWS, "has 0 after b'word'"),
    "zeros.bin": (bytes(500), BEGIN, "x00"),
    "all-bad.txt": (b"1 2\na nan 1\n", ("keep at least one word", "Get the file again"), "'nan': 1"),
    "packed.bin.gz": (b"\x1f\x8b" + BIN, ("must not be packed", "Unpack"), "packed.bin.gz"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files_are_named(put, refuses, name):
    content, (rule, remedy), received = DAMAGED[name]
    path = put(name, content)
    with refuses(rule, received, remedy):
        WordVectors(path)
    with refuses(rule, name, remedy):
        WordVectors(path)


@pytest.mark.parametrize(("name", "end"), [("a.bin", len(BIN) - 1), ("a.txt", TXT.rindex(b" ", 0, -2) + 2)])
def test_a_file_cut_anywhere_is_refused(put, name, end):
    """Behind `end` there is only word2vec's own newline, or the last digits of the last number."""
    for length in range(end):
        with pytest.raises(ValueError, match=name):
            WordVectors(put(name, FORMATS[name][:length]))
    assert len(WordVectors(put(name, FORMATS[name][:end]))) == 8


def test_one_format_read_as_another(put, refuses):
    path = put("a.bin", BIN)
    with refuses("A row of a word2vec-text file", "a.bin, line 2", "or `format`"):
        WordVectors(path, "word2vec-text")
    with refuses("A row of a glove file", "a.bin, line ", "or `format`"):
        WordVectors(path, "glove")
    with refuses("A row of a word2vec-binary file", "glove.txt", "or correct `format`"):
        WordVectors(put("glove.txt", b"8 5\n" + GLOVE), "word2vec-binary", limit=1)
    assert len(WordVectors(put("vectors.dat", BIN), "word2vec-binary")) == 8


def test_missing_files_and_packages(tmp_path, refuses, monkeypatch, put):
    for path in (tmp_path, tmp_path / "none.bin"):
        with refuses("must be an existing file", str(path), "Check the path", kind=FileNotFoundError):
            WordVectors(path)
    monkeypatch.setitem(__import__("sys").modules, "gensim.models", None)
    with refuses("read by gensim", "a.bin", "pip install 'latticegnn[words]'", kind=ModuleNotFoundError):
        WordVectors(put("a.bin", BIN))


def test_what_exceeds_the_memory_is_refused(put, refuses, monkeypatch):
    import psutil

    little = psutil.virtual_memory()._replace(available=1000)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: little)
    with refuses("must fit the free memory", "a.bin takes 2,560 bytes of 1,000", "smaller `limit`"):
        WordVectors(put("a.bin", BIN))
    assert len(WordVectors(put("a.bin", BIN), limit=3)) == 3
