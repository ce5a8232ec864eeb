"""Automata on PyTorch as measured processes: Conv3d, this library's cells, and messages on every edge."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers.child import Round, serve, timed
from benchmarks.peers.egnca import EdgeAutomaton
from benchmarks.peers.offsets import offset_cell
from latticegnn.benchmarks import peer
from latticegnn.benchmarks.step import trainer

EDGES, OFFSETS = "E(n)-GNCA's layer, PyG", "ours, 27 offsets edge by edge"
OURS, OURS_EAGER, OURS_WIDE = "ours, compiled", "ours, eager", "ours, compiled, 64 hidden"
VARIANTS = (peer.CONV, peer.CONV_COMPILED, OFFSETS, EDGES, OURS_EAGER, OURS, OURS_WIDE)


def build(variant: str, case: peer.Case) -> tuple[nn.Module, Callable[[], Callable[[Tensor], Tensor]], Tensor]:
    """Build a variant: the module, what gives the step of a rollout, and a first state.

    Args:
        variant: One of `VARIANTS`.
        case: The cube and its batch.
    """
    shape = (case.side, case.side, case.side)
    if variant in (EDGES, OFFSETS):
        torch.manual_seed(0)
        x = torch.randn(case.batch, case.side**3, peer.CHANNELS)
        if variant == EDGES:
            module: nn.Module = EdgeAutomaton(shape, peer.CHANNELS, peer.HIDDEN)
            return module, lambda: module, x.requires_grad_()
        cell = offset_cell(shape, peer.ConvAutomaton())
        return cell, lambda: cell.advance, x.transpose(0, 1).contiguous().requires_grad_()
    if variant == OURS_WIDE:
        return peer.automaton(peer.OURS, case, peer.HIDDEN)
    return peer.automaton(variant, case)


def prepare(variant: str, side: int, batch: int, steps: int) -> tuple[dict[str, Any], Round]:
    """Get a variant ready to be timed, forward and in training; see `benchmarks.peers.child.serve`."""
    torch.set_num_threads(1)
    case = peer.Case(side, batch, steps)
    module, bind, x = build(variant, case)

    def forward() -> None:
        with torch.no_grad():
            step, state = bind(), x
            for _ in range(steps):
                state = step(state)

    first, make_round = timed({"forward": forward, "training": trainer(module, bind, x, steps)})
    facts = {"parameters": sum(p.numel() for p in module.parameters()), "first_seconds": sum(first.values())}
    return facts, make_round


if __name__ == "__main__":
    serve(prepare)
