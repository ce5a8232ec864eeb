"""A layer to start from: copy this file, change `forward`, run ``pytest`` on the copy, and name it in a configuration.

``model.experts: {functional: {class_path: "my_layer.py:MyLayer"}}``; docs/writing_a_layer.md tells the rest.
"""

import torch
from torch import Tensor, nn

from latticegnn.nn import Expert
from latticegnn.testing import LayerContract


class MyLayer(Expert):
    r"""What a cell makes of itself and its neighbours: :math:`W_2\,\mathrm{SiLU}(W_1 [x_i \,\|\, m_i] + b_1) + b_2`.

    Args:
        channels: F.
        moments: M = 4F: the mean of the neighbours, and their differences along x, y and z.
        hidden: Width of the hidden layer.

    Shapes:
        - x [N, B, F], moments [N, B, M]
        - output: proposed change of state [N, B, F]
    """

    def __init__(self, channels: int, moments: int, hidden: int = 16) -> None:
        super().__init__()
        self.inner = nn.Linear(channels + moments, hidden)
        self.outer = nn.Linear(hidden, channels)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        return self.outer(nn.functional.silu(self.inner(torch.cat([x, moments], dim=-1))))


class TestMyLayer(LayerContract):  # noqa: D101
    layer = MyLayer
