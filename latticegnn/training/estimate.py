"""What a training step holds in memory at most, from what one lattice step of it holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latticegnn.model import LatticeModel
from latticegnn.nn import bind_step
from latticegnn.nn.fused import ROWS

Context = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class StepMemory:
    """An estimate of a training step's peak, in bytes beyond the model and its aggregation's tables.

    Args:
        kept: What all lattice steps hold from the forward to the backward pass.
        work: What one lattice step holds besides while it is taken back.
        weights: A gradient and AdamW's two averages of each parameter.
    """

    kept: int
    work: int
    weights: int

    @property
    def total(self) -> int:
        """The sum."""
        return self.kept + self.work + self.weights


def step_memory(
    model: LatticeModel,
    batch: int,
    steps: int,
    free: int,
    trajectory: bool = False,
    context: Context = nullcontext,
) -> StepMemory:
    """Estimate the peak of a training step from one lattice step of it, counted and not computed from a formula.

    One step is taken forward and back, uncompiled, and what its tensors hold is counted, without weights and the tables
    that aggregation makes once: of a few samples first, of the whole batch where that fits; otherwise in proportion.
    Libraries' own buffers are not seen, some tens of megabytes, and more while steps are compiled; nor is what an
    allocator keeps of freed blocks: glibc's, as it comes, held up to twice the estimate (`execution="reference"`).

    Args:
        model: The model, on the device that it is trained on; its gradients are cleared.
        batch: B, of one process.
        steps: T, the most that are taken.
        free: Bytes of memory that may be taken to find out.
        trajectory: Whether all states are handed to the loss.
        context: The autocast that steps are taken in.

    Raises:
        ValueError: When the cell cannot be computed by the model's execution.
    """
    few = min(batch, -(-ROWS // model.spec.num_nodes))
    with context():
        kept, peak = (size * batch // few for size in _take(model, few))
        if few < batch and peak < free:
            kept, peak = _take(model, batch)
    state = _state(model, batch).nbytes
    states = 2 * (steps + 1) * state if trajectory else 0  # one by one, and stacked
    weights = 3 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return StepMemory(
        state + max(1, model.gradient.kept(steps)) * kept + states,
        peak - kept + model.gradient.vectors * state,
        weights,
    )


def _state(model: LatticeModel, samples: int) -> Tensor:
    return model.cell.step.new_empty(model.spec.num_nodes, samples, model.channels)


def _take(model: LatticeModel, samples: int) -> tuple[int, int]:
    """Take a step forward and back; give the bytes held between the two, and those held at most."""
    execution = "fused" if model.execution == "compiled" else model.execution
    state = _state(model, samples).zero_().requires_grad_()
    for _ in range(2):  # the first makes the tables
        step, _ = bind_step(
            model.cell, execution, model.gradient.recompute, rows=1
        )  # auto compiles for many rows alone
        with Held() as held:
            out = step(state)
            kept = held.now
            torch.autograd.backward(out, torch.ones_like(out))
        model.zero_grad()
    return kept, held.most


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, as long as they live: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._note((args, kwargs), made=False)
        out = func(*args, **kwargs)
        self._note(out, made=True)
        return out

    def _note(self, tensors: Any, made: bool) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes() if made else 0
            if key not in self._known:
                self._known.add(key)
                self.now += size
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
