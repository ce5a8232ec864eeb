"""The order in which rows are visited: reproducible from seed and epoch, and resumable at any row."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Visit n rows once an epoch, in an order that depends on seed and epoch alone.

    Each pass through the sampler is one epoch. The moment an epoch's last row is handed out, the sampler stands at
    (epoch + 1, position 0), so a state saved at the boundary resumes with a full next epoch. A pass that is broken off
    starts over from its first row, unless a state is loaded in between.

    Args:
        rows: n, at least 1.
        seed: Decides the orders.
        shuffle: A fresh permutation every epoch; False gives 0 … n-1 each time.

    Attributes:
        epoch: The epoch that the next row belongs to.

    Raises:
        ValueError: When `rows` is below 1, or a state of another number of rows or another seed is loaded.
    """

    def __init__(self, rows: int, seed: int = 0, shuffle: bool = True) -> None:
        """Start at epoch 0, position 0."""
        if rows < 1:
            raise ValueError(f"A sampler needs at least 1 row; received {rows}. Check the split it is made for.")
        self.rows = rows
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Return n, the rows of a whole epoch."""
        return self.rows

    def __iter__(self) -> Iterator[int]:
        """Walk through the current epoch, from the loaded position or from its start."""
        self._position, self._resume_at = self._resume_at, 0
        return self._walk(self._position)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of `epoch`; staying in the current epoch keeps a loaded position."""
        if epoch != self.epoch:
            self.epoch = epoch
            self._position = self._resume_at = 0

    def state_dict(self) -> dict[str, Any]:
        """Return epoch and position, with what they refer to."""
        return {"epoch": self.epoch, "position": self._position, "rows": self.rows, "seed": self.seed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass continue where `state` was taken."""
        for key, here in (("rows", self.rows), ("seed", self.seed)):
            if state[key] != here:
                raise ValueError(
                    f"A saved position is valid only for the same data and seed; the saved state has {key} = "
                    f"{state[key]}, this sampler {key} = {here}. Resume with the saved run's settings, or start a new "
                    "run."
                )
        self.epoch = state["epoch"]
        self._position = self._resume_at = state["position"]

    def _walk(self, start: int) -> Iterator[int]:
        for index in self._order()[start:]:
            self._position += 1
            if self._position == self.rows:
                self.epoch, self._position = self.epoch + 1, 0
            yield index

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(range(self.rows))
        # Hashed, so that (seed, epoch) = (0, 1) and (1, 0) are unrelated.
        mixed = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8]) >> 1)
        return torch.randperm(self.rows, generator=generator).tolist()
