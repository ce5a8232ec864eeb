"""Pictures of the lattice: its cells, ports and tiers in space, and a signal on its way through."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from mpl_toolkits.mplot3d.art3d import Line3DCollection  # type: ignore[import-untyped]
from torch import Tensor
from torch_geometric.data import Data

from latticegnn.lattice import LatticeSpec, Tier, degrees_by_distance, hops
from latticegnn.lattice.stencil import tiers_of
from latticegnn.report.plots import BLACK, GREY, INPUT, OUTPUT, PALE, TIERS, styled

BOTH, NOTHING = "#5B4A8A", "#EDEDED"

DECADES = 2
"""Powers of ten below the strongest signal that the colours tell apart."""

NOISE = 1e-6
"""Part of the strongest signal below which float32's rounding is all there is."""


@styled
def lattice_3d(graph: Data) -> Figure:
    """Draw the cells in space, input and output ports marked, and the most central cell's edges by tier.

    An edge that wraps round a periodic side, or leads to a mirror image, is drawn the short way, out of the box.

    Args:
        graph: A lattice graph of `latticegnn.lattice.build_graph`.
    """
    place = graph.pos.double()
    centre = int((place - (place.max(dim=0).values / 2)).square().sum(dim=1).argmin())
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    axes = figure.add_subplot(projection="3d", computed_zorder=False)
    axes.add_collection3d(Line3DCollection(_box(graph.grid_shape), colors=PALE, linewidths=0.8, zorder=0))
    both = graph.input_mask & graph.output_mask
    inner = ~(graph.input_mask | graph.output_mask)
    size = 56 * 8 / max(8, *graph.grid_shape)
    # Drawn from the back of the default view to its front.
    for mask, label, colour, area, layer in [
        (graph.output_mask & ~both, "output port", OUTPUT, size, 6),
        (inner, "cell between", "#BDBDBD", 0.14 * size, 1),
        (both, "input and output port", BOTH, size, 3),
        (graph.input_mask & ~both, "input port", INPUT, size, 2),
    ]:
        if bool(mask.any()):
            name = f"{int(mask.sum())} {label.replace('port', 'ports').replace('cell', 'cells')}"
            axes.scatter(
                *place[mask].T.tolist(), s=area, c=colour, label=name, edgecolors="white", depthshade=False,
                linewidths=0 if mask is inner else 0.5, zorder=layer,
            )  # fmt: skip
    own = graph.edge_index[1] == centre
    for tier in Tier:
        offsets = graph.edge_offset[own & (graph.edge_tier == int(tier))].double()
        outward = offsets[(offsets != 0).any(dim=1)]
        colour, name = TIERS[tier.name.lower()], tier.name.lower()
        if len(outward):
            ends = torch.stack([place[centre].expand_as(outward), place[centre] + outward], dim=1)
            style = {"colors": colour, "linewidths": 2.2 if len(outward) < 100 else 0.4, "zorder": 5 - tier / 4}
            bundle = Line3DCollection(ends.tolist(), label=f"{len(outward)} {name} neighbours", **style)
            axes.add_collection3d(bundle)
    itself = place[centre].tolist()
    axes.scatter(
        *itself, s=2.2 * size, c=TIERS["local"], edgecolors="black", linewidths=1, depthshade=False, zorder=5,
        label="one cell (its local tier)",
    )  # fmt: skip
    shape = "×".join(map(str, graph.grid_shape))
    figure.suptitle(f"A lattice of {shape} cells, and what one cell hears", x=0.02, ha="left", weight="bold", size=11)
    for name, axis, length in zip("xyz", (axes.xaxis, axes.yaxis, axes.zaxis), graph.grid_shape, strict=True):
        axes.set(**{f"{name}lim": (-0.4, length - 0.6)})
        axis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axis.set_label_text(name)
        axis.labelpad = -6
        axis.set_tick_params(color="none", pad=-3)
        axis.set_pane_color((1, 1, 1, 0))
        axis.line.set_visible(False)
    axes.grid(False)
    sides = torch.tensor(graph.grid_shape).clamp_min(2).double()
    # matplotlib keeps a box's diagonal, so that a flat one would leave the picture.
    axes.set_box_aspect(sides.tolist(), zoom=float(0.62 * sides.norm() / sides.max()))
    axes.view_init(elev=17, azim=-58)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _box(shape: tuple[int, int, int]) -> list[list[tuple[float, ...]]]:
    """The twelve edges of the lattice's box."""
    corners = list(product(*((0.0, length - 1.0) for length in shape)))
    return [[a, b] for a, b in combinations(corners, 2) if sum(p != q for p, q in zip(a, b, strict=True)) == 1]


@styled
def tier_degrees(spec: LatticeSpec) -> Figure:
    """Draw how many neighbours a cell has at each distance, by tier: bars for the mean cell, lines from least to most.

    The dotted lines are the radii at which tiers end. The cell itself, in its local tier, is left out.

    Args:
        spec: The lattice; it needs no edge list.
    """
    distances, counts = degrees_by_distance(spec)
    tier = tiers_of(spec, distances.square().round().long())
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    beside, handles = distances > 0, []
    gaps = distances.diff()
    width = max(0.8 * float(gaps.min()), float(distances[-1]) / 150) if len(gaps) else 0.8
    for each in Tier:
        own = beside & (tier == int(each))
        name = each.name.lower()
        mean, least, most = (counts[:, own].double().mean(0), *counts[:, own].aminmax(dim=0))
        label = f"{name}: {float(mean.sum()):.4g} a cell" if bool(own.any()) else f"{name}: none"
        handles.append(Patch(color=TIERS[name], label=label))
        x = distances[own].tolist()
        axes.bar(x, mean.tolist(), width, color=TIERS[name])
        axes.vlines(x, least.tolist(), most.tolist(), color=BLACK, linewidth=0.8)
    for radius in spec.thresholds:
        axes.axvline(radius, color=GREY, linewidth=0.8, linestyle=":")
    axes.set_title("Neighbours by distance")
    axes.set_xlabel("distance (cells)")
    axes.set_ylabel("neighbours of a cell")
    axes.set_xlim(left=0)
    axes.grid(axis="y")
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


