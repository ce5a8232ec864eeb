"""How a rollout's steps are computed: the cell as it reads, or one of its fast twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from latticegnn.nn.cell import LatticeCell
from latticegnn.nn.fused import ROWS, FusedStep, unfusable
from latticegnn.nn.kernels import compiler

Execution = Literal["auto", "reference", "fused", "compiled"]
Step = Callable[[Tensor], Tensor]


def check_execution(execution: str) -> None:
    """Raise ValueError for an unknown execution."""
    known = get_args(Execution)
    if execution not in known:
        raise ValueError(f"execution must be one of {', '.join(known)}; got {execution!r}; choose one of them.")


def bind_step(cell: LatticeCell, execution: Execution, checkpoint: bool, rows: int) -> tuple[Step, str]:
    """Choose and prepare the step of one rollout; all choices give the same numbers to rounding.

    Args:
        cell: The cell.
        execution: "reference": the cell's own ``advance``; "fused": `FusedStep`; "compiled": the same, the elementwise
            part of whole chunks compiled by inductor (a batch of fewer than `ROWS` rows is one chunk); "auto":
            reference for a cell that cannot be fused, otherwise fused, and compiled where a cell in training mode
            takes gradients through at least `ROWS` rows and a compiler is installed: compiling takes seconds, which a
            few hundred updates earn back. Fused steps are differentiable once.
        checkpoint: Keep each step's state alone for the backward pass.
        rows: N·B.

    Returns:
        The step, nodes first, [N, B, F] -> [N, B, F], valid for the cell's present weights; and what was chosen and
        why, in words.

    Raises:
        ValueError: When the experts cannot be fused, or there is no compiler, and that was asked for.
    """
    reason = unfusable(cell)
    if execution == "reference" or (execution == "auto" and reason):
        told = "the cell as it reads" + (f", for {reason}" if reason else "")
        if not checkpoint:
            return cell.advance, told
        return lambda x: recomputed(cell.advance, x, use_reentrant=False), told
    device = cell.step.device
    found = compiler(device)
    if execution == "compiled" and not found:
        raise ValueError(
            f"execution: compiled needs a compiler for {device.type}; none was found; install g++ (or set CXX), or "
            "Triton for a GPU; or choose execution: fused."
        )
    whole = cell.training and torch.is_grad_enabled() and rows >= ROWS
    compiled = execution == "compiled" or (execution == "auto" and whole and found is not None)
    step = FusedStep(cell, compiled, min(ROWS, max(1, rows)) if compiled else ROWS, checkpoint).bind()
    if compiled:
        return step, f"fused, whole chunks compiled with {found}"
    if execution == "auto" and whole:
        return step, "fused, eager, for no compiler was found"
    return step, "fused, eager"
