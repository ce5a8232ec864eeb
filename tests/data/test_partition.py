"""Splits: balanced, cut between documents, whatever the order of the rows; no text in two of them."""

import pytest

from latticegnn.data import partition
from latticegnn.data.partition import Row

NAMES = ["train", "validation", "test"]


@pytest.mark.parametrize("seed", range(10))
def test_splits_stay_balanced_with_very_unequal_documents(seed):
    sizes = {f"g{n}": 200 if n < 3 else 1 + n % 20 for n in range(150)}
    rows = [Row(f"text {n} of {group}", None, group) for group, size in sizes.items() for n in range(size)]
    splits = partition.partition("x", rows, None, seed).splits
    assert {"g0", "g1", "g2"} <= set(splits["train"].groups)
    for name in NAMES:
        assert abs(len(splits[name]) / len(rows) - partition.SPLIT_SHARES[name]) < 0.03


def test_the_order_of_rows_does_not_matter():
    rows = [Row(f"text number {n} of group {g}", None, f"g{g}") for g in range(150) for n in range(g % 3 + 1)]
    assert partition.partition("x", rows, None, 0) == partition.partition("x", rows[::-1], None, 0)


def test_duplicates_differ_in_more_than_case_and_spacing():
    rows = [Row(text, None, group) for text, group in [("A b  c.", "x"), ("a B c", "y"), ("!!", "x"), ("??", "x")]]
    assert [row.input for row in partition.unique(rows)] == ["!!", "??", "A b  c."]


def test_cut_without_documents(refuses):
    parts = partition.cut(100, 20, seed=0)
    assert [len(parts[name]) for name in NAMES] == [14, 2, 4]
    whole = partition.cut(100, None, seed=0)
    assert sorted(index for part in whole.values() for index in part) == list(range(100))
    assert all(set(parts[name]) <= set(whole[name]) for name in NAMES)
    with refuses("at least 3 rows", "received 2", "Add rows"):
        partition.cut(2, None, seed=0)


@pytest.mark.parametrize("sizes", [[5, 5, 5], [1, 2, 300], [9, 9, 1, 1], [7] * 20, [1, 50, 50, 50, 50]])
def test_a_few_large_documents_still_fill_every_split(sizes):
    rows = [Row(f"text {n} of {g}", None, f"g{g}") for g, size in enumerate(sizes) for n in range(size)]
    splits = partition.partition("x", rows, None, 0).splits
    assert all(len(splits[name]) for name in NAMES)
    assert sum(len(split) for split in splits.values()) == sum(sizes)
    if sizes == [7] * 20:
        assert [len(splits[name]) // 7 for name in NAMES] == [14, 3, 3]


def test_linked_rows_share_texts_within_their_group_only():
    rows = [
        Row("a", "b", "first"),
        Row("b", "c", "first"),
        Row("B.", "C", "first"),  # the pair before, but for case and punctuation
        Row("d", "b", "second"),  # "b" is the first group's
        Row("d", "e", "second"),
    ]
    assert [(row.input, row.target) for row in partition.unique(rows, linked=True)] == [
        ("B.", "C"),
        ("a", "b"),
        ("d", "e"),
    ]
    assert [(row.input, row.target) for row in partition.unique(rows)] == [("B.", "C")]


def test_duplicates_are_counted():
    rows = [Row(f"text {n % 10}", None, f"g{n}") for n in range(12)]
    assert partition.partition("x", rows, None, 0).skipped == {"duplicate": 2}
