"""Propagation modes by name, as a configuration gives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.lattice.spec import did_you_mean
from latticegnn.nn.constraints import Bounded, Wall
from latticegnn.nn.dynamics import Diffusion, Directional, Dynamics, Plain
from latticegnn.nn.exchange import port_axis
from latticegnn.nn.firing import Stochastic
from latticegnn.nn.wave import Wave

MODES: dict[str, type[Dynamics]] = {
    "diffusion": Diffusion,
    "wave": Wave,
    "directional": Directional,
    "stochastic": Stochastic,
    "bounded": Bounded,
    "wall": Wall,
}


def build_modes(
    settings: Mapping[str, Mapping[str, Any]], spec: LatticeSpec, inputs: Ports, outputs: Ports
) -> Dynamics:
    """Nest the modes that are named, the first one around the cell; none is `Plain`.

    Args:
        settings: Name of a mode, of `MODES`, to its arguments; `directional` without an ``axis`` leads from the input
            to the output ports.
        spec: The lattice.
        inputs: Input ports.
        outputs: Output ports.

    Raises:
        ValueError: For an unknown mode or argument, a setting beyond its bound, or a wall over ports.
    """
    mode: Dynamics = Plain()
    for name, given in settings.items():
        if name not in MODES:
            raise ValueError(
                f"a mode of propagation is one of {', '.join(MODES)}; got {name!r}.{did_you_mean(name, MODES)} Name "
                "one of these."
            )
        if not isinstance(given, Mapping):
            raise ValueError(f"a mode's settings are a mapping; got {given!r} for {name}; write {name}: {{…}}.")
        known = [key for key in inspect.signature(MODES[name]).parameters if key not in ("spec", "inner")]
        for key in given:
            if key not in known:
                raise ValueError(f"{name} takes {', '.join(known)}; got {key!r}; use these names.")
        arguments = dict(given)
        if MODES[name] is Directional:
            arguments.setdefault("axis", list(port_axis(spec, inputs, outputs)))
        if "spec" in inspect.signature(MODES[name]).parameters:
            arguments["spec"] = spec
        try:
            mode = MODES[name](**arguments, inner=mode)
        except TypeError as error:
            raise ValueError(f"{name} needs all of its settings; {error}; give {', '.join(known)}.") from error
        if isinstance(mode, Wall):
            blocked = int(mode.dead[torch.cat([inputs.nodes(spec), outputs.nodes(spec)])].sum())
            if blocked:
                raise ValueError(
                    f"a wall's cells hold nothing, so none may be an input or output port; got a wall across "
                    f"{given['axis']} at {given['at']}, over {blocked} of them; choose another layer."
                )
    return mode
