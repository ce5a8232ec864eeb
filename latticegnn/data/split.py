"""One split of embeddings, in memory or on disk, and the data set that serves it in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from latticegnn.data.rows import Rows


class StackedRows:
    """Rows of several matrices, in memory or in files, as one matrix [n, D]: indexing reads them into a tensor.

    Args:
        parts: Each matrix, and the numbers of its rows that belong here, in order; one after the other.
    """

    def __init__(self, parts: "Sequence[tuple[Tensor | Rows | StackedRows, np.ndarray]]") -> None:
        """Take the parts; nothing is read."""
        self.parts = list(parts)
        self._ends = np.cumsum([len(kept) for _, kept in self.parts])
        self.shape: tuple[int, int] = (int(self._ends[-1]), int(self.parts[0][0].shape[1]))

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return self.shape[0]

    def __getitem__(self, index: Tensor) -> Tensor:
        """Read m rows, in their order: [m, D], float32."""
        wanted = index.numpy()
        out = torch.empty(len(wanted), self.shape[1])
        start = 0
        for (matrix, kept), end in zip(self.parts, self._ends, strict=True):
            places = np.flatnonzero((wanted >= start) & (wanted < end))
            rows = kept[wanted[places] - start]
            found = torch.from_numpy(matrix[rows]) if isinstance(matrix, Rows) else matrix[torch.from_numpy(rows)]
            out[torch.from_numpy(places)] = found
            start = end
        return out


Matrix = Tensor | StackedRows


@dataclass(frozen=True)
class EmbeddingSplit:
    """One split: n rows of an input and the target wanted for it.

    Args:
        inputs: Embeddings, a tensor or, where they are larger than what is held in memory, `StackedRows`.
        targets: Embeddings; the same object as `inputs` when autoencoding.
        input_texts: n texts; empty for prepared embeddings.
        target_texts: n texts; the same object as `input_texts` when autoencoding.
        groups: n document names; empty for prepared embeddings.

    Shapes:
        inputs [n, D], targets [n, D], float32.
    """

    inputs: Matrix
    targets: Matrix
    input_texts: list[str] = field(default_factory=list)
    target_texts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return len(self.inputs)

    def spread(self, most: int) -> Tensor:
        """Return the numbers of at most so many rows, evenly spaced."""
        count = min(most, len(self))
        return torch.arange(count) * len(self) // count

    def tensors(self, most: int | None = None) -> tuple[Tensor, Tensor]:
        """Return inputs and targets in memory; the same object twice when autoencoding.

        Args:
            most: Where there are more rows, so many of them, evenly spaced; None for all.
        """
        n = len(self)
        if most is None or n <= most:
            if isinstance(self.inputs, Tensor) and isinstance(self.targets, Tensor):
                return self.inputs, self.targets
            most = n
        index = self.spread(most)
        inputs = self.inputs[index]
        return inputs, inputs if self.targets is self.inputs else self.targets[index]


SAMPLE = 20_000
"""Training rows that maps, readouts and linear references are fitted on at most: more do not move them."""


class SplitRows(Dataset[dict[str, Tensor]]):
    """Gather a whole batch in one indexing step, instead of row by row."""

    def __init__(self, split: EmbeddingSplit) -> None:
        """Serve the rows of `split`."""
        self.split = split

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return `input` [B, D], `target` [B, D] and `index` [B]."""
        index, split = torch.tensor(indices), self.split
        inputs = split.inputs[index]
        return {
            "input": inputs,
            "target": inputs if split.targets is split.inputs else split.targets[index],
            "index": index,
        }


def as_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Collate nothing: `SplitRows` returns whole batches."""
    return batch


def gather(
    inputs: np.ndarray,
    targets: np.ndarray,
    rows: list[int],
    texts: list[str],
    target_texts: list[str],
    groups: list[str],
) -> EmbeddingSplit:
    """Copy `rows` of the arrays into tensors; one tensor serves as both where `targets` is `inputs`."""
    first = torch.from_numpy(inputs[rows])
    second = first if targets is inputs else torch.from_numpy(targets[rows])
    return EmbeddingSplit(first, second, texts, target_texts, groups)
