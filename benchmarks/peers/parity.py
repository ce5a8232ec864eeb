"""Before anything is timed: do the automata that are compared compute the same?"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.offsets import OffsetExpert, offset_cell
from benchmarks.peers.process import Peer
from latticegnn.benchmarks.peer import CHANNELS, HIDDEN, ConvAutomaton

TOLERANCE = 1e-5
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """How far two implementations of one automaton are from each other, as a part of the largest number there is.

    Args:
        last: Of the last state.
        gradient: Of the gradients of the mean square of the last state, the worst of weights and first state.
    """

    last: float
    gradient: float


def reference(shape: tuple[int, int, int] = (5, 4, 6), batch: int = 2, steps: int = 1) -> tuple[ConvAutomaton, Arrays]:
    """Return a Conv3d automaton, and its weights, a first state, the last state and all gradients, float32.

    Args:
        shape: Sides of the lattice; uneven ones tell axes apart.
        batch: Samples.
        steps: Of the rollout.
    """
    generator = torch.Generator().manual_seed(0)
    automaton = ConvAutomaton()
    for weight in automaton.parameters():
        weight.data.copy_(0.3 * torch.randn(weight.shape, generator=generator))
    first = torch.randn(batch, CHANNELS, *shape, generator=generator).requires_grad_()
    state = first
    for _ in range(steps):
        state = automaton(state)
    state.square().mean().backward()
    found = {name: value.detach() for name, value in automaton.named_parameters()}
    found |= {"state": first.detach(), "last": state.detach(), "grad state": _gradient(first)}
    found |= {f"grad {name}": _gradient(value) for name, value in automaton.named_parameters()}
    return automaton, {name: value.numpy() for name, value in found.items()}


def offsets(automaton: ConvAutomaton, arrays: Arrays, steps: int = 1) -> Difference:
    """Compare this library's cell of 27 offsets with the reference."""
    shape = arrays["state"].shape
    cell = offset_cell(shape[2:], automaton)
    first = torch.from_numpy(arrays["state"]).flatten(2).transpose(1, 2).contiguous().requires_grad_()
    state = first
    for _ in range(steps):
        state = cell(state)
    state.square().mean().backward()
    layer = cell.get_submodule("experts.local.layer")
    assert isinstance(layer, OffsetExpert)
    found = {
        "last": state.detach().transpose(1, 2).reshape(shape),
        "grad state": _gradient(first).transpose(1, 2).reshape(shape),
        "grad perception.weight": _gradient(layer.kernel).permute(1, 2, 0).reshape(-1, 1, 3, 3, 3),
    }
    for name, part in (("inner", layer.inner), ("outer", layer.outer)):
        found[f"grad {name}.weight"] = _gradient(part.weight)[..., None, None, None]
        found[f"grad {name}.bias"] = _gradient(part.bias)
    return difference({name: value.numpy() for name, value in found.items()}, arrays)


def cax(python: Path, arrays: Arrays, steps: int = 1) -> Difference:
    """Compare CAX's automaton with the reference.

    Args:
        python: The interpreter of its environment.
        arrays: As `reference` gives them.
        steps: Of the rollout.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "reference.npz"
        np.savez(file, **arrays)  # type: ignore[arg-type]
        settings = {"side": 0, "batch": 0, "steps": steps, "channels": CHANNELS, "hidden": HIDDEN, "weights": str(file)}
        peer = Peer("benchmarks.peers.cax_automaton", settings, python)
        try:
            with np.load(peer.round(0)["written"]) as found:
                return difference(found, arrays)
        finally:
            peer.kill()


def difference(found: Arrays, expected: Arrays) -> Difference:
    """Compare what was found with what was expected, array by array."""
    parts = {
        name: float(np.abs(found[name] - expected[name]).max() / np.abs(expected[name]).max())
        for name in expected
        if name == "last" or name.startswith("grad ")
    }
    return Difference(parts.pop("last"), max(parts.values()))


def check(name: str, found: Difference) -> None:
    """Refuse to time automata that are not the same.

    Raises:
        ValueError: When states or gradients differ by more than `TOLERANCE`.
    """
    if not (found.last <= TOLERANCE and found.gradient <= TOLERANCE):
        raise ValueError(
            f"peers must compute the same to {TOLERANCE:g} before they are timed; {name} differs by {found.last:.1e} "
            f"in the last state and {found.gradient:.1e} in the gradients; compare its layout with Conv3d's."
        )


def _gradient(value: Tensor) -> Tensor:
    assert value.grad is not None
    return value.grad.detach()
