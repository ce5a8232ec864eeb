"""A small classifier that decides which zones of a face an embedding enters through."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ZoneRouter(nn.Module):
    r"""Softmax over zones, whose weights multiply what is laid on each zone's ports.

    .. math::
        g = \mathrm{softmax}(W e + b), \qquad s_p' = Z\, g_{\mathrm{zone}(p)}\, s_p

    A dense mixture (Jacobs et al., 1991), trained with the model by its loss alone. W and b start at zero: every factor
    is then 1, the same as without a router. Nothing is drawn, and a sample's weights hang on its embedding alone.

    Args:
        embedding_dim: D.
        zone: The zone of each port, 0 … Z - 1, LongTensor [P]; Z is the greatest plus one.

    Shapes:
        - input: states [B, P, F], embedding [B, D]
        - output: states [B, P, F]
    """

    zone: Tensor

    def __init__(self, embedding_dim: int, zone: Tensor) -> None:
        super().__init__()
        self.register_buffer("zone", zone, persistent=False)
        self.gate = nn.Linear(embedding_dim, int(zone.max()) + 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, states: Tensor, embedding: Tensor) -> Tensor:
        """Scale the ports' states by their zones' weights."""
        weights = self.weights(embedding)
        return states * (weights.shape[1] * weights[:, self.zone]).unsqueeze(-1)

    def weights(self, embedding: Tensor) -> Tensor:
        """Return each sample's weights of the zones, which sum to one: [B, D] -> [B, Z]."""
        return torch.softmax(self.gate(embedding), dim=-1)
