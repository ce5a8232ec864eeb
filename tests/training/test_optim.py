"""Optimiser and schedule: groups with their own rates, three schedules, and settings that are checked."""

import math
from itertools import pairwise

import pytest
import torch

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel
from latticegnn.training.module import EmbeddingModule
from latticegnn.training.optim import Optimisation, configure


@pytest.fixture
def model() -> LatticeModel:
    spec = LatticeSpec((2, 2, 3), radii=(0.5, 1.0, 1.5))
    return LatticeModel(spec, embedding_dim=5, channels=3, hidden=4, steps=3)


def test_cell_maps_and_decoder_have_their_own_rates(model) -> None:
    settings = Optimisation(lr_cell=0.2, lr_maps=0.03, lr_decoder=0.004, weight_decay=0.5, betas=(0.7, 0.8))
    groups = {group["name"]: group for group in configure(model, settings, 100)["optimizer"].param_groups}
    cell, decoder = ({id(p) for p in part.parameters()} for part in (model.cell, model.decoder))
    assert list(groups) == ["cell", "maps", "decoder"]
    assert {id(p) for p in groups["cell"]["params"]} == cell
    assert {id(p) for p in groups["decoder"]["params"]} == decoder
    assert {id(p) for p in groups["maps"]["params"]} == {id(p) for p in model.parameters()} - cell - decoder
    assert [groups[name]["max_lr"] for name in groups] == [0.2, 0.03, 0.004]
    assert all(group["weight_decay"] == 0.5 and group["betas"] == (0.7, 0.8) for group in groups.values())


def test_a_module_around_the_model_has_the_same_groups(model) -> None:
    inside, outside = (
        [(group["name"], len(group["params"])) for group in configure(m, Optimisation(), 9)["optimizer"].param_groups]
        for m in (model, EmbeddingModule(model))
    )
    assert inside == outside


def test_frozen_parameters_are_left_out(model) -> None:
    model.cell.requires_grad_(False)
    groups = configure(model, Optimisation(), 10)["optimizer"].param_groups
    assert [group["name"] for group in groups] == ["maps", "decoder"]
    assert sum(len(group["params"]) for group in groups) == sum(p.requires_grad for p in model.parameters())


def test_rates_rise_to_their_peak_and_fall_to_nothing(model) -> None:
    updates = 50
    made = configure(model, Optimisation(lr_cell=1.0, lr_maps=0.1, lr_decoder=0.01, warmup=0.2), updates)
    schedule = made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = [schedule.get_last_lr()]
    for _ in range(updates - 1):
        made["optimizer"].step()
        schedule.step()
        rates.append(schedule.get_last_lr())
    cell, maps, decoder = zip(*rates, strict=True)
    peak = max(range(updates), key=cell.__getitem__)
    assert peak == 0.2 * updates - 1
    assert cell[peak] == pytest.approx(1.0)
    assert cell[0] == pytest.approx(1 / 25)
    assert cell[-1] < 1e-5
    assert all(before < after for before, after in pairwise(cell[: peak + 1]))
    assert all(before > after for before, after in pairwise(cell[peak:]))
    torch.testing.assert_close(torch.tensor(maps), 0.1 * torch.tensor(cell))
    torch.testing.assert_close(torch.tensor(decoder), 0.01 * torch.tensor(cell))


def test_a_cosine_with_warm_up(model) -> None:
    made = configure(model, Optimisation(lr_cell=1.0, schedule="cosine", warmup=0.2), 20)
    schedule, rates = made["lr_scheduler"]["scheduler"], []
    for _ in range(20):
        rates.append(schedule.get_last_lr()[0])
        made["optimizer"].step()
        schedule.step()
    assert made["lr_scheduler"]["interval"] == "step"
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[12] == pytest.approx(0.5), "half of the way down"
    assert rates[19] == pytest.approx((1 + math.cos(math.pi * 15 / 16)) / 2)
    assert schedule.get_last_lr()[0] == pytest.approx(0)


def test_a_plateau_lowers_the_rates(model) -> None:
    made = configure(model, Optimisation(lr_cell=1.0, lr_maps=0.1, schedule="plateau", factor=0.5, patience=1), 20)
    schedule = made["lr_scheduler"]["scheduler"]
    assert (made["lr_scheduler"]["interval"], made["lr_scheduler"]["monitor"]) == ("epoch", "validation/loss")
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0):
        schedule.step(loss)
        rates.append(schedule.get_last_lr()[:2])
    assert [cell for cell, _ in rates] == [1, 1, 1, 0.5, 0.5, 0.25, 0.25]
    assert [maps for _, maps in rates] == pytest.approx([0.1 * cell for cell, _ in rates])


@pytest.mark.parametrize(
    ("settings", "rule"),
    [
        ({"lr_cell": 0.0}, "optim.lr_cell must be above 0"),
        ({"lr_maps": -1.0}, "optim.lr_maps must be above 0"),
        ({"lr_decoder": 0.0}, "optim.lr_decoder must be above 0"),
        ({"schedule": "linear"}, "optim.schedule must be one_cycle, cosine or plateau"),
        ({"factor": 1.0}, "optim.factor must be between 0 and 1"),
        ({"patience": -1}, "optim.patience must be 0 or more"),
        ({"weight_decay": -0.1}, "optim.weight_decay must be 0 or more"),
        ({"betas": (0.9, 1.0)}, "optim.betas must be two numbers in [0, 1)"),
        ({"warmup": 1.0}, "optim.warmup must be between 0 and 1"),
        ({"lr_cell": float("nan")}, "optim.lr_cell must be above 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, rule, refuses) -> None:
    (name, value), *_ = settings.items()
    with refuses(rule, f"got {value}", f"the default is {getattr(Optimisation(), name)}"):
        Optimisation(**settings)


@pytest.mark.parametrize("updates", [1, 2, 3, 8, 10, 11])
def test_short_runs_have_a_schedule_too(model, updates) -> None:
    """With ten updates and a tenth for the rise, torch's own schedule divides by zero."""
    made = configure(model, Optimisation(lr_cell=1.0, lr_maps=1.0), updates)
    rates = [made["lr_scheduler"]["scheduler"].get_last_lr()[0]]
    for _ in range(updates - 1):
        made["optimizer"].step()
        made["lr_scheduler"]["scheduler"].step()
        rates.append(made["lr_scheduler"]["scheduler"].get_last_lr()[0])
    assert rates[0] == pytest.approx(1 / 25)
    assert updates == 1 or rates[1] == max(rates) == pytest.approx(1.0)
