"""How good are predicted embeddings? Each figure with the interval that its rows support."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256
"""Rows whose cosines with all others are held at once."""

DECIMALS = 9
"""Decimals to which cosines are compared: rows that are equal up to rounding are ties."""


class Interval(TypedDict):
    """A metric's value on all rows and the bounds of its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


def fvu(prediction: Tensor, target: Tensor, mean: Tensor) -> float:
    r"""Compute the fraction of variance unexplained.

    .. math::
        \mathrm{FVU} = \frac{\sum_i \|p_i - t_i\|^2}{\sum_i \|t_i - \bar t\|^2}

    0 is perfect; 1 is what always answering the training mean gives, so that 1 − FVU, the explained variance, is what
    the inputs were good for. It is unbounded above.

    Args:
        prediction: p.
        target: t.
        mean: Mean of the TRAINING targets; that of the rows at hand would hide a shift between the splits.

    Shapes:
        prediction [n, D], target [n, D], mean [D].

    Raises:
        ValueError: When shapes disagree, a value is not finite, or all targets equal the mean.
    """
    return _ratio(_fvu_rows(*_checked(prediction, target), mean))


def cosine(prediction: Tensor, target: Tensor) -> float:
    """Compute the mean cosine of each prediction [n, D] with its target [n, D], in −1…1; a zero vector counts 0."""
    return float(functional.cosine_similarity(*_checked(prediction, target)).mean())


def neighbour_recall(prediction: Tensor, target: Tensor, k: int = 10) -> float:
    r"""Compute which part of each row's k nearest other rows the predictions keep, on the mean.

    .. math::
        \frac{1}{n} \sum_i \frac{|\,\mathrm{NN}_k(p_i) \cap \mathrm{NN}_k(t_i)\,|}{k}

    NN_k are the k other rows of highest cosine, among the predictions and among the targets. Rows that tie for the last
    places share them: a constant prediction scores chance, k / (n − 1), and not what the order of the rows would give.

    Args:
        prediction: p.
        target: t.
        k: Neighbours, in 1…n − 1.

    Shapes:
        prediction [n, D], target [n, D].

    Raises:
        ValueError: When shapes disagree, a value is not finite, or k is out of range.
    """
    return float(_neighbour_rows(*_checked(prediction, target), k).mean())


