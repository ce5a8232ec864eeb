"""How the gradient comes back through a rollout: through all of its steps, the last ones, or its fixed point."""

from __future__ import annotations

import inspect
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NoReturn, get_args

from torch import Tensor

from latticegnn.lattice.spec import did_you_mean
from latticegnn.nn.implicit import RESTART, Adjoint, FixedPoint, Map, Solver, relative_change, solve_adjoint

logger = logging.getLogger("latticegnn")


class GradientMode(ABC):
    """A way back through a rollout. The states of the way there are the same, bit for bit, in every mode.

    Attributes:
        recompute: Whether a step keeps its state alone and computes the rest again.
        vectors: States that the backward pass holds besides.
    """

    recompute = False
    vectors = 0

    @abstractmethod
    def kept(self, steps: int) -> int:
        """Return how many of a rollout's steps, the last ones, keep what the backward pass needs of them."""


class Full(GradientMode):
    """Backpropagation through time, all of it: exact, and T steps are kept."""

    def kept(self, steps: int) -> int:
        """Keep all."""
        return steps


class Checkpointed(GradientMode):
    """The same gradient, bit for bit; each step keeps its state alone and is computed again (Chen et al., 2016)."""

    recompute = True

    def kept(self, steps: int) -> int:
        """Keep all."""
        return steps


class Truncated(GradientMode):
    r"""Truncated backpropagation through time (Williams & Peng, 1990): the last k steps alone carry a gradient.

    .. math::
        \bar x^{T-k} = \mathrm{stop}(x^{T-k}), \qquad x^T = \mathrm{step}^k(\bar x^{T-k})

    Memory is that of k steps. What k steps cannot see is not learned: the maps into the lattice get no gradient while
    k < T without ``clamp``, and with it unless k is more than the light cone needs, as the code is first laid on within
    these steps after one of them. The states of a trajectory before step T − k are constants to a loss.

    Args:
        steps: k, ≥ 1; a rollout of no more steps has the full gradient.

    Raises:
        ValueError: When ``steps`` is no whole number, at least 1.
    """

    def __init__(self, steps: int) -> None:
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            raise ValueError(
                f"truncated.steps must be a whole number, at least 1; got {steps!r}; count the steps that the "
                "gradient flows through."
            )
        self.steps = steps

    def kept(self, steps: int) -> int:
        """Keep the last k."""
        return min(steps, self.steps)


class Implicit(GradientMode):
    r"""The gradient of the fixed point that a rollout has come to (Bai, Kolter & Koltun, 2019), see `FixedPoint`.

    The steps run without a graph; then one more, from the last state x and at rest, is taken with one, and the adjoint
    equation :math:`v = J^\top v + g` is solved at x. Memory is that of one step (and of the solver's vectors, up to 21
    states), whatever T. It is the gradient that backpropagation through ever more steps tends to, so far as x is a
    fixed point: where one more step changes a sample by more than the tolerance, the log says so, at the first time and
    whenever the count of such rollouts has doubled. An adjoint equation not solved to the tolerance is an error.

    The fixed point depends on the clamped ports and on the weights, not on where a rollout began: a model needs
    ``clamp``, and an interior that learns has nothing to learn from. Modes of propagation are steps like others (a wave
    at rest is its state twice); random firing has no fixed point. An intervention is part of the step as it acts after
    the last one. A trajectory has no gradient.

    Args:
        solver: "gmres" or "iteration", see `solve_adjoint`.
        tolerance: Greatest relative residual of the adjoint equation, and relative change in a step of a state that
            counts as a fixed point; above 0 and below 1. Steps in bfloat16 are not rounded finely enough for less than
            about 0.01.
        products: Greatest number of products with Jᵀ, ≥ 1; each takes about a step's backward pass.

    Attributes:
        last: What the last adjoint equation took; None before the first.
        moving: Rollouts so far that had not come to a fixed point.

    Raises:
        ValueError: For a setting out of range; from the backward pass, where the equation is not solved.
    """

    def __init__(self, solver: Solver = "gmres", tolerance: float = 1e-3, products: int = 100) -> None:
        if solver not in get_args(Solver):
            raise ValueError(
                f"implicit.solver is one of {', '.join(get_args(Solver))}; got {solver!r}; gmres is the default."
            )
        if not isinstance(tolerance, (int, float)) or not 0 < tolerance < 1:
            raise ValueError(
                f"implicit.tolerance must be a number above 0 and below 1; got {tolerance!r}; 1e-3 is the default."
            )
        if not isinstance(products, int) or isinstance(products, bool) or products < 1:
            raise ValueError(
                f"implicit.products must be a whole number, at least 1; got {products!r}; 100 is the default."
            )
        self.solver, self.tolerance, self.products = solver, tolerance, products
        self.vectors = RESTART + 2 if solver == "gmres" else 2
        self.last: Adjoint | None = None
        self.moving = 0

    def kept(self, steps: int) -> int:
        """Keep none."""
        return 0

    def refuse_trajectory(self) -> NoReturn:
        """Raise ValueError: a loss wants a rollout's states."""
        raise ValueError(
            "a trajectory's gradient runs through the steps, and gradient: implicit keeps none of them; got a loss on "
            "a trajectory; leave out loss terms on rollouts and halting heads, look at rollouts under torch.no_grad(), "
            "or take another gradient."
        )

    def attach(self, step: Map, state: Tensor) -> Tensor:
        """Return a state, as it is, with its gradient as a fixed point.

        Args:
            step: The map, [N, B, F] -> [N, B, F].
            state: [N, B, F].
        """
        start = state.detach().requires_grad_()
        after = step(start)
        report = Adjoint(relative_change(after.detach(), state))
        if not report.change <= self.tolerance:
            self.moving += 1
            if self.moving & (self.moving - 1) == 0:
                logger.warning(
                    "gradient: implicit takes the last state for a fixed point; one more step changes it by %.2g of "
                    "its norm, beyond the tolerance %.2g, so the gradient is not exact (rollouts so far: %d); "
                    "take more steps, or train for rest with loss.dynamics first",
                    report.change,
                    self.tolerance,
                    self.moving,
                )

        def solve(product: Map, gradient: Tensor) -> Tensor:
            v, report.residual, report.products = solve_adjoint(
                product, gradient, self.solver, self.tolerance, self.products
            )
            self.last = report
            if not report.residual <= self.tolerance:
                raise ValueError(
                    f"the adjoint equation must be solved to implicit.tolerance, {self.tolerance:g}; {self.solver} got "
                    f"to {report.residual:.2g} in {report.products} products, at a state that one step changes by "
                    f"{report.change:.2g}; raise implicit.products, "
                    + ("take solver: gmres, " if self.solver == "iteration" else "")
                    + "or take more steps to a fixed point; bf16-mixed asks for implicit.tolerance 0.01 or more."
                )
            return v

        return FixedPoint.apply(after, start, state.detach(), solve)


