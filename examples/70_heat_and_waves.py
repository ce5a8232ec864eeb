"""Heat and waves: what the lattice's dynamics do, beside what theory says, and a medium learned from watching it.

Nothing is learned at first. The cell is the identity, and the propagation modes `Diffusion` and `Wave` move a state on
their own, for which the answers are known in closed form: every number stands beside its theory and the difference.
Then the medium is unknown: three numbers of a message-passing layer, how well it conducts along x, y and z, are found
by gradient descent through the rollout from noisy trajectories of heat, and of a wave.

Run it from anywhere: ``python examples/70_heat_and_waves.py`` (ten seconds of one core);
``--figure heat_and_waves.png`` also draws what happened.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.nn import MessagePassing

import latticegnn as lg
from latticegnn.lattice import coordinates, node_grid
from latticegnn.nn import Diffusion, Dynamics, Plain, Wave
from latticegnn.report import save

RADII = (0.5, 1.0, 1.4)  # cells: the functional tier is the six neighbours across faces
RATE, SPEED = 0.6, 0.5
NOISE = 0.01
"""Standard deviation of what a thermometer gets wrong; that of the states is 1 at first."""


def cube(side: int, boundary: str = "periodic") -> lg.LatticeSpec:
    """Return a cube in which cells are joined across their faces."""
    return lg.LatticeSpec((side,) * 3, radii=RADII, boundary=boundary)


def roll(mode: Dynamics, cell: Callable[[Tensor], Tensor], x: Tensor, steps: int) -> Tensor:
    """Return the states after steps 0 … T, [T + 1, B, N, F]; a wave starts at rest."""
    states, memory = [x], mode.start(x)
    for at in range(steps):
        x, memory = mode(cell, x, memory, at)
        states.append(x)
    return torch.stack(states)


def standing(spec: lg.LatticeSpec, counts: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
    """Return the patterns cos(θ·p), [B, N, 1], with so many waves along x, y and z, and their θ, [B, 3]."""
    theta = 2 * math.pi * torch.tensor(counts, dtype=torch.float64) / spec.shape[0]
    return torch.cos(coordinates(spec).double() @ theta.T).T[..., None], theta


def eigenvalue(theta: Tensor) -> Tensor:
    """Return what the lattice's Laplacian makes of a pattern: 4 Σ sin²(θ/2), for long waves the continuum's |θ|²."""
    return 4 * (theta / 2).sin().square().sum(dim=-1)


def amplitude(states: Tensor) -> Tensor:
    """Return how much of its start is left in each state, [T + 1, B]."""
    return (states * states[0]).sum(dim=(2, 3)) / states[0].square().sum(dim=(1, 2))


def row(name: str, measured: float, theory: float, note: str = "") -> None:
    """Print a measurement beside its theory."""
    print(f"  {name:<34} {measured:>14.10f} {theory:>14.10f} {measured - theory:>10.1e}   {note}".rstrip())


def head(title: str) -> None:
    """Print the head of a table."""
    print(f"\n{title}\n  {'':<34} {'measured':>14} {'theory':>14} {'difference':>10}")


def kernel(spec: lg.LatticeSpec, steps: int) -> Tensor:
    r"""Return the discrete heat kernel :math:`(1 - D\mu_\theta/6)^k`, transformed back from all patterns, [N].

    This is what becomes of one unit of heat in the cell at (0, 0, 0) after k steps, without taking any of them.
    """
    side = spec.shape[0]
    theta = 2 * math.pi * torch.arange(side, dtype=torch.float64) / side
    mu = eigenvalue(torch.stack(torch.meshgrid(theta, theta, theta, indexing="ij"), dim=-1))
    return torch.fft.ifftn((1 - RATE * mu / 6) ** steps).real[tuple(coordinates(spec).long().T)]


def heat(side: int, steps: int) -> dict[str, Tensor]:
    """Let a point of heat spread; let patterns fade between four kinds of walls."""
    spec = cube(side)
    point = torch.zeros(1, spec.num_nodes, 1, dtype=torch.float64)
    centre = int(node_grid(spec)[0, 0, 0])
    point[0, centre] = 1
    states = roll(Diffusion(spec, RATE), nn.Identity(), point, steps)[:, 0, :, 0]
    theory = torch.stack([kernel(spec, step) for step in range(steps + 1)])
    kappa = RATE / 6  # cells² a step
    gauss = (4 * math.pi * kappa * torch.arange(1, steps + 1)) ** -1.5

    head(f"one unit of heat in a cell of {side}×{side}×{side} cells, periodic, D = {RATE}, κ = D/6 = {kappa:.2f}")
    for step in (1, 4, 16, steps):
        row(f"left in it, step {step}", float(states[step, centre]), float(theory[step, centre]),
            f"continuum (4πκt)^(-3/2) = {float(gauss[step - 1]):.4f}")  # fmt: skip
    print(f"  largest difference in any cell after any step: {float((states - theory).abs().max()):.1e}")
    row("heat in all cells at the end", float(states[-1].sum()), 1)
    early = side // 2 - 1  # heat has not yet met itself on the other side
    away = coordinates(spec).double()
    squared = torch.minimum(away, side - away).square().sum(dim=1)
    row(f"mean square distance, {early} steps", float(states[early] @ squared), 6 * kappa * early, "6κt")

    head("the slowest pattern fades by this factor a step, between walls that are")
    place = coordinates(spec).double()
    free = torch.cos(math.pi * (place[:, 2] + 0.5) / side)  # no slope half a cell beyond the last cell
    held = torch.sin(math.pi * (place + 1) / (side + 1)).prod(dim=1)  # zero one cell beyond it, in all directions
    for boundary, pattern, mu in (
        ("periodic", torch.cos(2 * math.pi * place[:, 2] / side), 2 - 2 * math.cos(2 * math.pi / side)),
        ("open", free, 2 - 2 * math.cos(math.pi / side)),
        ("reflecting", free, 2 - 2 * math.cos(math.pi / side)),
        ("absorbing", held, 6 - 6 * math.cos(math.pi / (side + 1))),
    ):
        faded = amplitude(roll(Diffusion(cube(side, boundary), RATE), nn.Identity(), pattern[None, :, None], steps))
        row(boundary, float(faded[-1, 0]) ** (1 / steps), 1 - kappa * mu, f"1 − Dμ/6, μ = {mu:.4f}")
    return {"left": states[:, centre], "theory": theory[:, centre], "gauss": gauss}


def frequency(course: Tensor) -> Tensor:
    """Return the frequency of sinusoids from three samples in a row (Prony, 1795), by least squares over all, [B]."""
    return torch.arccos((course[1:-1] * (course[2:] + course[:-2])).sum(dim=0) / (2 * course[1:-1].square().sum(dim=0)))


def waves(side: int, steps: int) -> dict[str, Tensor]:
    """Let patterns of several wave lengths stand and swing; look at the energy."""
    spec = cube(side)
    counts = [(n, 0, 0) for n in range(1, side // 2 + 1)] + [(1, 1, 0), (2, 1, 1), (side // 2,) * 3]
    pattern, theta = standing(spec, counts)
    mode = Wave(spec, SPEED)
    states = roll(mode, nn.Identity(), pattern, steps)
    found = frequency(amplitude(states))
    theory = 2 * (SPEED * eigenvalue(theta).sqrt() / 2).arcsin()

    head(f"standing waves in {side}×{side}×{side} cells, periodic, c = {SPEED}: radians a step")
    for at, (x, y, z) in enumerate(counts):
        if y or x in (1, 2, side // 2):
            told = f"continuum c|θ| = {SPEED * float(theta[at].norm()):.4f}"
            row(f"waves along x y z: {x} {y} {z}", float(found[at]), float(theory[at]), told)

    pulse = torch.randn(1, spec.num_nodes, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second, *_, before, last = roll(mode, nn.Identity(), pulse, steps)
    energy = float(mode.energy(last, (before,)) / mode.energy(second, (first,)))
    row(f"energy after {steps} steps", energy, 1, "of a random start's")
    damped = amplitude(roll(Wave(spec, SPEED, damping=0.02), nn.Identity(), pattern[:1], steps))[:, 0]
    # Of r^k cos(ωk + φ), whatever ω and φ are, this is r^2k times a constant.
    swing = damped[2:] * damped[:-2] - damped[1:-1].square()
    kept = float(swing[-1] / swing[0]) ** (0.5 / (len(swing) - 1))
    row("amplitude a step, γ = 0.02", kept, math.sqrt(1 - 0.02), "√(1 − γ)")
    return {"theta": theta.norm(dim=1)[: side // 2], "found": found[: side // 2]}


class Medium(MessagePassing):
    r"""A medium that conducts by an unknown amount along each axis: :math:`x_i + \sum_j k_{a(ij)} (x_j - x_i)`.

    Args:
        graph: The lattice.

    Attributes:
        k: Conductivity along x, y and z, in cells² a step; learned, 0 at first.
    """

    def __init__(self, graph: Data) -> None:
        super().__init__(aggr="sum", node_dim=-2)
        beside = graph.edge_tier == lg.Tier.FUNCTIONAL
        self.edges = graph.edge_index[:, beside]
        self.axis = graph.edge_offset[beside].abs().argmax(dim=1)
        self.k = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Take what flows in."""
        return x + self.propagate(self.edges, x=x, conductivity=self.k[self.axis, None])

    def message(self, x_i: Tensor, x_j: Tensor, conductivity: Tensor) -> Tensor:
        """Flow down the slope."""
        return conductivity * (x_j - x_i)


