"""Lesions: what a trained lattice has to do without, for as long as a context lasts.

    with lesioned(model, Sphere((4, 4, 4), 2), first=10):
        model(embedding)    # the sphere's cells are silent from step 10 on

Nothing of the model is changed for good. Which cells can be silenced stands in `latticegnn.analysis.cell_lesions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from latticegnn.analysis.silence import When, silent_expert, silent_ports, silent_tier
from latticegnn.lattice.spec import did_you_mean
from latticegnn.model import LatticeModel
from latticegnn.rollout import Intervention, Rollout


class Lesion(ABC):
    """Interface of what can be silenced."""

    @abstractmethod
    def silences(self, model: LatticeModel, when: When) -> AbstractContextManager[Intervention | None]:
        """Return a context in which the model is without it, and which gives what must act between the steps."""


@dataclass(frozen=True)
class TierEdges(Lesion):
    """All edges of a tier: its sums over neighbours are zero, in the bypass, its expert and the gate.

    Args:
        tier: "local", "functional" or "distant".
    """

    tier: str

    def silences(self, model: LatticeModel, when: When) -> AbstractContextManager[Intervention]:
        """Zero the tier's sums in the steps that `when` names."""
        return silent_tier(model, _tier(model, self.tier), when)


@dataclass(frozen=True)
class TierExpert(Lesion):
    """A tier's expert: its proposal is zero, and the gate keeps the share that it gave it.

    With the share handed to the others they would speak louder as well: two changes at once. What is lost here is the
    expert's own term of the step, and nothing else. Its tier's edges stay, for bypass and gate.

    Args:
        tier: "local", "functional" or "distant".
    """

    tier: str

    def silences(self, model: LatticeModel, when: When) -> AbstractContextManager[Intervention]:
        """Zero the expert's proposal in the steps that `when` names."""
        return silent_expert(model, _tier(model, self.tier), when)


@dataclass(frozen=True)
class LostPorts(Lesion):
    """Ports, round(part · P) of them at random: nothing is laid on an input port, zero is read from an output port.

    Their cells live on. A lesion of a whole rollout: it has no first step.

    Args:
        side: "inputs" or "outputs".
        part: Of the ports, in [0, 1].
        seed: Of the draw.
    """

    side: Literal["inputs", "outputs"]
    part: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_part(self.part)
        if self.side not in ("inputs", "outputs"):
            raise ValueError(f"side must be inputs or outputs; got {self.side!r}; choose one of them.")

    def silences(self, model: LatticeModel, when: When) -> AbstractContextManager[None]:
        """Keep the code from the ports, or what is read."""
        if when != When():
            raise ValueError(
                f"ports are lost for a whole rollout; got first {when.first}, once {when.once}; leave both out, or "
                "silence the ports' cells."
            )
        ports = model.inputs if self.side == "inputs" else model.outputs
        return silent_ports(model, self.side, scattered(ports.count(model.spec), self.part, self.seed))


@contextmanager
def lesioned(model: LatticeModel, *lesions: Lesion, first: int = 0, once: bool = False) -> Iterator[LatticeModel]:
    """Let a model's rollouts run under lesions; everything is as before when the context ends.

    All executions are right under all lesions. A cell with a silenced expert cannot be fused, so its steps are computed
    as the cell reads, as the log says. The lesions act before a rollout's own ``intervene``, and on each sample by
    itself, so that a model may stop as it does without them. `LatticeModel.rollout` takes no gradient. Contexts nest.

    Args:
        model: Changed while the context lasts.
        lesions: What is silenced.
        first: See `When`.
        once: A blow at step ``first`` in place of a loss from there on.

    Yields:
        The model itself.

    Raises:
        ValueError: A lesion does not fit the lattice, or ports are to be lost at a step.
    """
    when = When(first, once)
    with ExitStack() as stack:
        acting = [stack.enter_context(lesion.silences(model, when)) for lesion in lesions]
        between = [act for act in acting if act is not None]
        inner = model.begin

        def begin(embedding: Tensor, start: Tensor | None = None, intervene: Intervention | None = None) -> Rollout:
            given = between if intervene is None else [*between, intervene]
            return inner(embedding, start, _one_after_another(given))

        changed = {"begin": begin, "rollout": torch.no_grad()(model.rollout)}
        own = {name: model.__dict__[name] for name in changed if name in model.__dict__}  # of a context outside
        model.__dict__.update(changed)
        try:
            yield model
        finally:
            for name in changed:
                del model.__dict__[name]
            model.__dict__.update(own)


def _one_after_another(interventions: Sequence[Intervention]) -> Intervention | None:
    if not interventions:
        return None

    def act(state: Tensor, taken: int) -> Tensor:
        for intervene in interventions:
            state = intervene(state, taken)
        return state

    return act


def _tier(model: LatticeModel, name: str) -> str:
    known = list(model.cell.experts)
    if name not in known:
        raise ValueError(
            f"tier must be one that this lattice's cell has an expert for, {', '.join(known)}; got {name!r}."
            f"{did_you_mean(name, known)} Choose one of them."
        )
    return name


def check_part(part: float) -> None:
    """Raise ValueError for a part outside of [0, 1]."""
    if not 0 <= part <= 1:
        raise ValueError(f"part must be from 0 to 1; got {part!r}; write 0.25 for a quarter.")


def scattered(count: int, part: float, seed: int) -> Tensor:
    """Mark round(part · count) of as many, the first ones of a random order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, order[: round(part * count)], True)
