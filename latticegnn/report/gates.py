"""Where and when the gate listens to which tier."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor
from torch_geometric.data import Data

from latticegnn.lattice import Tier
from latticegnn.report.lattice import layers_from_inputs, name_layers
from latticegnn.report.plots import styled


@styled
def gate_maps(course: Tensor, graph: Data) -> Figure:
    """Draw each tier's gate weight by distance from the input ports and by step, a heat map a tier.

    All maps have one scale from 0 to 1: three equal maps are a gate that listens to all alike.

    Args:
        course: Of `latticegnn.analysis.gate_course`; step k + 1 stands for the weights it is taken with.
        graph: The lattice graph.

    Shapes:
        course [T, N, 3].

    Raises:
        ValueError: When the shape is not the graph's, or the weights of a cell are not shares of 1.
    """
    if course.dim() != 3 or not len(course) or course.shape[1:] != (graph.num_nodes, len(Tier)):
        raise ValueError(
            f"A gate's course has shape [T, N, 3] with N = {graph.num_nodes} and at least one step; received "
            f"{list(course.shape)}. Take gate_course(model, trajectory) of the model on this graph."
        )
    weights = course.detach().to("cpu", torch.float64)
    off = float((weights.sum(dim=2) - 1).abs().max())
    if not off < 1e-3 or float(weights.min()) < 0:
        raise ValueError(
            f"A gate's weights are shares of 1; received some that add up to {off:.3g} more or less, or lie below 0. "
            "Take gate_course(model, trajectory)."
        )
    distance = layers_from_inputs(graph)
    layers = distance.unique()
    mean = torch.stack([weights[:, distance == layer].mean(dim=1) for layer in layers])
    figure = Figure(figsize=(9.6, 3.8), layout="constrained")
    maps = figure.subplots(1, len(Tier), sharey=True)
    for tier, axes in zip(Tier, maps, strict=True):
        share = mean[:, :, tier]
        image = axes.imshow(
            share.numpy(), cmap="viridis", vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest",
            extent=(0.5, len(course) + 0.5, -0.5, len(layers) - 0.5),
        )  # fmt: skip
        axes.set_title(f"{tier.name.lower()}  {float(weights[:, :, tier].mean()):.0%}")
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    maps[0].set_ylabel("distance from the input ports (cells)")
    name_layers(maps[0], layers.tolist(), set(distance[graph.output_mask].tolist()))
    bar = figure.colorbar(image, ax=maps, label="mean gate weight", pad=0.02, format=PercentFormatter(1, decimals=0))
    bar.outline.set_visible(False)
    figure.suptitle("Which tier the gate listens to, where and when", x=0.01, ha="left", weight="bold", size=11)
    return figure
