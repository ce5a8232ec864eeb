"""Codes that keep what they say, and next words counted by hand."""

import torch

from latticegnn.analysis.text_baselines import bigram, principal_code, standardised

SAMPLE = torch.randn(200, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 9) + 3


def test_all_numbers_are_kept_and_standardised() -> None:
    model = standardised(SAMPLE)
    made = model(SAMPLE).embedding
    torch.testing.assert_close(made, (SAMPLE - SAMPLE.mean(dim=0)) / SAMPLE.std(dim=0), atol=1e-5, rtol=1e-5)
    assert model.fitted == 16


def test_the_principal_code_is_white_and_holds_the_most_variance() -> None:
    model = principal_code(SAMPLE, 3)
    code = model(SAMPLE).embedding
    torch.testing.assert_close(code.T.cov(), torch.eye(3), atol=1e-4, rtol=1e-4)
    # What a linear map reads off the code is what PCA reconstructs (Eckart and Young, 1936).
    centred = SAMPLE - SAMPLE.mean(dim=0)
    left = centred - code @ torch.linalg.lstsq(code, centred).solution
    torch.testing.assert_close(left.square().sum(), torch.linalg.svdvals(centred)[3:].square().sum())


def test_the_most_frequent_row_after_a_last_word_is_the_answer() -> None:
    train = ["the cat", "a cat", "one cat", "the dog", "a dog,"]
    rows = torch.tensor([[5, 1], [5, 1], [6, 1], [7, 1], [6, 1]])
    answers, contexts = bigram(train, rows, ["no cat", "no dog", "no dog,", "no fish", ""])
    assert answers.tolist() == [[5, 1], [7, 1], [6, 1], [5, 1], [5, 1]], "most often at all where nothing is known"
    assert contexts == 3
