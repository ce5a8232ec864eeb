"""One split of embeddings as tensors, and the data set that serves it in batches."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class EmbeddingSplit:
    """One split as tensors: n rows of an input and the target wanted for it.

    Args:
        inputs: Embeddings.
        targets: Embeddings; the same object as `inputs` when autoencoding.
        input_texts: n texts; empty for prepared embeddings.
        target_texts: n texts; the same object as `input_texts` when autoencoding.
        groups: n document names; empty for prepared embeddings.

    Shapes:
        inputs [n, D], targets [n, D], float32.
    """

    inputs: Tensor
    targets: Tensor
    input_texts: list[str] = field(default_factory=list)
    target_texts: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return len(self.inputs)


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
        index = torch.tensor(indices)
        return {"input": self.split.inputs[index], "target": self.split.targets[index], "index": index}


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