def identify(
    spec: lg.LatticeSpec, truth: Dynamics, model: Dynamics, updates: int, smooth: int = 4
) -> tuple[Tensor, float]:
    """Find a medium's conductivities from noisy trajectories, by gradient descent through the rollout.

    Args:
        spec: The lattice.
        truth: What moves the states that are watched.
        model: The mode around the unknown medium.
        updates: Of Adam.
        smooth: Steps of heat that take the edges off the random starts.

    Returns:
        The conductivities after each update, [updates, 3], and the error that is left, root mean square.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(4, spec.num_nodes, 1, generator=generator, dtype=torch.float64)
    start = roll(Diffusion(spec, RATE), nn.Identity(), start, smooth)[-1]
    start = start / start.std()
    with torch.no_grad():
        seen = roll(truth, nn.Identity(), start, 8)
        seen[1:] += NOISE * torch.randn(seen[1:].shape, generator=generator, dtype=torch.float64)
    medium = Medium(lg.build_graph(spec))
    optimizer = torch.optim.Adam(medium.parameters(), lr=0.02)
    course = []
    for _ in range(updates):
        loss = (roll(model, medium, start, 8) - seen).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        course.append(medium.k.detach().clone())
    return torch.stack(course), float(loss.detach()) ** 0.5


def learn(side: int, updates: int) -> dict[str, Tensor]:
    """Learn the diffusivity from heat and the wave speed from waves."""
    spec = cube(side)
    left = NOISE * math.sqrt(8 / 9)  # the start is known, the eight states after it are not
    head(f"a medium of {side}×{side}×{side} cells, learned from 8 noisy steps of heat, {updates} updates")
    diffusivity, error = identify(spec, Diffusion(spec, RATE), Plain(), updates)
    for axis, found in zip("xyz", diffusivity[-1].tolist(), strict=True):
        row(f"diffusivity along {axis}", found, RATE / 6)
    row("error left: the noise", error, left)

    head(f"the same from 8 noisy steps of waves, {updates} updates")
    # The mode knows a speed that is too small: what is missing, c² − 0.1², is the medium's to learn.
    found, error = identify(spec, Wave(spec, SPEED), Wave(spec, 0.1), updates)
    speed = (0.1**2 + found).clamp_min(0).sqrt()
    for axis, last in zip("xyz", speed[-1].tolist(), strict=True):
        row(f"wave speed along {axis}", last, SPEED)
    row("error left: the noise", error, left)
    _, error = identify(spec, Wave(spec, SPEED), Wave(spec, 0.1), updates, smooth=0)
    row("from jagged starts: error left", error, left, "stuck: this loss has other minima")
    return {"diffusivity": diffusivity, "speed": speed}


def draw(heated: dict[str, Tensor], swung: dict[str, Tensor], learned: dict[str, Tensor]) -> Figure:
    """Draw heat in the first cell, the dispersion of waves, and the course of what is learned."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    steps = torch.arange(1, len(heated["left"]))
    left.loglog(steps, heated["left"][1:], "o", color="#D55E00", markersize=4, label="lattice")
    left.loglog(steps, heated["theory"][1:], color="black", linewidth=1, label="discrete heat kernel")
    left.loglog(steps, heated["gauss"], "--", color="#6E6E6E", label="continuum")
    left.set(title="Heat left where it was put", xlabel="step", ylabel="of one unit")
    theta = torch.linspace(0, math.pi, 100)
    middle.plot(swung["theta"], swung["found"], "o", color="#0072B2", markersize=5, label="lattice")
    dispersion = 2 * (SPEED * (theta / 2).sin()).arcsin()
    middle.plot(theta, dispersion, color="black", linewidth=1, label="dispersion relation")
    middle.plot(theta, SPEED * theta, "--", color="#6E6E6E", label="continuum, c|θ|")
    middle.set(title="Frequency of a standing wave", xlabel="θ, radians a cell", ylabel="ω, radians a step")
    for (name, course), colour, truth in zip(learned.items(), ("#D55E00", "#0072B2"), (RATE / 6, SPEED), strict=True):
        right.axhline(truth, color="black", linewidth=1, label="truth" if name == "speed" else None)
        for axis, style in enumerate(("-", "--", ":")):
            right.plot(course[:, axis], style, color=colour, label=f"{name} along {'xyz'[axis]}")
    right.set(title="A medium learned from watching it", xlabel="update", ylim=(0, None))
    for axes in (left, middle, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    return figure


def main() -> None:
    """Check the dynamics against their theory, then learn a medium."""
    parser = argparse.ArgumentParser(description="Heat and waves on the lattice.")
    parser.add_argument("--figure", type=Path, help="draw what happened into this PNG")
    given = parser.parse_args()
    torch.set_num_threads(1)  # cubes this small are faster on one
    heated, swung, learned = heat(16, 100), waves(16, 100), learn(6, updates=150)
    if given.figure is not None:
        save(draw(heated, swung, learned), given.figure)
        print(f"\n{given.figure}")


if __name__ == "__main__":
    main()
