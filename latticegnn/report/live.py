"""What a run shows in TensorBoard while it trains, beside its scalars: gate usage, the signal, the cube."""

from __future__ import annotations

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib import colormaps
from torch import Tensor
from torch_geometric.data import Data

from latticegnn.lattice import coordinates
from latticegnn.lattice.graph import attach_ports
from latticegnn.model import LatticeModel
from latticegnn.nn import silence
from latticegnn.report.lattice import DECADES, NOISE, signal_crossing
from latticegnn.report.plots import gate_usage

SHARE = 0.01
"""Part of the training time that pictures may take."""


class LivePictures(pl.Callback):
    """Draws one validation row's rollout for TensorBoard, as often as `SHARE` of the time allows.

    The first pictures are drawn after the first epoch; others follow at the ends of epochs, as soon as what was spent
    and as much again as the last ones took are within that share of the training time. ``gate by step`` is the mean
    gate weight by tier after each step, ``signal by layer`` what `signal_crossing` draws, ``cube/…`` the cells in
    space, which TensorBoard's mesh plugin lets the reader turn, coloured by the signal after half of the steps and
    after the last one. The signal is what sets the row apart from the mean of its batch, or
    a row of tokens from padding. A rollout that is not finite,
    or moves no signal, is not drawn.

    Attributes:
        spent: Seconds that pictures took so far.
    """

    def __init__(self) -> None:
        self.spent, self._last, self._began = 0.0, 0.0, 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    @torch.no_grad()
    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Look at the first row of the epoch."""
        start = time.perf_counter()
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        shown = batch_idx == 0 and trainer.is_global_zero and isinstance(pl_module.model, LatticeModel)
        if not boards or not shown or self.spent + self._last > SHARE * (start - self._began):
            return
        for board in boards:
            _show(board.experiment, pl_module.model, pl_module.given(batch, "validation"), trainer.global_step)
        self._last = time.perf_counter() - start
        self.spent += self._last


def _show(writer: Any, model: LatticeModel, inputs: Tensor, update: int) -> None:
    # Token ids have no mean.
    reference = inputs.mean(dim=0, keepdim=True) if model.tokens is None else silence(inputs, model.tokens)
    rows = torch.cat([inputs[:1], reference])
    states = model.rollout(rows, steps=model.steps, trajectory=True).trajectory
    assert states is not None
    signal = (states[:, 0] - states[:, 1]).cpu()
    if not bool(states.isfinite().all()) or float(signal.abs().max()) <= NOISE * float(states.abs().max()):
        return
    shares = torch.stack([model.cell.gates(state[:1]).mean(dim=(0, 1)) for state in states])
    usage = dict(zip(model.cell.experts, shares.T.tolist(), strict=True))
    writer.add_figure("gate by step", gate_usage(usage), update, close=False)
    spec, place = model.spec, coordinates(model.spec).float()
    # Without edges, which nothing here needs and which a large lattice could not hold.
    cells = attach_ports(
        Data(pos=place, spec=spec, grid_shape=spec.shape, num_nodes=spec.num_nodes), model.inputs, model.outputs
    )
    writer.add_figure("signal by layer", signal_crossing(signal, cells), update, close=False)
    strength = signal.square().mean(dim=2).sqrt()
    level = 1 + (strength / strength.max()).clamp_min(1e-30).log10() / DECADES
    for step in (model.steps // 2, model.steps):
        colours = torch.from_numpy(colormaps["viridis"](level[step].clamp(0, 1).numpy())[:, :3] * 255).byte()
        style = {"material": {"cls": "PointsMaterial", "size": 0.5}}
        writer.add_mesh(f"cube/after step {step}", place[None], colours[None], config_dict=style, global_step=update)
