"""From token states to one vector a text."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["mean", "cls", "last", "max"]


def pool(hidden: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Reduce the token states of a padded batch to one vector a text, whichever side the padding is on.

    Args:
        hidden: Token states.
        mask: 1 for a token, 0 for padding; at least one 1 in each row.
        pooling: `"mean"` over the tokens, `"cls"` the first token, `"last"` the last token, `"max"` per channel.

    Shapes:
        hidden [B, L, D], mask [B, L] → [B, D].
    """
    if pooling == "mean":
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weights).sum(1) / weights.sum(1)
    if pooling == "max":
        return hidden.masked_fill(mask.unsqueeze(-1) == 0, -torch.inf).amax(1)
    position = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    if pooling == "cls":
        position = position.flip(0)
    index = (mask * position).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), index]
