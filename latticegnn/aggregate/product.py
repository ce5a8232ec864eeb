"""Dense products at the processor's rate."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply ``x @ weight.T`` outside of autograd.

    In float32 on a CPU the product is oneDNN's, which has kernels for every maker's vector units; the BLAS behind
    ``torch.mm`` may not (MKL on an AMD processor reaches less than half the rate, `benchmarks/step.py`). Everything
    else takes PyTorch's own product.

    Args:
        x: [M, K].
        weight: [O, K].

    Returns:
        [M, O], in x's dtype.
    """
    if (
        x.dtype == torch.float32
        and x.device.type == "cpu"
        and torch.backends.mkldnn.is_available()
        and x.numel() * len(weight)
    ):
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return functional.linear(x, weight)
