"""Digits through a hole: a cube sends through time what does not fit through space.

A digit of 8×8 pixels is held on the face z- of an 8×8×8 cube and wanted on the face z+ after N = 32 steps. Half-way
stands a wall of dead cells with one open cell of 16 numbers. At any one step no more than 16 numbers are on their way,
and the best linear code of 16 numbers are the principal components; a cube that sends them one after the other can do
better. The task is that of the self-autoencoding digits of CAX (Faldor & Cully, 2024), in the size of scikit-learn's.

`Courier` is a layer of your own, as in ``10_swap_a_layer.py``, and here it does all the work of a step. All numbers are
in ``configs/examples/digits.yaml``.

Run it from the repository: ``python examples/20_self_autoencoding_digits.py`` trains two models on three seeds each and
prints the table; runs that are done are kept. ``--seed 1`` takes one seed, ``--hold`` the second model alone,
``--figure`` draws what happened, ``--quick`` is a small form that takes seconds. It needs scikit-learn.
"""

# %%
import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional

import latticegnn as lg
from latticegnn.analysis import Plane, lesioned
from latticegnn.lattice import node_grid
from latticegnn.nn import Expert
from latticegnn.report import save
from latticegnn.testing import LayerContract

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "examples"
HOLE = (3, 3, 4)
NAMES = {"digits": "cube, answer at N", "digits_hold": "cube, answer held", "digits_quick": "cube, quick form"}


# %% [markdown]
# ## The layer


# %%
class Courier(Expert):
    r"""A linear step that is started as a shift, with units that know their place and cells that can come to rest.

    .. math::
        \Delta_i = u_i \odot \big( S z_i + A\, \mathrm{ReLU}(R z_i) + B (\sigma(G \gamma_i) \odot V z_i) \big), \quad
        z_i = [x_i \,\|\, m_i \,\|\, 1], \; \gamma_i = [r_i \,\|\, r_i^2 \,\|\, 1]

    with r the cell's position. The last channel is a clock c, no part of z, which every cell moves by 0.1 a step.
    Without ``closes`` u is 1; with it :math:`u_i = \sigma(s (k^\top \gamma_i - 10\, c_i))`, an update gate (Cho et al.,
    2014) that starts out closing after that step everywhere; where, when and how fast it closes is learned.

    Args:
        channels: F, the clock among them.
        moments: M = 4F: mean and three differences.
        positions: The cells' places [N, 3].
        hidden: Number of ReLU units.
        units: Number of linear units that are gated by place.
        noise: Standard deviation of the weights around the shift.
        closes: Step after which the update gate is half closed, at the start; None for no gate.

    Shapes:
        - x [N, B, F], moments [N, B, M]
        - output [N, B, F]
    """

    PACE = 0.1  # of the clock
    CELLS = 7  # that a moment is a mean over: times 7, a first moment is the difference of two neighbours

    def __init__(
        self,
        channels: int,
        moments: int,
        positions: Tensor,
        hidden: int = 16,
        units: int = 32,
        noise: float = 0.015,
        closes: float | None = None,
    ) -> None:
        super().__init__()
        free = channels - 1
        self.sizes = [free, hidden, units]
        self.inner = nn.Linear(5 * free, sum(self.sizes))
        self.outer = nn.Linear(hidden + units, free, bias=False)
        self.place = nn.Linear(6, units)
        self.register_buffer("features", torch.cat([positions, positions**2], dim=1), persistent=False)
        nn.init.normal_(self.outer.weight, std=noise)
        nn.init.normal_(self.place.weight, std=2.0)
        with torch.no_grad():  # Δ = mean - x - half the difference along z: the neighbour below, blurred
            self.inner.bias[:free] = 0
            own, mean, _, _, along = self.inner.weight[:free].normal_(std=noise).split(free, dim=1)
            for block, weight in ((own, -1.0), (mean, 1.0), (along, -0.5)):
                block += weight * torch.eye(free)
        self.rest = None
        if closes is not None:
            self.rest, self.haste = nn.Linear(6, 1), nn.Parameter(torch.tensor(4.0))
            nn.init.zeros_(self.rest.weight)
            nn.init.constant_(self.rest.bias, closes)

    def forward(self, x: Tensor, moments: Tensor) -> Tensor:
        """Propose a change of state."""
        state, clock = x[..., :-1], x[..., -1:]
        mean, *differences = (moment[..., :-1] for moment in moments.chunk(4, dim=-1))
        seen = torch.cat([state, mean, *(self.CELLS * one for one in differences)], dim=-1)
        linear, units, gated = self.inner(seen).split(self.sizes, dim=-1)
        here = torch.sigmoid(self.place(self.features)).unsqueeze(1)
        change = linear + self.outer(torch.cat([units.relu(), here * gated], dim=-1))
        if self.rest is not None:
            change = torch.sigmoid(self.haste * (self.rest(self.features).unsqueeze(1) - clock / self.PACE)) * change
        return torch.cat([change, torch.full_like(clock, self.PACE)], dim=-1)


