"""The same weights at another size: what stays, what grows, and what is refused."""

import math

import pytest
import torch
from torch import nn

from latticegnn.lattice import LatticeSpec, LightConeError, Ports, Tier
from latticegnn.model import LatticeModel
from latticegnn.nn import FusedStep, LatticeCell
from latticegnn.nn.cell import slope_units
from latticegnn.resizing import scaled_steps

D = 10
SPEC = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))


def make(**settings) -> LatticeModel:
    fixed = {"embedding_dim": D, "channels": 3, "hidden": 4, "steps": 5, "port_map": "bilinear", "code_shape": (3, 4)}
    return LatticeModel(**{"spec": SPEC} | fixed | settings)


def shaken(model: nn.Module) -> nn.Module:
    """A model in which no weight is at its start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def embeddings(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(0))


def test_radii_stay_in_cells_or_in_parts_of_the_side() -> None:
    cube = LatticeSpec((8, 8, 8), boundary="periodic", order="morton")
    assert cube.resized((16, 4, 4)).thresholds == cube.thresholds
    assert cube.resized((16, 16, 16), "ratios").thresholds == (0.32, 2.08, 3.2)
    fixed = LatticeSpec((8, 8, 8), radii=(0.5, 1.0, 1.6))
    assert fixed.resized((16, 4, 4), "ratios").thresholds == (1.0, 2.0, 3.2)
    assert fixed.resized((4, 4, 4), "cells") == LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.6))
    assert cube.resized((9, 9, 9)).resized((8, 8, 8)).thresholds == cube.thresholds
    for lattice in (cube.resized((9, 9, 9)), cube.resized((9, 9, 9), "ratios")):
        assert (lattice.boundary, lattice.order, lattice.shape) == ("periodic", "morton", (9, 9, 9))


def test_the_spec_refuses_what_it_cannot_be(refuses) -> None:
    with refuses("keep must be one of 'cells', 'ratios'", "'ratio'", "Did you mean 'ratios'?"):
        SPEC.resized((9, 9, 9), "ratio")
    with refuses("three whole numbers", "(9, 9)", "shape: [8, 8, 8]"):
        SPEC.resized((9, 9), "ratios")


def test_an_image_of_the_faces_own_shape_gives_the_numbers_of_the_direct_map() -> None:
    e = embeddings()
    for readout in ("ports", "ports_full"):
        image, direct = (
            make(code_shape=(5, 5), readout=readout),
            make(code_shape=None, port_map="direct", readout=readout),
        )
        assert torch.equal(image(e).embedding, direct(e).embedding)
        assert torch.equal(image(e).code, direct(e).code)


@pytest.mark.parametrize("keep", ["cells", "ratios"])
def test_every_weight_stays_and_is_saved(keep, tmp_path) -> None:
    model = shaken(make()).double().eval()
    large = model.resized((9, 7, 8), keep=keep)
    assert large.spec.shape == (9, 7, 8)
    assert not large.training
    assert list(large.state_dict()) == list(model.state_dict())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in large.state_dict().items())
    out = large(embeddings().double())
    assert out.embedding.shape == (2, D)
    assert out.state.shape == (2, 9 * 7 * 8, 3)
    with torch.no_grad():
        large.cell.step += 1
    assert not torch.equal(large.cell.step, model.cell.step), "a copy"
    large.save_pretrained(tmp_path)
    again = LatticeModel.from_pretrained(tmp_path).double()
    assert again.settings == large.settings
    # The file holds float64; what was saved comes back to the precision of a model as it is built.
    torch.testing.assert_close(
        again(embeddings().double()).code, large(embeddings().double()).code, rtol=1e-4, atol=1e-5
    )


def test_the_same_size_is_the_same_model() -> None:
    model = shaken(make()).double()
    e = embeddings().double()
    for keep in ("cells", "ratios"):
        again = model.resized((5, 5, 5), keep=keep)
        assert again.steps == model.steps
        torch.testing.assert_close(again(e).embedding, model(e).embedding, rtol=1e-12, atol=1e-12)
    there_and_back = model.resized((8, 8, 8), keep="ratios").resized((5, 5, 5), steps=5, keep="ratios")
    torch.testing.assert_close(there_and_back(e).embedding, model(e).embedding, rtol=1e-12, atol=1e-12)


def test_with_radii_in_cells_a_cell_far_from_the_borders_cannot_tell() -> None:
    cell = shaken(make()).cell.double()
    large = shaken(make()).resized((9, 9, 9)).double().cell
    x = torch.zeros(1, 9, 9, 9, 3, dtype=torch.float64)
    x[:, 2:7, 2:7, 2:7] = torch.randn(1, 5, 5, 5, 3, dtype=torch.float64)
    small = cell(x[:, 2:7, 2:7, 2:7].reshape(1, 125, 3)).view(1, 5, 5, 5, 3)
    torch.testing.assert_close(large(x.view(1, 729, 3)).view(x.shape)[:, 4, 4, 4], small[:, 2, 2, 2])


def test_steps_grow_as_the_way_measured_in_radii() -> None:
    cube, ends = LatticeSpec(), (Ports("z-"), Ports("z+"))
    for n, cells in ((8, 8), (12, 13), (16, 18), (24, 27), (37, 42)):
        shape = (n, n, n)
        assert scaled_steps(cube, cube.resized(shape), *ends, 8) == cells == math.ceil(8 * (n - 1) / 7)
    # At 16³ the functional tier has 32 neighbours of mean square offset 13/16 in place of 6 of 1/3, the distant one 114
    # of 145/57 in place of 12 of 2/3.
    units = (math.sqrt(16 / 39) + math.sqrt(38 / 145)) / 2
    assert scaled_steps(cube, cube.resized((16, 16, 16), "ratios"), *ends, 8) == math.ceil(8 * 15 / 7 * units) == 10
    assert scaled_steps(cube, cube.resized((16, 16, 8)), *ends, 8) == 8, "the way itself has not grown"
    assert scaled_steps(cube, cube.resized((16, 16, 16)), Ports("z-"), Ports("z-"), 3) == 3
    assert make().resized((9, 9, 9), steps=30).steps == 30
    with pytest.raises(LightConeError, match="steps=7"):
        make().resized((9, 9, 9), steps=7)


@pytest.mark.parametrize("side", [8, 12, 16, 24])
def test_a_shift_covers_the_same_number_of_root_mean_square_offsets(side) -> None:
    small = LatticeSpec((8, 8, 8))
    for spec in (small.resized((side,) * 3, "ratios"), small.resized((side,) * 3)):
        reach = math.floor(spec.thresholds[1])
        ball = torch.cartesian_prod(*[torch.arange(-reach, reach + 1)] * 3).double()
        near = ball[(ball.norm(dim=1) > 0.5) & (ball.norm(dim=1) <= spec.thresholds[1] + 1e-9)]
        growth = math.sqrt(float(near[:, 2].square().mean()) * 3)  # of the six face neighbours it is one third
        cell = LatticeCell(spec, 1, 4, step=1.0, reference=small).double()
        trained = LatticeCell(small, 1, 4, step=1.0)
        for one in (cell, trained):
            for parameter in one.parameters():
                nn.init.zeros_(parameter)
        trained.start_shift([0.0, 0.0, 0.5], Tier.FUNCTIONAL)
        cell.load_state_dict(trained.state_dict())
        with torch.no_grad():
            cell.step.fill_(1.0)
        z = torch.arange(side, dtype=torch.float64).expand(side, side, side).reshape(1, -1, 1)
        moved = (z - cell(z)).view(side, side, side)[side // 2, side // 2, side // 2]
        assert moved.item() == pytest.approx(0.5 * growth, rel=1e-6)


def test_units_are_one_where_the_radii_are_the_same() -> None:
    cube = LatticeSpec((8, 8, 8))
    for shape in ((16, 16, 16), (8, 8, 20)):
        for tier in (Tier.FUNCTIONAL, Tier.DISTANT):
            assert slope_units(cube.resized(shape), cube, tier) == [1.0] * 3
    assert slope_units(LatticeSpec((60, 60, 60)), cube, Tier.LOCAL) == [1.0] * 3, "the cube has no local neighbours"


def test_the_fused_step_folds_the_units() -> None:
    torch.manual_seed(0)
    cell = LatticeCell(SPEC.resized((8, 8, 8), "ratios"), 3, 4, reference=SPEC).double()
    for parameter in cell.parameters():
        nn.init.normal_(parameter, std=0.3)
    assert (cell.units[:, 1:] != 1).all()
    x = torch.randn(512, 2, 3, dtype=torch.float64, requires_grad=True)
    found = []
    for step in (cell.advance, FusedStep(cell).bind()):
        out = step(step(x))
        found.append([out, *torch.autograd.grad(out.square().sum(), [x, *cell.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


def test_a_shift_starts_with_the_speed_asked_for_whatever_the_units() -> None:
    plain, scaled = make(seed=1), make(seed=1, reference=LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.2)))
    assert scaled.cell.units is not None
    e = embeddings()
    spread = (plain(e).state - plain(e + 1).state).norm()
    # What does not belong to the shift starts small, and is all that differs.
    assert (plain(e).state - scaled(e).state).norm() < 0.05 * spread


def test_weights_tied_to_the_size_are_named(refuses) -> None:
    with refuses("keeps every weight", "transformer.encoder.weight [25, 10] → [81, 10]", "port_map: bilinear"):
        make(port_map="direct", code_shape=None).resized((9, 9, 9))
    with refuses("keeps every weight", "cell.radial [2] → [", "without radial"):
        make(radial=True).resized((9, 9, 9), keep="ratios")
    for interior in ("learned", "noise"):
        with refuses("defined for every size", f"interior: {interior}", "interior: zeros"):
            make(interior=interior).resized((9, 9, 9))
    with refuses("hold the whole code", "4 ports on z-", "smaller code_shape"):
        make().resized((2, 2, 9))
    few = make(port_map="direct", code_shape=None, inputs=Ports("z-", "corners"), outputs=Ports("z+", "corners"))
    assert few.resized((9, 9, 9)).transformer.encoder.out_features == 4, "four corners at every size"


def test_weights_keep_their_digits() -> None:
    model = shaken(make().double())
    resized = model.resized((6, 6, 6))
    for name, value in model.state_dict().items():
        assert torch.equal(resized.state_dict()[name], value)


def test_the_limits_of_stopping_grow_as_the_steps_do() -> None:
    rule = {"relative": {"tolerance": 0.1}, "patience": 2}

    def limits(steps: int | None = None, **given: int) -> tuple[int, int, int, int]:
        model = make(stopping=rule | given).resized((9, 9, 9), steps)
        assert model.stopping is not None
        assert model.settings["stopping"] == rule | {name: getattr(model.stopping, name) for name in given}
        return model.stopping.min_steps, model.stopping.max_steps, model.stopping.patience, model.steps

    assert limits() == (8, 10, 2, 10), "the light cone's need and the model's own steps, as they are by default"
    assert limits(min_steps=5, max_steps=15) == (10, 30, 2, 10)
    assert limits(8, min_steps=4, max_steps=4) == (8, 8, 2, 8), "never below the light cone"


def test_a_reference_needs_a_spec(refuses) -> None:
    with refuses("built on a LatticeSpec", "got a graph", "pass its spec"):
        LatticeCell(make().graph, 3, 4, reference=SPEC)
