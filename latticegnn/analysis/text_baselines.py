"""What a lattice with a text decoder is held against: fixed codes that a decoder is trained on, and counts."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from latticegnn.analysis.baselines import AffineMap

_TOKEN = re.compile(r"\w+|[^\w\s]")


def standardised(inputs: Tensor) -> AffineMap:
    """Give all D numbers of the teacher's vector, each of mean 0 and deviation 1 on a sample: nothing is left out.

    Args:
        inputs: Training embeddings [n, D], n ≥ 2.
    """
    scale = inputs.std(dim=0).clamp_min(1e-8).reciprocal()
    return AffineMap(scale.diag(), inputs.mean(dim=0), torch.zeros(inputs.shape[1]), fitted=2 * inputs.shape[1])


def principal_code(inputs: Tensor, count: int) -> AffineMap:
    """Give the first principal components, each of deviation 1 on a sample: the code that a lattice starts from.

    Args:
        inputs: Training embeddings [n, D], n ≥ 2.
        count: K, numbers in the code, at most n − 1 and D.
    """
    mean = inputs.mean(dim=0)
    _, singular, axes = torch.linalg.svd(inputs - mean, full_matrices=False)
    deviation = singular[:count, None] / (len(inputs) - 1) ** 0.5
    weight = axes[:count] / deviation.clamp_min(1e-8)
    return AffineMap(weight, mean, torch.zeros(len(weight)), fitted=weight.numel() + len(mean))


def bigram(train: Sequence[str], rows: Tensor, inputs: Sequence[str]) -> tuple[Tensor, int]:
    """Answer with the row that came most often after an input's last word or mark, or most often at all after others.

    Args:
        train: Training inputs.
        rows: Their rows of tokens [n, L].
        inputs: Inputs to answer.

    Returns:
        A row for each input, and how many last words the training inputs have.
    """
    counts: dict[str, Counter[tuple[int, ...]]] = defaultdict(Counter)
    every: Counter[tuple[int, ...]] = Counter(map(tuple, rows.tolist()))
    for text, row in zip(train, rows.tolist(), strict=True):
        counts[_last(text)][tuple(row)] += 1
    answers = [counts.get(_last(text), every).most_common(1)[0][0] for text in inputs]
    return torch.tensor(answers), len(counts)


def _last(text: str) -> str:
    found = _TOKEN.findall(text)
    return found[-1] if found else ""
