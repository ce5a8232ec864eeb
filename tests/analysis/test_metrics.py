"""Metrics: hand-computed cases, naive loops, torchmetrics as a third opinion, and intervals that cover."""

import math
import time

import pytest
import torch
from torch import Tensor
from torchmetrics.functional import pairwise_cosine_similarity
from torchmetrics.functional.retrieval import retrieval_reciprocal_rank

from latticegnn.analysis import (
    cosine,
    evaluate,
    fvu,
    metrics,
    neighbour_recall,
    paired_difference,
    reciprocal_rank,
    row_statistics,
    target_rank,
)

PLAIN = ["fvu", "explained_variance", "cosine", "neighbour_recall@10"]
RETRIEVAL = ["mrr@10", "recall@1", "recall@10"]


def explains(error: pytest.ExceptionInfo, *parts: str) -> None:
    for part in parts:
        assert part in str(error.value), f"{part!r} not in {error.value}"


def noisy(n: int, d: int, noise: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randn(n, d, generator=generator)
    return target + noise * torch.randn(n, d, generator=generator), target


def test_fvu_and_cosine_by_hand():
    target = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    prediction = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert fvu(prediction, target, torch.tensor([1.0, 1.0])) == pytest.approx(3 / 4)
    assert fvu(prediction, target, torch.zeros(2)) == pytest.approx(3 / 8)  # another mean, another yardstick
    assert cosine(prediction, target) == pytest.approx((1 + 1 / math.sqrt(2)) / 2)
    assert cosine(torch.tensor([[0.0, 0.0], [-3.0, 0.0]]), target) == pytest.approx(-0.5)


def test_neighbours_by_hand():
    angles = torch.tensor([0.0, 0.1, 0.3, 0.6])
    target = torch.stack([angles.cos(), angles.sin()], dim=1)
    moved = torch.tensor([0.0, 0.25, 0.3, 0.6])
    prediction = torch.stack([moved.cos(), moved.sin()], dim=1)
    # nearest one: 1 0 1 2 among the targets, 1 2 1 2 among the predictions
    assert neighbour_recall(prediction, target, k=1) == pytest.approx(3 / 4)
    assert neighbour_recall(7 * target, target, k=2) == 1
    assert neighbour_recall(prediction, target, k=3) == 1


def test_ranks_by_hand():
    target = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]])
    prediction = torch.tensor([[9.0, 0.1], [1.0, 0.2], [1.0, 1.0], [0.0, 0.0]])
    # the last two targets tie with each other; a zero vector ties with all
    assert target_rank(prediction, target).tolist() == [1, 4, 2, 4]
    assert reciprocal_rank(prediction, target).tolist() == [1, 0.25, 0.5, 0.25]
    assert reciprocal_rank(prediction, target, k=2).tolist() == [1, 0, 0.5, 0]


@pytest.mark.parametrize("block", [7, 1024])
def test_equals_naive_loops_and_torchmetrics(monkeypatch, block):
    monkeypatch.setattr(metrics, "BLOCK", block)
    prediction, target = noisy(60, 6, 0.7)
    scores = pairwise_cosine_similarity(prediction.double(), target.double())
    ranks = target_rank(prediction, target)
    naive = [sum(bool(s >= scores[i, i]) for s in scores[i]) for i in range(60)]
    assert ranks.tolist() == naive
    assert len(set(naive)) > 5
    for i in range(60):
        third = retrieval_reciprocal_rank(scores[i], torch.arange(60) == i, top_k=10)
        assert reciprocal_rank(prediction, target)[i] == pytest.approx(float(third))
    overlap = 0
    for i in range(60):
        near = []
        for rows in (prediction, target):
            own = pairwise_cosine_similarity(rows.double())[i].tolist()
            near.append(set(sorted((j for j in range(60) if j != i), key=lambda j, own=own: -own[j])[:4]))
        overlap += len(near[0] & near[1])
    assert neighbour_recall(prediction, target, k=4) == pytest.approx(overlap / 240)


def test_figures_are_the_rows_own():
    prediction, target = noisy(40, 5, 1.0)
    mean = torch.full((5,), 0.1)
    found = evaluate(prediction, target, mean, pairs=True)
    assert list(found) == PLAIN + RETRIEVAL
    ranks = target_rank(prediction, target)
    expected = {
        "fvu": fvu(prediction, target, mean),
        "explained_variance": 1 - fvu(prediction, target, mean),
        "cosine": cosine(prediction, target),
        "neighbour_recall@10": neighbour_recall(prediction, target),
        "mrr@10": float(reciprocal_rank(prediction, target).mean()),
        "recall@1": float((ranks == 1).double().mean()),
        "recall@10": float((ranks <= 10).double().mean()),
    }
    assert {name: figure["value"] for name, figure in found.items()} == pytest.approx(expected)
    assert all(figure["low"] < figure["value"] < figure["high"] for figure in found.values())
    assert list(evaluate(prediction, target, mean, pairs=False)) == PLAIN