class TestCourier(LayerContract):  # noqa: D101
    layer = Courier
    init_args: ClassVar = {"hidden": 2, "units": 2, "closes": 1}
    homogeneous = False


# %% [markdown]
# ## Training and measuring


# %%
@dataclass
class Training:
    """How a model is trained; see ``configs/examples/digits.yaml``."""

    updates: int
    batch: int
    lr: float
    betas: tuple[float, float]
    clip: float
    until: int
    start: str | None = None


def configured(name: str, seed: int) -> tuple[dict[str, Any], lg.LatticeModel, Training]:
    """Read a configuration, and build its untrained model.

    Args:
        name: A file of ``configs/examples``; one other than digits.yaml states its differences from that.
        seed: Of the model.
    """
    given: dict[str, Any] = {"model": {"seed": seed}, "training": {}}
    for file in dict.fromkeys(("digits", name)):
        for section, stated in yaml.safe_load((CONFIGS / f"{file}.yaml").read_text(encoding="utf-8")).items():
            given[section] |= stated
    model = lg.LatticeModel(**given["model"] | {"spec": lg.LatticeSpec.from_dict(given["model"]["spec"])})
    with torch.no_grad():
        for part in (model.transformer.encoder, model.transformer.decoder):  # pixels are laid and read as they are
            part.weight.copy_(torch.eye(model.embedding_dim))
            part.bias.zero_()
            part.requires_grad_(False)
        model.cell.bypass.requires_grad_(False).weight.zero_()  # the layer has its own way past its units
        model.cell.step.requires_grad_(False).fill_(1.0)
        no_clock = torch.arange(model.channels) < model.channels - 1  # it says nothing about a digit
        model.extractor.read.mul_(no_clock)
        model.extractor.read.register_hook(no_clock.mul)
    return given, model, Training(**given["training"])


def digits() -> tuple[Tensor, Tensor, Tensor]:
    """Return 1297 digits to train on, 200 to look at meanwhile and 300 to test on, pixels from 0 to 1 [n, 64]."""
    data = load_digits()
    pixels = torch.from_numpy((data.data / 16).astype(np.float32))
    first, test = train_test_split(range(len(pixels)), test_size=300, random_state=0, stratify=data.target)
    train, validation = train_test_split(first, test_size=200, random_state=0, stratify=data.target[first])
    return pixels[train], pixels[validation], pixels[test]


def train(model: lg.LatticeModel, plan: Training, images: Tensor, validation: Tensor, seed: int) -> float:
    """Train a model; return the CPU seconds that it took."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, plan.lr, plan.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: rate(k, plan.updates))
    generator, start = torch.Generator().manual_seed(seed), time.process_time()
    model.train()
    for update in range(plan.updates):
        batch = images[torch.randint(len(images), (plan.batch,), generator=generator)]
        out = model(batch)
        loss = functional.mse_loss(out.embedding, batch)
        if plan.until > model.steps:
            more = int(torch.randint(plan.until - model.steps, (), generator=generator)) + 1
            loss = (loss + functional.mse_loss(model.rollout(batch, more, start=out.state).embedding, batch)) / 2
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, plan.clip)
        optimizer.step()
        schedule.step()
        if (update + 1) % 100 == 0:
            model.eval()
            first, second = (error(model, validation, steps) for steps in (model.steps, 2 * model.steps))
            spent = time.process_time() - start
            print(f"    {update + 1}: validation {first:.4f} at N, {second:.4f} at 2N; {spent:.0f} s", flush=True)
            model.train()
    model.eval()
    return time.process_time() - start


def rate(update: int, updates: int) -> float:
    """Return the learning rate's factor: rising over 20 updates, flat for a third of all, then a cosine to 0."""
    past = max(0.0, update / updates - 1 / 3) * 3 / 2
    return min(1.0, (update + 1) / 20) * (1 + math.cos(math.pi * past)) / 2


@torch.no_grad()
def error(model: lg.LatticeModel, images: Tensor, steps: int | None = None) -> float:
    """Return the mean squared error a pixel after some steps, N by default."""
    return float(functional.mse_loss(model.rollout(images, steps).embedding, images))


