"""When a rollout ends for a sample: a criterion, patience, fewest and most steps, as a configuration gives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from latticegnn.lattice import LatticeSpec, Ports, check_light_cone, steps_needed
from latticegnn.lattice.spec import did_you_mean
from latticegnn.nn.criteria import Absolute, Combined, Criterion, Energy, Relative, SpatialGradient, Statistical
from latticegnn.nn.dynamics import Memory
from latticegnn.nn.halting import Halting

CRITERIA: dict[str, type[Criterion]] = {
    "absolute": Absolute,
    "relative": Relative,
    "energy": Energy,
    "spatial_gradient": SpatialGradient,
    "statistical": Statistical,
    "combined": Combined,
    "halting": Halting,
}
LIMITS = ("min_steps", "max_steps", "patience")


class Stopping(nn.Module):
    """Ends each sample's rollout by itself.

    At the first step k ≥ ``min_steps`` that satisfies the criterion, as the ``patience`` − 1 steps before it did; at
    ``max_steps`` otherwise. It keeps nothing: ``memory = stopping.start(x)``, then
    ``settled, memory = stopping(x, memory, taken)`` after each step, with rows taken out of all tensors of the memory
    as samples end. No gradient flows through the decision.

    Args:
        criterion: What says that a sample has settled.
        min_steps: Steps that every sample takes, ≥ 1.
        max_steps: Steps that no sample exceeds, ≥ ``min_steps``.
        patience: Consecutive steps that must satisfy the criterion, ≥ 1; steps before ``min_steps`` count.

    Shapes:
        - input: state after a step [B, N, F]; memory, tensors of B rows; taken, the steps so far, ≥ 1
        - output: whether each sample ends here, settled [B], bool, and the next memory

    Raises:
        ValueError: For a number that is not whole or out of range.
    """

    def __init__(self, criterion: Criterion, min_steps: int, max_steps: int, patience: int = 1) -> None:
        super().__init__()
        for name, value in {"min_steps": min_steps, "max_steps": max_steps, "patience": patience}.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(
                    f"stopping.{name} must be a whole number, at least 1; got {value!r}; set it to 1 or more."
                )
        if min_steps > max_steps:
            raise ValueError(
                f"stopping.max_steps must be at least stopping.min_steps; got {max_steps} and {min_steps}; raise the "
                "first or lower the second."
            )
        self.criterion, self.min_steps, self.max_steps, self.patience = criterion, min_steps, max_steps, patience

    def start(self, x: Tensor) -> Memory:
        """Return what is remembered before the first step from this state."""
        return (torch.zeros(len(x), dtype=torch.long, device=x.device), *self.criterion.start(x))

    @torch.no_grad()
    def forward(self, x: Tensor, memory: Memory, taken: int) -> tuple[Tensor, Memory]:
        """Judge the state after a step."""
        streak, *own = memory
        satisfied, kept = self.criterion(x, tuple(own), taken)
        streak = torch.where(satisfied, streak + 1, 0)
        return (streak >= self.patience) & (taken >= self.min_steps), (streak, *kept)


def build_stopping(
    settings: Mapping[str, Any],
    spec: LatticeSpec,
    inputs: Ports,
    outputs: Ports,
    channels: int,
    steps: int,
    require_light_cone: bool = True,
) -> Stopping:
    """Build a rule from settings such as ``{relative: {tolerance: 0.001}, patience: 2, min_steps: 8, max_steps: 24}``.

    Args:
        settings: One criterion, of `CRITERIA`, with its arguments; and ``min_steps``, ``max_steps`` and ``patience``.
            ``combined: {at_least: 2, relative: {…}, energy: {…}}`` holds several. Where it is not given, ``min_steps``
            is the light cone's need, or 1 without that check, and ``max_steps`` is ``steps``.
        spec: The lattice.
        inputs: Input ports.
        outputs: Output ports.
        channels: F.
        steps: T, the model's own.
        require_light_cone: Refuse to stop before the output ports can have been reached.

    Raises:
        LightConeError: When ``min_steps`` is below the light cone's need.
        ValueError: For an unknown name, none or several criteria, or a setting out of range.
    """
    _check_mapping("stopping", settings)
    limits = {name: settings[name] for name in LIMITS if settings.get(name) is not None}
    chosen = {name: given for name, given in settings.items() if name not in LIMITS}
    if len(chosen) != 1:
        raise ValueError(
            f"stopping names one criterion of {', '.join(CRITERIA)}; got {', '.join(chosen) or 'none'}; name one, or "
            "several within combined."
        )
    if "min_steps" not in limits:
        limits["min_steps"] = max(1, steps_needed(spec, inputs, outputs)) if require_light_cone else 1
    elif require_light_cone:
        check_light_cone(spec, inputs, outputs, limits["min_steps"])
    limits.setdefault("max_steps", steps)
    known = {"spec": spec, "channels": channels, "ports": outputs.nodes(spec), "first": limits["min_steps"]}
    ((name, given),) = chosen.items()
    return Stopping(_criterion(name, given, known), **limits)


def _criterion(name: str, given: Any, known: Mapping[str, Any], within: bool = False) -> Criterion:
    """Build a criterion; what a criterion takes of ``known`` is not for the settings to give."""
    names = [other for other in CRITERIA if not within or other not in ("combined", "halting")]
    if name not in names:
        raise ValueError(
            f"a criterion{' within combined' if within else ''} is one of {', '.join(names)}; got {name!r}."
            f"{did_you_mean(name, names)} Name one of these."
        )
    _check_mapping(name, given)
    if CRITERIA[name] is Combined:
        parts = {other: settings for other, settings in given.items() if other != "at_least"}
        built = [_criterion(other, settings, known, within=True) for other, settings in parts.items()]
        return Combined(built, given.get("at_least", 2))
    parameters = inspect.signature(CRITERIA[name]).parameters
    free = [key for key in parameters if key not in known]
    for key in given:
        if key not in free:
            raise ValueError(f"{name} takes {', '.join(free)}; got {key!r}; use these names.")
    return CRITERIA[name](**{key: known[key] for key in parameters if key in known}, **given)


def _check_mapping(name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(f"settings of stopping are mappings; got {given!r} for {name}; write {name}: {{…}}.")