def target_rank(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Compute the place of the right target among all n targets, sorted by their cosine with the prediction.

    .. math::
        \mathrm{rank}_i = |\{ j : \cos(p_i, t_j) \ge \cos(p_i, t_i) \}|

    1 is best. Ties count against the prediction, so that a constant score cannot win.

    Shapes:
        prediction [n, D], target [n, D] → [n], int64, in 1…n.

    Raises:
        ValueError: When shapes disagree or a value is not finite.
    """
    prediction, target = _checked(prediction, target)
    ranks, start = [], 0
    for block in _cosines(prediction, target):
        own = block.diagonal(start)[: len(block), None]
        ranks.append((block >= own).sum(dim=1))
        start += len(block)
    return torch.cat(ranks)


def reciprocal_rank(prediction: Tensor, target: Tensor, k: int = 10) -> Tensor:
    """Compute 1 / `target_rank` per row, and 0 beyond rank k; its mean is MRR@k (Voorhees, 1999).

    Shapes:
        prediction [n, D], target [n, D] → [n], float64, in 0…1.

    Raises:
        ValueError: When shapes disagree, a value is not finite, or k is below 1.
    """
    if k < 1:
        raise ValueError(f"Reciprocal ranks are counted down to a rank k of at least 1; received k = {k}. Write k=10.")
    return _reciprocal(target_rank(prediction, target), k)


def row_statistics(prediction: Tensor, target: Tensor, train_mean: Tensor, pairs: bool) -> dict[str, Tensor]:
    """Compute each metric's share of each row: a numerator and a denominator, whose sums over the rows give the metric.

    Args:
        prediction: p.
        target: t.
        train_mean: Mean of the training targets, for `fvu`.
        pairs: Input and target are different things (a question, its answer), so that finding the right target is a
            task; without, retrieval is left out.

    Shapes:
        prediction [n, D], target [n, D], train_mean [D] → metric name → [n, 2], float64.

    Raises:
        ValueError: When shapes disagree, a value is not finite, n is below 11, or all targets equal the mean.
    """
    prediction, target = _checked(prediction, target)
    unexplained = _fvu_rows(prediction, target, train_mean)
    residual, variance = unexplained.unbind(1)
    means = {
        "cosine": functional.cosine_similarity(prediction, target),
        "neighbour_recall@10": _neighbour_rows(prediction, target, 10),
    }
    if pairs:
        rank = target_rank(prediction, target)
        means |= {"mrr@10": _reciprocal(rank, 10), "recall@1": (rank <= 1).double(), "recall@10": (rank <= 10).double()}
    return {
        "fvu": unexplained,
        "explained_variance": torch.stack([variance - residual, variance], dim=1),
        **{name: torch.stack([rows, torch.ones_like(rows)], dim=1) for name, rows in means.items()},
    }


def figures(prediction: Tensor, target: Tensor, train_mean: Tensor, pairs: bool) -> dict[str, float]:
    """Compute the metrics of `row_statistics` without intervals; NaN each where a prediction is not finite."""
    if not bool(prediction.isfinite().all()):
        known = row_statistics(target, target, train_mean, pairs)
        return dict.fromkeys(known, float("nan"))
    shares = row_statistics(prediction, target, train_mean, pairs)
    return {name: float(share[:, 0].sum() / share[:, 1].sum()) for name, share in shares.items()}


def evaluate(
    prediction: Tensor, target: Tensor, train_mean: Tensor, pairs: bool, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """Measure predictions, each metric with the 95 % percentile bootstrap interval over rows (Efron, 1979).

    ``fvu``, ``explained_variance`` (1 − FVU), ``cosine``, ``neighbour_recall@10`` and, for pairs, ``mrr@10``,
    ``recall@1`` and ``recall@10``. A resample draws n rows with replacement, the same for all metrics; neighbours and
    ranks stay those among all rows. The interval speaks of other rows from the same documents, not of other training
    seeds.

    Args:
        prediction: p.
        target: t.
        train_mean: Mean of the training targets.
        pairs: See `row_statistics`.
        resamples: Number of resamples, ≥ 1.
        seed: Of the resamples.

    Shapes:
        prediction [n, D], target [n, D], train_mean [D], n ≥ 11.

    Raises:
        ValueError: When shapes disagree, a value is not finite (the row is named), n is below 11, all targets equal the
            mean, or ``resamples`` is below 1.
    """
    return intervals(row_statistics(prediction, target, train_mean, pairs), resamples, seed)


def intervals(rows: Mapping[str, Tensor], resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Give metrics from their shares of each row, see `row_statistics`, each with its 95 % bootstrap interval.

    Args:
        rows: Metric name → [n, 2]; the resamples are the same for all.
        resamples: Number of resamples, ≥ 1.
        seed: Of the resamples.
    """
    drawn = _resampled(torch.stack(list(rows.values())), resamples, seed)
    return {name: percentiles(_ratio(own), values) for (name, own), values in zip(rows.items(), drawn, strict=True)}


def paired_difference(first: Tensor, second: Tensor, resamples: int = 1000, seed: int = 0) -> Interval:
    """Measure by how much a metric of one model exceeds that of another on the same rows, with its 95 % interval.

    Both are resampled together, which removes the luck that they share: their own intervals may overlap where this one
    excludes 0.

    Args:
        first: One metric of `row_statistics`.
        second: The same metric of the other model.
        resamples: Number of resamples, ≥ 1.
        seed: Of the resamples.

    Shapes:
        first [n, 2], second [n, 2].

    Raises:
        ValueError: When shapes disagree or ``resamples`` is below 1.
    """
    if first.shape != second.shape or first.dim() != 2 or first.shape[1] != 2:
        raise ValueError(
            f"Two models are compared on the same rows, as statistics [n, 2]; received {list(first.shape)} and "
            f"{list(second.shape)}. Take the same metric of row_statistics for both."
        )
    drawn = _resampled(torch.stack([first, second]), resamples, seed)
    return percentiles(_ratio(first) - _ratio(second), drawn[0] - drawn[1])


def _checked(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return both in float64 on the CPU, detached."""
    if prediction.shape != target.shape or target.dim() != 2 or not target.numel():
        raise ValueError(
            "Predictions and targets must have the same shape [n, D], n and D at least 1; received "
            f"{list(prediction.shape)} and {list(target.shape)}. Give one prediction a target, from the same teacher."
        )
    for name, matrix in (("Predictions", prediction), ("Targets", target)):
        finite = matrix.isfinite().all(dim=1)
        if not bool(finite.all()):
            row = int((~finite).nonzero()[0])
            raise ValueError(
                f"{name} must be finite numbers; received NaN or infinity in row {row} ({int((~finite).sum())} rows in "
                "all). Lower the learning rate or clip gradients if a model gave them, or drop the rows."
            )
    return prediction.detach().to("cpu", torch.float64), target.detach().to("cpu", torch.float64)


def _fvu_rows(prediction: Tensor, target: Tensor, mean: Tensor) -> Tensor:
    mean = mean.detach().to("cpu", torch.float64)
    if mean.shape != target.shape[1:] or not bool(mean.isfinite().all()):
        raise ValueError(
            f"The training mean must be {target.shape[1]} finite numbers, one a channel; received shape "
            f"{list(mean.shape)}, finite: {bool(mean.isfinite().all())}. Give train_targets.mean(dim=0)."
        )
    residual, variance = (prediction - target).square().sum(dim=1), (target - mean).square().sum(dim=1)
    if not bool(variance.any()):
        raise ValueError(
            f"The unexplained fraction needs targets that vary; received {len(target)} targets, all equal to the "
            "training mean. Check that the targets are embeddings of different texts."
        )
    return torch.stack([residual, variance], dim=1)


def _cosines(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Cosines [≤ BLOCK, n] of each block of rows with all others, one block at a time."""
    others = functional.normalize(others).T
    for block in functional.normalize(rows).split(BLOCK):
        yield (block @ others).round(decimals=DECIMALS)


def _other_cosines(rows: Tensor) -> Iterator[Tensor]:
    start = 0
    for block in _cosines(rows, rows):
        block.diagonal(start)[: len(block)] = -torch.inf  # a row is not its own neighbour
        start += len(block)
        yield block


def _neighbour_rows(prediction: Tensor, target: Tensor, k: int) -> Tensor:
    """Kept part [n] of each row's k neighbours."""
    if not 1 <= k < len(target):
        raise ValueError(
            f"k neighbours are chosen among the n − 1 other rows; received k = {k} with n = {len(target)} rows. "
            f"Give at least {max(k, 1) + 1} rows, or a k from 1 to n − 1."
        )
    blocks = zip(_other_cosines(prediction), _other_cosines(target), strict=True)
    return torch.cat([(_membership(p, k) * _membership(t, k)).sum(dim=1) / k for p, t in blocks])


def _membership(scores: Tensor, k: int) -> Tensor:
    """Probability [b, n] of each column to be among its row's k highest, ties drawn by chance."""
    last = scores.topk(k, dim=1).values[:, -1:]
    above, tied = scores > last, scores == last
    free = k - above.sum(dim=1, keepdim=True)
    return above + tied * (free / tied.sum(dim=1, keepdim=True).double())


def _reciprocal(rank: Tensor, k: int) -> Tensor:
    return (rank <= k) / rank.double()


def _ratio(rows: Tensor) -> float:
    numerator, denominator = rows.sum(dim=0).tolist()
    return numerator / denominator


def _resampled(rows: Tensor, resamples: int, seed: int) -> Tensor:
    """Metrics [M, resamples] from statistics [M, n, 2]."""
    sums = times_drawn(rows.shape[1], resamples, seed) @ rows
    return sums[..., 0] / sums[..., 1]


def times_drawn(n: int, resamples: int, seed: int) -> Tensor:
    """Draw n rows with replacement, again and again, and count: how often each row was drawn [resamples, n], float64.

    Raises:
        ValueError: When ``resamples`` is below 1.
    """
    if resamples < 1:
        raise ValueError(f"A bootstrap needs at least 1 resample; received {resamples}. The default is 1000.")
    drawn = torch.randint(n, (resamples, n), generator=torch.Generator().manual_seed(seed))
    counts = torch.zeros(resamples, n, dtype=torch.float64)
    return counts.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def percentiles(value: float, drawn: Tensor) -> Interval:
    """Put a metric's value on all rows and the 95 % percentile interval of its values on resamples [R] together."""
    low, high = drawn.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"value": value, "low": low, "high": high}