def measure(model: lg.LatticeModel, images: Tensor) -> dict[str, float]:
    """Measure a model on digits that it never saw: at N and 2N, and with the hole shut."""
    axis, at = "xyz".index(model.settings["dynamics"]["wall"]["axis"]), model.settings["dynamics"]["wall"]["at"]
    found = {"N": error(model, images), "2N": error(model, images, 2 * model.steps)}
    with lesioned(model, Plane(axis, at)), torch.no_grad():
        seen = model(images).embedding
    # With nothing coming through, the far face is the same whatever the digit.
    return found | {"shut": float(functional.mse_loss(seen, images)), "leak": float(seen.std(dim=0).max())}


def result(name: str, seed: int, folder: Path) -> dict[str, Any]:
    """Train and measure a model of a configuration, unless that is done."""
    given, model, plan = configured(name, seed)
    before = 0.0
    if plan.start:
        first = result(plan.start, seed, folder)
        given["start"], before = first["settings"], first["cpu_seconds"]
        learned = lg.LatticeModel.from_pretrained(folder / f"{plan.start}-seed{seed}" / "model", trust_code=True)
        model.load_state_dict(model.state_dict() | learned.state_dict())
    file = folder / f"{name}-seed{seed}" / "result.json"
    if file.is_file() and (done := json.loads(file.read_text(encoding="utf-8")))["settings"] == given:
        return done
    print(f"  {NAMES[name]}, seed {seed}: {sum(p.numel() for p in model.cell.experts.parameters())} weights in a cell")
    images, validation, test = digits()
    spent = before + train(model, plan, images, validation, seed)
    model.save_pretrained(file.parent / "model")
    done = {"settings": given, "cpu_seconds": spent} | measure(model, test)
    file.write_text(json.dumps(done, indent=2), encoding="utf-8")
    return done


def principal(images: Tensor, test: Tensor, count: int) -> float:
    """Return the test error of the best linear code of so many numbers, the principal components."""
    mean = images.mean(dim=0)
    axes = torch.linalg.svd(images - mean, full_matrices=False).Vh[:count]
    return float(functional.mse_loss((test - mean) @ axes.T @ axes + mean, test))


def perceptron(images: Tensor, validation: Tensor, test: Tensor, seed: int, epochs: int) -> float:
    """Return the test error of an autoencoder with a bottleneck of 16 numbers, at its best epoch on validation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        down = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 16))
        model = nn.Sequential(down, nn.Linear(16, 128), nn.GELU(), nn.Linear(128, 64))
        optimizer = torch.optim.Adam(model.parameters(), 2e-3)
        best = (math.inf, math.inf)
        for _ in range(epochs):
            for batch in images[torch.randperm(len(images))].split(32):
                loss = functional.mse_loss(model(batch), batch)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.no_grad():
                best = min(best, tuple(float(functional.mse_loss(model(part), part)) for part in (validation, test)))
    return best[1]


def told(values: list[float]) -> str:
    """Return the mean of some seeds' errors, and each."""
    return f"{statistics.fmean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"


def table(names: list[str], seeds: list[int], folder: Path) -> None:
    """Train what is not yet trained, and print what everything does on the 300 test digits."""
    images, validation, test = digits()
    rows = [("mean digit", f"{float(functional.mse_loss(images.mean(dim=0).expand_as(test), test)):.4f}", "")]
    rows += [(f"{count} principal components", f"{principal(images, test, count):.4f}", "") for count in (8, 16, 32)]
    epochs = 10 if names == ["digits_quick"] else 200
    coded = [perceptron(images, validation, test, seed, epochs) for seed in seeds]
    rows.append(("perceptron, bottleneck of 16", told(coded), ""))
    for name in names:
        found = [result(name, seed, folder) for seed in seeds]
        rows.append((NAMES[name], *(told([one[when] for one in found]) for when in ("N", "2N"))))
        rows.append(("  the hole shut at test", told([one["shut"] for one in found]), ""))
        spent, leak = [f"{one['cpu_seconds']:.0f}" for one in found], max(one["leak"] for one in found)
        print(f"{NAMES[name]}: trained in {', '.join(spent)} CPU seconds; through a shut hole passes {leak:.1g}")
    print("mean squared error a pixel on 300 digits that training never saw; mean of the seeds, and each")
    print(f"  {'':<30} {'at N':<32} at 2N")
    for name, first, second in rows:
        print(f"  {name:<30} {first:<32} {second}".rstrip())


