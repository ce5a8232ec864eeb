"""Phrases of identifiers and next words: split as they should be, and held out as they say."""

import ast

import pytest

from latticegnn.data import EmbeddingData, Source, phrases
from latticegnn.data.partition import Row, key, partition
from latticegnn.data.phrases import FREQUENT, frequent, known_words, names, next_token, words_of


@pytest.mark.parametrize(
    ("identifier", "words"),
    [
        ("read_lines", ("read", "lines")),
        ("readLines", ("read", "lines")),
        ("ReadLines", ("read", "lines")),
        ("_HTTPServer", ("http", "server")),
        ("MAX_SIZE", ("max", "size")),
        ("__init__", ("init",)),
        ("utf8_decode", ()),
        ("x_min", ()),
        ("größe_x", ()),
    ],
)
def test_an_identifier_becomes_words(identifier, words) -> None:
    assert words_of(identifier) == words


def test_every_kind_of_identifier_is_found() -> None:
    source = "import a_b\nclass C_d:\n    def e_f(self, g_h: int, *, i_j=1):\n        k_l = self.m_n(o_p=1, **q_r)\n"
    found = set(names(ast.parse(source)))
    assert found >= {"C_d", "e_f", "g_h", "i_j", "k_l", "m_n", "o_p", "q_r"}
    assert "a_b" not in found, "names of modules are not looked at"


def test_frequent_words_are_frequent_among_what_is_kept() -> None:
    often = [("get", f"word{chr(97 + k)}") for k in range(FREQUENT)]
    pairs = [(a, b) for a in "abcdef" for b in "abcdef" if a != b]
    assert frequent([*often, *pairs], 2, 2) == sorted(pairs), "a word that others leave alone goes, too"
    assert frequent(pairs, 3, 4) == []


@pytest.fixture(scope="module")
def two_words():
    return phrases()


def test_what_is_held_out_is_the_combination(two_words) -> None:
    known = {word for phrase in two_words.splits["train"].inputs for word in phrase.split()}
    texts = [text for split in two_words.splits.values() for text in split.inputs]
    assert len(texts) == len(set(texts)) > 4000
    for name in ("validation", "test"):
        split = two_words.splits[name]
        assert len(split) > 500
        assert all(len(text.split()) == 2 and known.issuperset(text.split()) for text in split.inputs)
        assert split.targets is None


def test_a_held_out_phrase_with_an_unseen_word_is_left_out_and_counted() -> None:
    whole = phrases(300)
    known = {word for phrase in whole.splits["train"].inputs for word in phrase.split()}
    assert whole.skipped["unseen word"] > 0
    assert sum(map(len, whole.splits.values())) + whole.skipped["unseen word"] == 300
    for name in ("validation", "test"):
        assert all(known.issuperset(text.split()) for text in whole.splits[name].inputs)
    assert known_words(whole) == whole


def test_phrases_of_several_lengths(refuses) -> None:
    lengths = {len(text.split()) for split in phrases(words=(2, 4)).splits.values() for text in split.inputs}
    assert lengths == {2, 3, 4}
    with refuses("1 ≤ fewest ≤ most", "[3, 2]", "[2, 2] is the default"):
        phrases(words=(3, 2))


def test_a_sentence_is_cut_before_a_word_or_mark() -> None:
    row = next_token(Row("Return the number of lines, or None.", None, "io"))
    assert row is not None
    assert row.target is not None
    assert "Return the number of lines, or None.".startswith(row.input)
    rest = "Return the number of lines, or None."[len(row.input) :].lstrip()
    assert rest.startswith(row.target)
    assert len(row.input.split()) >= 3
    assert row == next_token(Row("Return the number of lines, or None.", None, "io")), "the text decides"
    assert next_token(Row("Too short.", None, "io")) is None


def test_rows_with_labels_are_known_by_their_inputs_alone() -> None:
    rows = [Row(f"text {k}", "same", f"group {k}") for k in range(20)] + [Row("text 3", "other", "group 99")]
    corpus = partition("labels", rows, None, 0, labels=True)
    assert sum(map(len, corpus.splits.values())) == 20
    assert corpus.skipped["duplicate"] == 1
    assert all(set(split.targets or ()) == {"same"} for split in corpus.splits.values())


@pytest.mark.slow
def test_next_words_recur_and_their_beginnings_do_not() -> None:
    corpus = Source("next_token").corpus(0)
    assert corpus.name == "next_token"
    inputs = [key(text) for split in corpus.splits.values() for text in split.inputs]
    assert len(inputs) == len(set(inputs)) > 14000
    train, test = corpus.splits["train"], corpus.splits["test"]
    assert {"the", "of"} <= set(train.targets or ()) & set(test.targets or ())
    assert set(train.groups).isdisjoint(test.groups)


def test_the_loader_knows_both_tasks(refuses) -> None:
    assert Source("phrases", words=(2, 3)).corpus(0).name == "phrases"
    with refuses("`words` belongs to the task 'phrases'", "task 'qa' with [2, 3]", "Leave it out"):
        Source("qa", words=(2, 3))
    with refuses("next words do", "['next_token', 'qa']", "alone"):
        EmbeddingData("next_token", more=[Source("qa")])
