"""The order in which rows are visited: follows from seed and epoch, resumable anywhere, shared by processes."""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


class EpochSampler(Sampler[int]):
    """Visit rows once an epoch, in an order that depends on seed and epoch alone.

    A shuffled epoch consists of whole batches: the rows that are left over, others in each epoch, are not visited, so
    that every update sees as many rows, and terms that compare the rows of a batch always compare as many. Of every
    batch each of the W processes takes an equal part; together they visit what one process would, in its order. An
    unshuffled pass visits all rows, each process one stretch of them.

    Each pass through the sampler is one epoch. The moment an epoch's last row is handed out, the sampler stands at
    (epoch + 1, position 0), so a state saved at the boundary resumes with a full next epoch. A pass that is broken off
    starts over from its first row, unless a state is loaded in between. A state is the same in every process and may be
    loaded by another number of them.

    Args:
        rows: n, at least 1.
        seed: Decides the orders.
        shuffle: A fresh permutation every epoch; False gives 0 … n-1 each time.
        batch_size: B, rows of a batch over all processes; at most n where rows are shuffled.
        rank: Number of this process, 0 … W-1.
        world: W, the number of processes; divides B.
        parts: Where rows of several sources lie one after the other: rows and weight of each. A shuffled epoch visits
            weight · rows of a source, rounded: each row as often as the weight's whole part says, and for what is left
            others in each epoch. None: each row once.

    Attributes:
        epoch: The epoch that the next row belongs to.
        visits: Rows visited in an epoch by all processes, those left over by the last whole batch included.

    Raises:
        ValueError: When `rows` is below 1, `visits` below a shuffled batch, B is not a multiple of W, the parts do not
            add up to the rows, or a state of other rows, weights, seed or batch size is loaded.
    """

    def __init__(
        self,
        rows: int,
        seed: int = 0,
        shuffle: bool = True,
        batch_size: int = 1,
        rank: int = 0,
        world: int = 1,
        parts: Sequence[tuple[int, float]] | None = None,
    ) -> None:
        """Start at epoch 0, position 0."""
        self.parts = [(rows, 1.0)] if parts is None else [(count, float(weight)) for count, weight in parts]
        if sum(count for count, _ in self.parts) != rows or any(not 0 <= w < math.inf for _, w in self.parts):
            raise ValueError(
                f"The parts of a sampler must add up to its {rows} rows, with weights of at least 0; received "
                f"{self.parts}. Check the sources."
            )
        self.visits = sum(round(count * weight) for count, weight in self.parts)
        if rows < 1 or (shuffle and self.visits < batch_size):
            raise ValueError(
                f"A sampler needs at least 1 row, and shuffled at least a batch; received {self.visits} rows, "
                f"batch_size {batch_size}. Check the split it is made for, or lower batch_size."
            )
        if batch_size % world:
            raise ValueError(
                f"Every process takes an equal part of a batch; received batch_size {batch_size} for {world} "
                f"processes. Choose a multiple of {world}."
            )
        self.rows = rows
        self.seed = seed
        self.shuffle = shuffle
        self.batch_size = batch_size
        self.rank = rank
        self.world = world
        self.epoch = 0
        self._position = 0
        self._resume_at = 0

    def __len__(self) -> int:
        """Return the rows that this process visits in a whole epoch."""
        if self.shuffle:
            return self.visits // self.batch_size * (self.batch_size // self.world)
        return len(self._stretch())

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
        """Return epoch and position, counted in rows of all processes, with what they refer to."""
        position = self._position * self.world
        return {"epoch": self.epoch, "position": position, **self._refers_to()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass continue where `state` was taken."""
        for key, here in self._refers_to().items():
            if state[key] != here:
                raise ValueError(
                    f"A saved position is valid only for the same data, batch size and seed; the saved state has "
                    f"{key} = {state[key]}, this sampler {key} = {here}. Resume with the saved run's settings, or "
                    "start a new run."
                )
        self.epoch = state["epoch"]
        self._position = self._resume_at = state["position"] // self.world

    def _refers_to(self) -> dict[str, Any]:
        return {"rows": self.rows, "seed": self.seed, "batch_size": self.batch_size, "parts": self.parts}

    def _walk(self, start: int) -> Iterator[int]:
        for index in self._order()[start:]:
            self._position += 1
            if self._position == len(self):
                self.epoch, self._position = self.epoch + 1, 0
            yield index

    def _stretch(self) -> range:
        return range(self.rank * self.rows // self.world, (self.rank + 1) * self.rows // self.world)

    def _order(self) -> list[int]:
        if not self.shuffle:
            return list(self._stretch())
        # Hashed, so that (seed, epoch) = (0, 1) and (1, 0) are unrelated.
        mixed = hashlib.sha256(f"{self.seed} {self.epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8]) >> 1)
        order = self._drawn(generator)[: self.visits // self.batch_size * self.batch_size]
        return order.view(-1, self.world, self.batch_size // self.world)[:, self.rank].flatten().tolist()

    def _drawn(self, generator: torch.Generator) -> torch.Tensor:
        """Draw the rows of an epoch, shuffled."""
        if all(weight == 1 for _, weight in self.parts):
            return torch.randperm(self.rows, generator=generator)
        drawn, start = [], 0
        for count, weight in self.parts:
            whole, left = divmod(round(count * weight), max(1, count))
            rest = torch.randperm(count, generator=generator)[:left]
            drawn += [torch.arange(start, start + count).repeat(whole), start + rest]
            start += count
        visited = torch.cat(drawn)
        return visited[torch.randperm(len(visited), generator=generator)]