@styled
def signal_crossing(trajectory: Tensor, graph: Data) -> Figure:
    r"""Draw how strong the signal is at each distance from the input ports after each step, and the light cone's front.

    .. math::
        s_{d,k} = \sqrt{\langle (x^k_{i,f})^2 \rangle_{f,\; i : d_i = d}}

    d_i is cell i's distance from the nearest input port, in whole cells: the layer, where the ports are a full face.
    The front is the first step at which any cell at that distance can have heard from an input port; right of it lies
    the light cone. Colours are logarithmic over `DECADES` powers of ten; below a part `NOISE` of the strongest signal
    there is none, and the picture stays pale.

    A cell's biases and the place codes of the ports move the state of any sample, and of every cell at once. What one
    input changes is the difference of its trajectory and another's; that alone is zero outside the light cone.

    Args:
        trajectory: States of one sample after steps 0 … T, or the difference of two samples' states.
        graph: Its lattice graph.

    Shapes:
        trajectory [T + 1, N, F].

    Raises:
        ValueError: When the shape is not the graph's, or the trajectory is zero or not finite.
    """
    if trajectory.dim() != 3 or trajectory.shape[1] != graph.num_nodes:
        raise ValueError(
            f"A trajectory of one sample has shape [T + 1, N, F] with N = {graph.num_nodes}; received "
            f"{list(trajectory.shape)}. Take rollout(…, trajectory=True).trajectory[:, b] of the model on this graph."
        )
    energy = trajectory.detach().to("cpu", torch.float64).square().mean(dim=2)
    if not bool(energy.isfinite().all()) or not bool(energy.any()):
        raise ValueError(
            "A signal must be finite, and other than zero somewhere; received a trajectory with "
            f"{int((~energy.isfinite()).sum())} cells that are not finite and {int((energy != 0).sum())} that are not "
            "zero. Check the input embedding and the step size."
        )
    distance = layers_from_inputs(graph)
    layers = distance.unique()
    arrival = hops(graph.spec, graph.input_nodes)
    signal = torch.stack([energy[:, distance == layer].mean(dim=1).sqrt() for layer in layers])
    front = [_first(arrival[distance == layer]) for layer in layers]
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    top = float(signal.max())
    seen = np.ma.masked_less(signal.numpy(), NOISE * top)
    norm = LogNorm(top * 10**-DECADES, top)
    image = axes.imshow(seen, cmap="viridis", norm=norm, origin="lower", aspect="auto", interpolation="nearest")
    axes.set_facecolor(NOTHING)
    # The stairs' left side: a cell of the picture is centred on its step and layer.
    stairs = np.repeat(np.minimum(front, len(trajectory)) - 0.5, 2)
    edges = np.arange(len(layers)).repeat(2) + np.tile([-0.5, 0.5], len(layers))
    (line,) = axes.plot(stairs, edges, color=OUTPUT, linewidth=2.4, clip_on=False, label="front of the light cone")
    axes.set_xlim(-0.5, len(trajectory) - 0.5)
    axes.set_ylim(-0.5, len(layers) - 0.5)
    axes.set_title("A signal crosses the lattice")
    axes.set_xlabel("step")
    axes.set_ylabel("distance from the input ports (cells)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name_layers(axes, layers.tolist(), set(distance[graph.output_mask].tolist()))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, ax=axes, label="signal strength (RMS of the state)", extend="min", pad=0.02)
    bar.outline.set_visible(False)
    handles = [line, Patch(color=NOTHING, label="no signal")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def layers_from_inputs(graph: Data) -> Tensor:
    """Each cell's distance from the nearest input port, the short way round, in whole cells [N]."""
    place = graph.pos.double()
    nearest = torch.full((len(place),), torch.inf, dtype=torch.float64)
    shape = torch.tensor(graph.spec.shape)
    wraps = torch.tensor(graph.spec.periodic)
    for port in place[graph.input_nodes]:  # one port at a time: all pairs of a large lattice do not fit in memory
        offset = (place - port).abs()
        offset = torch.where(wraps, torch.minimum(offset, shape - offset), offset)
        nearest = torch.minimum(nearest, offset.square().sum(dim=1))
    return nearest.sqrt().round().long()


def _first(arrival: Tensor) -> float:
    """Earliest arrival among cells, infinite where none is ever reached."""
    reached = arrival[arrival >= 0]
    return float(reached.min()) if len(reached) else math.inf


def name_layers(axes: Axes, layers: list[int], outputs: set[int]) -> None:
    """Label the rows of a picture by layer, those of the input and the output ports by name."""
    names = {layers.index(layer): f"output ports   {layer}" for layer in outputs} | {0: "input ports   0"}
    shown = {place: str(layers[place]) for place in range(0, len(layers), max(1, len(layers) // 8))} | names
    if len(outputs) > 3:  # spread over many layers, they would only clutter
        shown |= {place: str(layers[place]) for place in names if place}
    axes.set_yticks(list(shown), list(shown.values()))
