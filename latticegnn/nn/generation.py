"""How a row of tokens is chosen from the probabilities of its tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

Strategy = Literal["greedy", "beam", "sample"]


@dataclass(frozen=True)
class Generation:
    r"""How tokens are chosen, one after the other.

    "greedy" takes the most probable token; "beam" keeps the ``beams`` rows of greatest mean log-probability a token and
    gives the best; "sample" draws from :math:`\mathrm{softmax}(z / \tau)`, cut to its ``top_k`` most probable tokens
    (Fan et al., 2018) or to the fewest that hold the share ``top_p`` (Holtzman et al., 2020, arXiv:1904.09751).

    Args:
        strategy: "greedy", "beam" or "sample".
        beams: Rows that a beam search keeps, ≥ 1.
        temperature: τ > 0 of a draw.
        top_k: Tokens to draw from, ≥ 1; None for all.
        top_p: Share of the probability to draw from, in (0, 1]; None for all.
        seed: Of the draws, ≥ 0.

    Raises:
        ValueError: For a value out of range, or one that bears on draws where nothing is drawn.
    """

    strategy: Strategy = "greedy"
    beams: int = 4
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        if self.strategy not in get_args(Strategy):
            raise ValueError(
                f"strategy must be one of {', '.join(get_args(Strategy))}; got {self.strategy!r}; choose one of them."
            )
        for name, least in {"beams": 1, "top_k": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value is None and name == "top_k":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, at least {least}; got {value!r}; raise it.")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(
                f"temperature must be a number above 0; got {self.temperature!r}; near 0 a draw takes the most "
                "probable token, which strategy: greedy does exactly."
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be a share above 0 and up to 1; got {self.top_p!r}; leave it out for 1.")
        drawn = {"temperature": self.temperature != 1, "top_k": self.top_k is not None, "top_p": self.top_p is not None}
        idle = [name for name, given in drawn.items() if given]
        if idle and self.strategy != "sample":
            raise ValueError(
                f"{', '.join(drawn)} bear on draws; got {', '.join(idle)} with strategy: {self.strategy}, which draws "
                "nothing; set strategy: sample, or leave them out."
            )

    def processors(
        self, length: int, never: list[int], eos_id: int, seeds: Tensor | None, rows: int
    ) -> LogitsProcessorList:
        """Make what turns a step's logits into scores whose greatest is the choice.

        Args:
            length: L, tokens of a row; the last one can only be the end.
            never: Ids that are no token of a text, such as padding.
            eos_id: The end.
            seeds: One a row [B], ≥ 0; None for 0 … B - 1. Drawn rows hang on `seed` and on their own.
            rows: B.
        """
        from transformers import generation as library

        made = library.LogitsProcessorList()
        if never:
            made.append(library.SuppressTokensLogitsProcessor(never))
        made.append(library.ForcedEOSTokenLogitsProcessor(length + 1, eos_id))  # counts the start token, too
        if self.strategy == "sample":
            made.append(library.TemperatureLogitsWarper(float(self.temperature)))
            if self.top_k is not None:
                made.append(library.TopKLogitsWarper(self.top_k))
            if self.top_p is not None and self.top_p < 1:
                made.append(library.TopPLogitsWarper(float(self.top_p)))
            made.append(GumbelNoise(self.seed, _checked(seeds, rows)))
        return made


class GumbelNoise:
    r"""Turn the most probable token into a drawn one: :math:`\arg\max_v (z_v + g_v) \sim \mathrm{softmax}(z)`.

    g are independent draws of Gumbel's distribution (Gumbel, 1954; Maddison et al., 2014, arXiv:1411.0030). Each row
    and step has a generator of its own, so that a row's draws do not hang on what shares its batch, nor on the device.

    Args:
        seed: Of all rows.
        seeds: One more for each row [B].

    Shapes:
        - input: ids so far [B, k + 1], the start token first; scores [B, V]
        - output: scores [B, V]
    """

    def __init__(self, seed: int, seeds: list[int]) -> None:
        self.seed, self.seeds = seed, seeds

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add the noise of this step."""
        step, size = input_ids.shape[1] - 1, scores.shape[1]
        noise = np.stack([np.random.default_rng([self.seed, row, step]).gumbel(size=size) for row in self.seeds])
        return scores + torch.from_numpy(noise).to(scores)


def until_end(ids: Tensor, eos_id: int) -> Tensor:
    """Tell the tokens of each row up to and with its first end from the padding after it: [B, L] -> bool [B, L]."""
    ends = (ids == eos_id).long()
    return ends.cumsum(dim=1) - ends == 0


def _checked(seeds: Tensor | None, rows: int) -> list[int]:
    if seeds is None:
        return list(range(rows))
    if seeds.shape != (rows,) or seeds.is_floating_point() or bool((seeds < 0).any()):
        raise ValueError(
            f"seeds must be whole numbers from 0, one for each of the {rows} rows; got {seeds.dtype} of shape "
            f"{list(seeds.shape)}{f', the least {seeds.min().item()}' if seeds.numel() else ''}; give for example the "
            "rows' numbers, torch.arange(n)."
        )
    return [int(seed) for seed in seeds]