def test_the_bootstrap_is_that_of_a_loop():
    prediction, target = noisy(30, 4, 0.8)
    mean = target.mean(dim=0)
    drawn = torch.randint(30, (200, 30), generator=torch.Generator().manual_seed(5))
    naive = torch.tensor([fvu(prediction[rows], target[rows], mean) for rows in drawn], dtype=torch.float64)
    found = evaluate(prediction, target, mean, pairs=False, resamples=200, seed=5)["fvu"]
    assert found["low"] == pytest.approx(float(naive.quantile(0.025)))
    assert found["high"] == pytest.approx(float(naive.quantile(0.975)))


def test_the_seed_decides():
    prediction, target = noisy(30, 4, 0.8)
    arguments = (prediction, target, target.mean(dim=0), True)
    state = torch.get_rng_state()
    assert evaluate(*arguments, seed=1) == evaluate(*arguments, seed=1)
    assert evaluate(*arguments, seed=1) != evaluate(*arguments, seed=2)
    assert torch.equal(state, torch.get_rng_state())


def test_intervals_cover():
    """A failure means that a 95 % interval does not hold the true value about 95 times in 100."""
    truth = 0.25  # noise of variance 0.25 on targets of variance 1 about a mean of 0
    hits = 0
    for seed in range(200):
        prediction, target = noisy(60, 3, 0.5, seed)
        figure = evaluate(prediction, target, torch.zeros(3), pairs=False, resamples=300)["fvu"]
        hits += figure["low"] <= truth <= figure["high"]
    assert 0.90 <= hits / 200 <= 0.985


def test_constant_predictions_score_chance():
    target = noisy(101, 8, 0.0)[1]
    mean = target.mean(dim=0)
    found = evaluate(mean.expand(101, 8), target, mean, pairs=True)
    assert found["fvu"] == pytest.approx({"value": 1, "low": 1, "high": 1})
    assert found["neighbour_recall@10"] == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    assert found["recall@1"]["value"] == pytest.approx(1 / 101)
    assert found["recall@10"]["value"] == pytest.approx(10 / 101)
    nothing = evaluate(torch.zeros(101, 8), target, mean, pairs=True)
    assert nothing["recall@10"]["value"] == nothing["cosine"]["value"] == 0


def test_a_perfect_prediction():
    target = noisy(20, 8, 0.0)[1]
    found = evaluate(target, target, target.mean(dim=0), pairs=True)
    assert found["fvu"]["value"] == 0
    assert [found[name]["value"] for name in PLAIN[1:] + RETRIEVAL] == pytest.approx([1] * 6)


def test_pairing_removes_shared_luck():
    prediction, target = noisy(200, 6, 0.6)
    better = target + 0.95 * (prediction - target)
    mean = target.mean(dim=0)
    first, second = (row_statistics(p, target, mean, pairs=True)["fvu"] for p in (prediction, better))
    found = paired_difference(first, second)
    a, b = (evaluate(p, target, mean, pairs=False)["fvu"] for p in (prediction, better))
    assert found["value"] == pytest.approx(a["value"] - b["value"])
    assert found["low"] > 0
    assert a["low"] < b["high"]  # their own intervals overlap
    assert found == paired_difference(first, second)
    assert paired_difference(first, first) == {"value": 0, "low": 0, "high": 0}
    with pytest.raises(ValueError) as error:
        paired_difference(first, second[1:])
    explains(error, "same rows", "[200, 2] and [199, 2]", "row_statistics")


def test_bad_values_are_named():
    prediction, target = noisy(20, 4, 0.5)
    mean = target.mean(dim=0)
    broken = prediction.clone()
    broken[7, 2], broken[9, 0] = float("nan"), float("inf")
    with pytest.raises(ValueError) as error:
        evaluate(broken, target, mean, pairs=True)
    explains(error, "Predictions must be finite", "row 7 (2 rows", "learning rate")
    with pytest.raises(ValueError) as error:
        evaluate(prediction, broken, mean, pairs=True)
    explains(error, "Targets must be finite", "row 7")
    with pytest.raises(ValueError) as error:
        evaluate(prediction[:10], target[:10], mean, pairs=True)
    explains(error, "n − 1 other rows", "k = 10 with n = 10", "at least 11 rows")
    with pytest.raises(ValueError) as error:
        evaluate(prediction, target[:, :3], mean, pairs=True)
    explains(error, "same shape [n, D]", "[20, 4] and [20, 3]", "same teacher")
    with pytest.raises(ValueError) as error:
        fvu(prediction, target, mean[:3])
    explains(error, "must be 4 finite numbers", "shape [3]", "train_targets.mean")
    with pytest.raises(ValueError) as error:
        fvu(prediction, mean.expand(20, 4), mean)
    explains(error, "targets that vary", "20 targets", "different texts")
    with pytest.raises(ValueError) as error:
        evaluate(prediction, target, mean, pairs=True, resamples=0)
    explains(error, "at least 1 resample", "received 0", "1000")
    with pytest.raises(ValueError) as error:
        reciprocal_rank(prediction, target, k=0)
    explains(error, "at least 1", "k = 0", "k=10")


def test_fast_enough_for_every_epoch():
    prediction, target = noisy(1000, 384, 1.0)
    start = time.process_time()
    evaluate(prediction, target, target.mean(dim=0), pairs=True)
    assert time.process_time() - start < 1
