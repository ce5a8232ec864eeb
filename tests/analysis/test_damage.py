"""What damage costs, against trajectories and closed forms."""

import math

import pytest
import torch
from torch import Tensor

from latticegnn.analysis import (
    Cells,
    LostPorts,
    Plane,
    RandomCells,
    RandomRegion,
    TierExpert,
    explained,
    fvu,
    percolation,
    ports_reached,
    quality_lost,
    recovered_in,
    recovery,
    wall,
)
from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))


@pytest.fixture(scope="module")
def model() -> LatticeModel:
    """A lattice that copies well from its start on: the shift, and maps fitted to the sample."""
    model = LatticeModel(SPEC, embedding_dim=10, channels=4, hidden=4, steps=4, seed=0).double().eval()
    model.fit_maps(sample(), sample())
    return model


def sample(rows: int = 40) -> Tensor:
    return torch.randn(rows, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_what_each_lesion_costs_is_the_difference_of_two_qualities(model) -> None:
    inputs = sample()
    quality = explained(inputs.mean(0))
    lesions = {"none": Cells(()), "wall": Plane(2, 2), "expert": TierExpert("distant"), "ports": LostPorts("outputs")}
    rows = quality_lost(model, inputs, inputs, quality, lesions)
    intact = 1 - fvu(model(inputs).embedding.detach(), inputs, inputs.mean(0))
    assert [row["lesion"] for row in rows] == list(lesions)
    for row in rows:
        assert row["intact"] == pytest.approx(intact, abs=1e-12)
        assert row["lost"] == row["intact"] - row["lesioned"]
    assert rows[0]["lost"] == pytest.approx(0, abs=1e-12)
    assert rows[3]["lesioned"] == pytest.approx(0, abs=1e-12), "zero is decoded to the mean"


@pytest.mark.parametrize("at", [0, 3])
def test_recovery_follows_the_trajectory_of_a_blow(at, model) -> None:
    inputs, lesion = sample(), RandomRegion(0.25, "box", seed=1)
    quality = explained(inputs.mean(0))
    rows = recovery(model, inputs, inputs, quality, lesion, at, steps=4)
    assert [row["step"] for row in rows] == list(range(at + 5))
    before = model.rollout(inputs, at).state.detach()
    states = [before * ~lesion.mask(SPEC)[None, :, None]]
    for _ in range(4):
        states.append(model.cell(states[-1]).detach())
    for row, state in zip(rows[at:], states, strict=True):
        answer = model.transformer.decode(model.extractor(state[:, model.output_nodes])).detach()
        assert row["lesioned"] == pytest.approx(quality(answer, inputs), abs=1e-9)
    for row in rows:
        answer = model.rollout(inputs, int(row["step"])).embedding.detach()
        assert row["intact"] == pytest.approx(quality(answer, inputs), abs=1e-9)
        assert row["step"] >= at or row["lesioned"] == row["intact"]


def test_the_steps_of_a_recovery() -> None:
    course = [(0.1, 0.1), (0.8, 0.8), (0.8, 0.2), (0.8, 0.7), (0.8, 0.77), (0.9, 0.6)]
    rows = [{"step": k, "intact": intact, "lesioned": struck} for k, (intact, struck) in enumerate(course)]
    assert recovered_in(rows, at=2) == 2
    assert recovered_in(rows, at=2, share=0.25) == 0
    assert recovered_in(rows, at=2, share=1.0) is None


def test_percolation_from_all_cells_to_none(model) -> None:
    inputs = sample()
    quality = explained(inputs.mean(0))
    rows = percolation(model, inputs, inputs, quality, (0, 0.1, 0.4, 1), seeds=(0, 1, 2))
    intact = quality(model(inputs).embedding, inputs)
    assert [row["part"] for row in rows] == [0, 0.1, 0.4, 1]
    assert rows[0]["quality"] == pytest.approx(intact, abs=1e-12)
    assert rows[0]["low"] == pytest.approx(rows[0]["high"], abs=1e-12)
    assert [rows[k][key] for k in (0, -1) for key in ("reached", "connected")] == [1, 1, 0, 0]
    assert rows[-1]["quality"] == pytest.approx(0, abs=1e-12), "zero is decoded to the mean"
    found = torch.tensor([row["lesioned"] for row in quality_lost(
        model, inputs, inputs, quality, {str(seed): RandomCells(0.1, seed) for seed in range(3)}
    )])  # fmt: skip
    assert rows[1]["quality"] == pytest.approx(float(found.mean()))
    assert rows[1]["high"] - rows[1]["quality"] == pytest.approx(4.302653 * float(found.std()) / 3**0.5, rel=1e-6)
    (single,) = percolation(model, inputs, inputs, quality, [0.1], seeds=[0])
    assert math.isnan(single["low"])


def test_a_hole_as_wide_as_the_wall_is_no_wall(model) -> None:
    inputs = sample()
    quality = explained(inputs.mean(0))
    shut, ajar, none = wall(model, inputs, inputs, quality, axis=2, index=2, openings=(0, 1, 5))
    assert none["quality"] == pytest.approx(quality(model(inputs).embedding, inputs), abs=1e-12)
    assert none["quality"] > ajar["quality"]
    assert (shut["reached"], none["reached"]) == (0, 1)
    assert 0 < ajar["reached"] <= 1


def test_ports_in_reach_by_hand() -> None:
    spec, ends = LatticeSpec((1, 1, 5), radii=(0.5, 1.0, 1.5)), (Ports(face="z-"), Ports(face="z+"))
    nobody, middle = torch.zeros(5, dtype=torch.bool), torch.arange(5) == 2
    assert [ports_reached(spec, *ends, nobody, steps) for steps in (3, 4)] == [0, 1]
    assert ports_reached(spec, *ends, middle, 100) == 0


def test_a_recovery_without_steps_is_refused(model, refuses) -> None:
    with refuses("at least 1", "0", "take more"):
        recovery(model, sample(), sample(), explained(sample().mean(0)), Cells(()), at=2, steps=0)