def figure(folder: Path, seed: int) -> Figure:
    """Draw a digit's way through the last model: in, through the open cell, out; and both models' errors over time."""
    test = digits()[2]
    shown = test[:4]
    whole = Figure(figsize=(11, 4.6), layout="constrained")
    left, middle, right = whole.subfigures(1, 3, width_ratios=(1, 1.5, 1.2))
    course = None
    axes = right.subplots()
    for name, line in (("digits", "--"), ("digits_hold", "-")):
        model = lg.LatticeModel.from_pretrained(folder / f"{name}-seed{seed}" / "model", trust_code=True)
        errors = []
        with torch.no_grad():
            out = model.rollout(test, 2 * model.steps, trajectory=True)
            for state in out.trajectory[model.steps // 2 :]:
                errors.append(float(functional.mse_loss(model.read(test, state)[0], test)))
            if course is None:
                course = out.trajectory[: model.steps + 1, 0, int(node_grid(model.spec)[HOLE])]
                arrived = model.read(shown, out.trajectory[model.steps, : len(shown)])[0]
        axes.plot(range(model.steps // 2, 2 * model.steps + 1), errors, line, label=NAMES[name])
    axes.axhline(principal(digits()[0], test, 16), color="grey", linestyle=":", label="16 principal components")
    axes.set(yscale="log", xlabel="step", ylabel="squared error a pixel", title="300 test digits")
    axes.legend(fontsize=8)
    for row, (digit, far) in zip(left.subplots(len(shown), 2), zip(shown, arrived, strict=True), strict=True):
        for axis, pixels in zip(row, (digit, far), strict=True):
            axis.imshow(pixels.view(8, 8), cmap="gray_r", vmin=0, vmax=1)
            axis.set(xticks=[], yticks=[])
    left.axes[0].set_title("held on z-", fontsize=9)
    left.axes[1].set_title("on z+ at N", fontsize=9)
    axes = middle.subplots()
    seen = axes.imshow(course.T, cmap="RdBu", vmin=-6, vmax=6, aspect="auto", interpolation="nearest")
    axes.set(xlabel="step", ylabel="channel", title="what the open cell holds, first digit")
    middle.colorbar(seen, ax=axes)
    return whole


# %% [markdown]
# ## The quick form
#
# A shallow cube with a larger hole, some updates, one seed: it works, and is far from what the full form reaches.

# %% tags=["active-ipynb"]
# import tempfile
#
# folder = Path(tempfile.mkdtemp())
# torch.set_num_threads(1)  # a cube this small is hardly faster on two
# table(["digits_quick"], [0], folder)

# %% [markdown]
# Digits that training never saw: held on one face, and what stands on the other after N steps.

# %% tags=["active-ipynb"]
# import matplotlib.pyplot as plt
#
# test = digits()[2][:10]
# model = lg.LatticeModel.from_pretrained(folder / "digits_quick-seed0" / "model", trust_code=True)
# with torch.no_grad():
#     arrived = model(test).embedding
# plt.figure(figsize=(8, 2))
# rows = torch.stack([test, arrived]).view(2, 10, 8, 8).transpose(1, 2).reshape(16, 80)
# plt.imshow(rows, cmap="gray_r", vmin=0, vmax=1)
# plt.axis("off");


# %% tags=["active-py"]
def main() -> None:
    """Train, measure, print and draw, as the arguments say."""
    parser = argparse.ArgumentParser(description="A cube sends digits through a hole, one number after the other.")
    parser.add_argument("--quick", action="store_true", help="a shallow cube, a larger hole, a few updates")
    parser.add_argument("--hold", action="store_true", help="the model that keeps its answer, alone")
    parser.add_argument("--seed", type=int, action="append", help="a seed; may be repeated; 0, 1 and 2 by default")
    parser.add_argument("--figure", type=Path, help="draw what happened into this PNG")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "digits", help="where runs are kept")
    given = parser.parse_args()
    if given.quick and (given.hold or given.figure):
        parser.error("--quick is a model of its own; got --hold or --figure with it, of the full form; leave one out")
    torch.set_num_threads(1)  # a cube this small is hardly faster on two
    seeds = given.seed or ([0] if given.quick else [0, 1, 2])
    names = ["digits_quick"] if given.quick else ["digits_hold"] if given.hold else ["digits", "digits_hold"]
    table(names, seeds, given.folder)
    if given.figure:
        save(figure(given.folder, seeds[0]), given.figure)
        print(f"drawn in {given.figure}")


if __name__ == "__main__":
    main()
