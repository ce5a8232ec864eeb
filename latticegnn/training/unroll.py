"""How many steps a rollout takes during training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Unroll:
    r"""The number of steps T of each update's rollout; evaluation always takes the model's own.

    - ``fixed``: the model's own.
    - ``random``: drawn uniformly from low … high for every update, so that the answer does not hang on one T
      (as in Mordvintsev et al., 2020; models trained at one T diverge after it).
    - ``curriculum``: rises evenly from low to high over the first ``part`` of the updates, and stays there.

    Args:
        mode: One of the three.
        low: Fewest steps, ≥ 1; must suffice for the light cone. With "fixed", null.
        high: Most steps, ≥ low. With "fixed", null.
        part: Of the updates in which a curriculum rises, in (0, 1].

    Raises:
        ValueError: For values that contradict the mode or each other.
    """

    mode: Literal["fixed", "random", "curriculum"] = "fixed"
    low: int | None = None
    high: int | None = None
    part: float = 0.5

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.mode not in ("fixed", "random", "curriculum"):
            raise ValueError(f"unroll.mode must be fixed, random or curriculum; got {self.mode!r}; choose one of them.")
        given = (self.low, self.high)
        if (self.mode == "fixed") != (given == (None, None)) or (self.mode != "fixed" and None in given):
            raise ValueError(
                "unroll.low and unroll.high belong to the modes random and curriculum, both of them; got mode "
                f"{self.mode}, low {self.low}, high {self.high}; set both, or leave out unroll."
            )
        if self.low is not None and self.high is not None and not 1 <= self.low <= self.high:
            raise ValueError(
                f"unroll.low and unroll.high must be 1 ≤ low ≤ high; got {self.low} and {self.high}; raise the smaller."
            )
        if not 0 < self.part <= 1:
            raise ValueError(f"unroll.part must be above 0 and at most 1; got {self.part}; 0.5 is the default.")

    @property
    def span(self) -> tuple[int, int] | None:
        """Fewest and most steps after which an answer is wanted; None for the model's own number alone."""
        return (self.low, self.high) if self.mode == "random" and self.low and self.high else None

    def steps(self, update: int, updates: int, seed: int) -> int | None:
        """Return T for one update; None for the model's own.

        Args:
            update: Its number, from 0.
            updates: Of the whole run.
            seed: Decides the draws; they depend on it and the update's number alone.
        """
        if self.low is None or self.high is None:
            return None
        span = self.high - self.low
        if self.mode == "curriculum":
            return self.low + min(span, int((span + 1) * update / (self.part * updates)))
        digest = hashlib.sha256(f"unroll {seed} {update}".encode()).digest()
        return self.low + int.from_bytes(digest[:8]) % (span + 1)
