"""How good are generated texts? Each figure with the interval that its rows support."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from latticegnn.analysis.metrics import Interval, intervals, percentiles, times_drawn

ORDERS = 4
"""Longest n-gram of BLEU."""


def token_statistics(generated: Tensor, target: Tensor, eos_id: int, unk_id: int | None = None) -> dict[str, Tensor]:
    r"""Compute token metrics' shares of each row: a numerator and a denominator, as `row_statistics` does.

    A row's tokens are those before its first end; padding is none.

    - ``token_accuracy``: of the target's tokens, those that the generated row has at the same place.
    - ``exact_match``: whether the rows have the same tokens.
    - ``token_f1``: harmonic mean of precision and recall of the rows as bags of tokens (Rajpurkar et al., 2016); two
      empty rows count 1.

    A token that stands for what the vocabulary cannot write is never right.

    Args:
        generated: Rows of ids.
        target: The rows wanted; each has a token, or else `token_accuracy` leaves it out.
        eos_id: Id of a text's end.
        unk_id: Id of what the vocabulary cannot write.

    Shapes:
        generated [n, L], target [n, L] → metric name → [n, 2], float64.

    Raises:
        ValueError: When shapes disagree, or no target has a token.
    """
    if generated.shape != target.shape or target.dim() != 2:
        raise ValueError(
            f"Generated rows and their targets must have the same shape [n, L]; received {list(generated.shape)} and "
            f"{list(target.shape)}. Generate with the decoder whose length the targets were encoded with."
        )
    wanted, given = _before_end(target, eos_id), _before_end(generated, eos_id)
    count = wanted.sum(dim=1)
    if not bool(count.any()):
        raise ValueError(
            f"Token accuracy needs tokens that are wanted; received {len(target)} rows that are all empty. Check that "
            "the targets are texts of the tokenizer's words."
        )
    right = (generated == target) & wanted & given & (target != (-1 if unk_id is None else unk_id))
    same = (right == wanted).all(dim=1) & (given.sum(dim=1) == count)
    bags = zip(_bags(generated, given, unk_id), _bags(target, wanted, unk_id), given.sum(dim=1), count, strict=True)
    f1 = [_f1(mine, theirs, int(m), int(t)) for mine, theirs, m, t in bags]
    ones = torch.ones(len(target), dtype=torch.float64)
    return {
        "token_accuracy": torch.stack([right.sum(dim=1), count], dim=1).double().cpu(),
        "exact_match": torch.stack([same.double().cpu(), ones], dim=1),
        "token_f1": torch.stack([torch.tensor(f1, dtype=torch.float64), ones], dim=1),
    }


def bleu_statistics(generated: Sequence[str], target: Sequence[str]) -> Tensor:
    """Count what corpus BLEU is made of in each row: n-grams that match, n-grams, and both lengths.

    The words are those of sacrebleu's standard tokenisation, "13a" (Post, 2018), and the counts torchmetrics'.

    Shapes:
        n texts, n texts → [n, 10], float64: 4 matches, 4 counts, length generated, length wanted; sums of rows are what
        `bleu` takes.
    """
    from torchmetrics.text import SacreBLEUScore

    metric, rows = SacreBLEUScore(n_gram=ORDERS), []
    for mine, theirs in zip(generated, target, strict=True):
        metric.reset()
        metric.update([mine], [[theirs]])
        rows.append(torch.cat([metric.numerator, metric.denominator, metric.preds_len[None], metric.target_len[None]]))
    return torch.stack(rows).double()


def bleu(sums: Tensor) -> Tensor:
    r"""Compute corpus BLEU (Papineni et al., 2002) from summed `bleu_statistics`, without smoothing, in 0…1.

    .. math::
        \mathrm{BLEU} = \min(1, e^{1 - r / g}) \prod_{n=1}^{4} (m_n / c_n)^{1/4}

    0 where an order has no match.

    Shapes:
        [..., 10] → [...]
    """
    match, count, (mine, theirs) = sums[..., :ORDERS], sums[..., ORDERS : 2 * ORDERS], sums[..., -2:].unbind(-1)
    precision = (match / count.clamp_min(1)).log().mean(dim=-1).exp()
    return precision * (1 - theirs / mine.clamp_min(1)).clamp_max(0).exp()


def evaluate_texts(
    rows: dict[str, Tensor],
    generated: Sequence[str],
    target: Sequence[str],
    reembedded: tuple[Tensor, Tensor] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Measure generated texts, each metric with the 95 % percentile bootstrap interval over rows (Efron, 1979).

    `rows`' metrics; ``bleu``, where a target has four words, as that of shorter ones is 0 by definition;
    ``reembedded_cosine``, of what the teacher makes of the generated text with the target's embedding.

    Args:
        rows: Of `token_statistics`.
        generated: Texts.
        target: The texts wanted.
        reembedded: Embeddings of both; a text that was not embedded has a row of zeros, and counts 0.
        resamples: Number of resamples, ≥ 1.
        seed: Of the resamples.

    Shapes:
        n texts, n texts, [n, D] twice.
    """
    if reembedded is not None:
        cosine = functional.cosine_similarity(reembedded[0].double(), reembedded[1].double())
        rows = rows | {"reembedded_cosine": torch.stack([cosine, torch.ones_like(cosine)], dim=1)}
    found = intervals(rows, resamples, seed)
    counts = bleu_statistics(generated, target)
    if bool((counts[:, -1] >= ORDERS).any()):
        drawn = bleu(times_drawn(len(counts), resamples, seed) @ counts)
        found["bleu"] = percentiles(float(bleu(counts.sum(dim=0))), drawn)
    return found


def _before_end(ids: Tensor, eos_id: int) -> Tensor:
    return (ids == eos_id).cumsum(dim=1) == 0


def _bags(ids: Tensor, kept: Tensor, unk_id: int | None) -> list[Counter[int]]:
    rows = zip(ids.tolist(), kept.tolist(), strict=True)
    return [Counter(i for i, own in zip(*row, strict=True) if own and i != unk_id) for row in rows]


def _f1(mine: Counter[int], theirs: Counter[int], given: int, wanted: int) -> float:
    if not given + wanted:
        return 1.0
    return 2 * (mine & theirs).total() / (given + wanted)
