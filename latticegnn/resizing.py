"""The same weights on a lattice of another size: what changes in a model's settings, and what forbids it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import Tensor, nn

from latticegnn.lattice import Keep, LatticeSpec, Ports, Tier, steps_needed
from latticegnn.nn.cell import slope_units
from latticegnn.pretrained import decoded

Model = TypeVar("Model", bound=nn.Module)


def rebuilt(model: Model, shape: tuple[int, int, int], steps: int | None, keep: Keep) -> Model:
    """Build a `LatticeModel` on a lattice of another shape, with a copy of its weights.

    Args:
        model: The model; it stays as it is.
        shape: Cells along x, y and z.
        steps: T there; None for `scaled_steps`.
        keep: "cells" keeps the radii in cells, "ratios" as parts of the longest side, see `LatticeSpec.resized`.

    Raises:
        ValueError: When a weight is tied to the size, as with port_map "direct" on full faces.
        LightConeError: When the steps do not suffice.
    """
    settings: dict[str, Any] = model.settings  # type: ignore[assignment]
    new = type(model)(**decoded(resized_settings(settings, shape, steps, keep), list(settings)))
    weights = model.state_dict()
    check_weights(weights, new.state_dict())
    new.to(next(model.parameters())).load_state_dict(weights)
    new.teacher = model.teacher
    return new.train(model.training)


def resized_settings(
    settings: Mapping[str, Any], shape: tuple[int, int, int], steps: int | None, keep: Keep
) -> dict[str, Any]:
    """Return a model's settings on a lattice of another shape; the limits of its stopping grow as its steps do.

    Args:
        settings: The model's own, as `LatticeModel.settings` holds them.
        shape: Cells along x, y and z.
        steps: T on the new lattice; by default `scaled_steps`.
        keep: Whether radii stay in cells or as parts of the longest side, see `LatticeSpec.resized`.

    Raises:
        ValueError: When the cells' initial states are tied to the size, or the shape or ``keep`` break a rule.
        LightConeError: When steps are to be scaled, and the output ports can never be reached.
    """
    if settings["interior"] in ("learned", "noise"):
        raise ValueError(
            "a model that changes its size needs an interior that is defined for every size, zeros or code; got "
            f"interior: {settings['interior']}, one state for each cell; train with interior: zeros."
        )
    spec = LatticeSpec.from_dict(settings["spec"])
    new = spec.resized(shape, keep)
    inputs, outputs = (Ports.from_dict(settings[end]) for end in ("inputs", "outputs"))
    count = scaled_steps(spec, new, inputs, outputs, settings["steps"]) if steps is None else steps
    stopping = settings["stopping"]
    if stopping is not None:
        least = steps_needed(new, inputs, outputs) if settings["require_light_cone"] else 1
        limits = {name: stopping[name] for name in ("min_steps", "max_steps") if stopping.get(name) is not None}
        scaled = {name: max(least, math.ceil(limit * count / settings["steps"])) for name, limit in limits.items()}
        stopping = {**stopping, **scaled}
    return {
        **settings,
        "spec": new.to_dict(),
        "steps": count,
        "stopping": stopping,
        "reference": settings["reference"] or spec.to_dict(),
    }


def scaled_steps(spec: LatticeSpec, new: LatticeSpec, inputs: Ports, outputs: Ports, steps: int) -> int:
    r"""Return the steps in which a signal covers the same part of its way on another lattice.

    .. math::
        T' = \lceil T \, \frac{n'}{n} \, \bar u \rceil

    n and n' are the steps that a light cone of the old radius needs on the two lattices, and ū is the mean of
    `latticegnn.nn.cell.slope_units` over tiers and axes, the inverse of what a step's length has grown by. With the
    radii kept in cells ū is 1; with radii that grow as the lattice T stays nearly as it is. The light cone of the new
    radius is but the lower bound: it may reach 3 layers a step where a signal, twice as fast as before, moves by 1.7.

    Args:
        spec: The old lattice.
        new: The new one.
        inputs: Input ports.
        outputs: Output ports.
        steps: T.

    Raises:
        LightConeError: When an output port can never be reached.
    """
    way, before = (steps_needed(lattice, inputs, outputs) for lattice in (spec.resized(new.shape), spec))
    if before == 0:  # all output ports are input ports
        return steps
    units = [unit for tier in (Tier.FUNCTIONAL, Tier.DISTANT) for unit in slope_units(new, spec, tier)]
    exact = steps * way / before * statistics.fmean(units)
    return max(steps_needed(new, inputs, outputs), math.ceil(round(exact, 9)))


def check_weights(weights: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> None:
    """Check that a resized model takes every weight as it is.

    Args:
        weights: Those there are.
        new: Those of the model on the new lattice.

    Raises:
        ValueError: Names the weights that are tied to the size.
    """
    shapes = [{name: list(value.shape) for name, value in group.items()} for group in (weights, new)]
    tied = [
        f"{name} {shapes[0].get(name, 'absent')} → {shapes[1].get(name, 'absent')}"
        for name in dict.fromkeys([*shapes[0], *shapes[1]])
        if shapes[0].get(name) != shapes[1].get(name)
    ]
    if tied:
        raise ValueError(
            f"a model keeps every weight when it changes its size; got other shapes for {', '.join(tied[:4])}"
            f"{' …' if len(tied) > 4 else ''}; train with port_map: bilinear and code_shape: [8, 8], so that maps do "
            "not depend on the face, without radial, and choose a size at which the same tiers have neighbours."
        )
