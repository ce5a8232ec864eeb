"""Token metrics against values counted by hand, and BLEU against the library's own corpus figure."""

import pytest
import torch
from torchmetrics.text import SacreBLEUScore

from latticegnn.analysis.metrics import paired_difference
from latticegnn.analysis.text_metrics import bleu, bleu_statistics, evaluate_texts, token_statistics

PAD, EOS, UNK = 0, 1, 2


def rows(*texts: str) -> torch.Tensor:
    """Letters as ids from 3 on, "?" as unknown, "." as the end; padded to 5."""
    ids = [[{".": EOS, "?": UNK}.get(c, ord(c) - 94) for c in text] for text in texts]
    return torch.tensor([row + [PAD] * (5 - len(row)) for row in ids])


def test_token_metrics_are_those_counted_by_hand() -> None:
    target = rows("ab.", "ab.", "abcd.", "ab.", "aab.")
    given = rows("ab.", "ba.", "abd.", "abc.", "aba.")
    found = token_statistics(given, target, EOS)
    assert found["token_accuracy"].tolist() == [[2, 2], [0, 2], [2, 4], [2, 2], [1, 3]]
    assert found["exact_match"][:, 0].tolist() == [1, 0, 0, 0, 0]
    # Bags: ab/ab; ba/ab; abd/abcd: 3 of 3 and 4; abc/ab: 2 of 3 and 2; aba/aab: all
    assert found["token_f1"][:, 0].tolist() == pytest.approx([1, 1, 6 / 7, 4 / 5, 1])


def test_what_follows_an_end_is_no_token() -> None:
    found = token_statistics(rows("a.b"), rows("ab."), EOS)
    assert found["token_accuracy"].tolist() == [[1, 2]]
    assert found["token_f1"][0, 0] == pytest.approx(2 / 3)
    found = token_statistics(rows("ab."), rows("a.b"), EOS)
    assert found["token_accuracy"].tolist() == [[1, 1]]
    assert found["exact_match"][0, 0] == 0


def test_padding_that_is_the_end_changes_nothing() -> None:
    target, given = rows("ab.", "abc."), rows("ac.", "abc.")
    plain = token_statistics(given, target, EOS)
    same = token_statistics(given.masked_fill(given == PAD, EOS), target.masked_fill(target == PAD, EOS), EOS)
    assert all(torch.equal(plain[name], same[name]) for name in plain)


def test_an_unknown_word_is_never_right() -> None:
    found = token_statistics(rows("a?."), rows("a?."), EOS, UNK)
    assert found["token_accuracy"].tolist() == [[1, 2]]
    assert found["exact_match"][0, 0] == 0
    assert found["token_f1"][0, 0] == pytest.approx(1 / 2)


def test_empty_rows_agree_and_count_for_no_accuracy() -> None:
    found = token_statistics(rows(".", "a."), rows(".", "a."), EOS)
    assert found["token_accuracy"].tolist() == [[0, 0], [1, 1]]
    assert found["exact_match"][:, 0].tolist() == found["token_f1"][:, 0].tolist() == [1, 1]


def test_rows_that_do_not_fit_are_refused(refuses) -> None:
    with refuses("the same shape [n, L]", "[1, 5] and [2, 5]", "Generate with the decoder"):
        token_statistics(rows("a."), rows("a.", "b."), EOS)
    with refuses("needs tokens that are wanted", "1 rows", "Check that the targets"):
        token_statistics(rows("a."), rows("."), EOS)


TARGETS = ["the cat sat on the mat", "read the lines of a file", "one two three four five six"]
GIVEN = ["the cat sat on a mat", "the lines of a file", "one two three four five six seven"]


def test_bleu_is_the_library_s() -> None:
    metric = SacreBLEUScore()
    metric.update(GIVEN, [[text] for text in TARGETS])
    assert float(bleu(bleu_statistics(GIVEN, TARGETS).sum(dim=0))) == pytest.approx(float(metric.compute()), abs=1e-6)


def test_bleu_of_one_sentence_by_hand() -> None:
    sums = bleu_statistics(["a b c d"], ["a b c d e f"])[0]
    assert sums.tolist() == [4, 3, 2, 1, 4, 3, 2, 1, 4, 6]
    assert float(bleu(sums)) == pytest.approx(torch.tensor(1 - 6 / 4).exp().item())
    assert float(bleu(bleu_statistics(["a b x d"], ["a b c d"])[0])) == 0
    assert float(bleu(bleu_statistics([""], ["a b c d"])[0])) == 0


def test_every_metric_has_an_interval_around_it() -> None:
    target, given = rows("ab.", "ab.", "abcd.").repeat(5, 1), rows("ab.", "ba.", "abd.").repeat(5, 1)
    shares = token_statistics(given, target, EOS)
    vectors = torch.eye(3).repeat(5, 1)
    found = evaluate_texts(shares, GIVEN * 5, TARGETS * 5, (vectors, vectors.roll(1, dims=0)), resamples=200)
    assert list(found) == ["token_accuracy", "exact_match", "token_f1", "reembedded_cosine", "bleu"]
    assert found["token_accuracy"]["value"] == pytest.approx(4 / 8)
    assert found["reembedded_cosine"]["value"] == 0
    for figure in found.values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    assert found["bleu"]["low"] < found["bleu"]["high"]


def test_bleu_is_left_out_where_no_target_has_four_words() -> None:
    shares = token_statistics(rows("ab."), rows("ab."), EOS)
    assert "bleu" not in evaluate_texts(shares, ["a b"], ["a b"], resamples=2)


def test_two_models_are_compared_on_the_same_rows() -> None:
    target = rows("ab.", "ab.", "ab.", "ab.")
    first = token_statistics(target, target, EOS)["token_accuracy"]
    second = token_statistics(rows("ab.", "ac.", "cb.", "ab."), target, EOS)["token_accuracy"]
    assert paired_difference(first, second)["value"] == pytest.approx(1 / 4)