GRADIENTS: dict[str, type[GradientMode]] = {
    "full": Full,
    "checkpointed": Checkpointed,
    "truncated": Truncated,
    "implicit": Implicit,
}


def build_gradient(setting: str | Mapping[str, Mapping[str, Any]] | None) -> GradientMode:
    """Build the gradient mode that a configuration names.

    Args:
        setting: A mode's name, or its name to its settings; None for "full".

    Raises:
        ValueError: For an unknown mode or setting, or one that is missing or out of range.
    """
    name, given = _read(setting)
    if name not in GRADIENTS:
        raise ValueError(
            f"gradient is one of {', '.join(GRADIENTS)}; got {name!r}.{did_you_mean(name, GRADIENTS)} Name one of "
            "these."
        )
    known = list(inspect.signature(GRADIENTS[name]).parameters)
    if not isinstance(given, Mapping) or any(key not in known for key in given):
        takes = f"the settings {', '.join(known)}" if known else "no settings"
        raise ValueError(f"gradient {name} takes {takes}; got {given!r}; write {name}: {{name: value …}}.")
    try:
        return GRADIENTS[name](**given)
    except TypeError as error:
        raise ValueError(
            f"gradient {name} needs its settings; got {given!r}; give {', '.join(known)}, as in {name}: {{steps: 16}}."
        ) from error


def check_gradient(mode: GradientMode, steps: int, clamp: bool, interior: str, random: bool) -> None:
    """Hold a mode against a model's other settings, and say in the log what they keep it from.

    Args:
        mode: The gradient's.
        steps: T, the model's own.
        clamp: Whether the code is laid on in every step.
        interior: The cells' initial state.
        random: Whether cells fire at random.

    Raises:
        ValueError: Where an implicit gradient would be of nothing.
    """
    if isinstance(mode, Implicit):
        for wrong, got, remedy in (
            (not clamp, "clamp: false, whose code acts at step 0 alone", "set clamp: true"),
            (interior in ("learned", "code"), f"interior: {interior}, which acts at step 0 alone", "set it to zeros"),
            (random, "random firing, which never comes to rest", "take stochastic out of dynamics"),
        ):
            if wrong:
                raise ValueError(
                    "gradient: implicit is that of a fixed point, which depends on what acts in every step alike; got "
                    f"{got}; {remedy}, or take another gradient."
                )
    if isinstance(mode, Truncated) and mode.steps < steps and not clamp:
        logger.warning(
            "gradient: truncated to the last %d of %d steps does not reach the maps into the lattice; they stay as "
            "they are, unless model.clamp lays the code on in every step",
            mode.steps,
            steps,
        )


def _read(setting: str | Mapping[str, Mapping[str, Any]] | None) -> tuple[str, Any]:
    if setting is None:
        return "full", {}
    if isinstance(setting, str):
        return setting, {}
    if not isinstance(setting, Mapping) or len(setting) != 1:
        raise ValueError(
            f"gradient is one mode's name, or its name and settings; got {setting!r}; write full, checkpointed, or "
            "for instance {truncated: {steps: 4}}."
        )
    ((name, given),) = setting.items()
    return name, {} if given is None else given
