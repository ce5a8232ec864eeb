"""The task the lattice is for: carry a code from one face to the other, and nothing where it cannot arrive."""

import pytest
import torch
from torch import Tensor

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel


def carry(model: LatticeModel, code: Tensor) -> Tensor:
    """Lay a code on the input ports, roll out, and read the output ports."""
    state = model.volume(code).index_add(1, model.input_nodes, model.mapper(code)).transpose(0, 1).contiguous()
    for _ in range(model.steps):
        state = model.cell.advance(state)
    return model.extractor(state[model.output_nodes].transpose(0, 1))


def copying_score(model: LatticeModel, updates: int) -> float:
    """Train cell, lift and read on random codes, and return R² on fresh ones."""
    generator = torch.Generator().manual_seed(1)
    ports = len(model.input_nodes)
    maps = [*model.mapper.parameters(), *model.extractor.parameters()]
    groups = [{"params": list(model.cell.parameters()), "lr": 1e-2}, {"params": maps, "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-2, 1e-3], total_steps=updates, pct_start=0.1)
    learned = [parameter for group in groups for parameter in group["params"]]
    for _ in range(updates):
        code = torch.randn(32, ports, generator=generator)
        loss = (carry(model, code) - code).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        code = torch.randn(256, ports, generator=generator)
        error = (carry(model, code) - code).square().sum()
        return 1 - float(error / (code - code.mean(dim=0)).square().sum())


SMALL = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))


@pytest.mark.slow
def test_a_small_lattice_learns_to_copy() -> None:
    assert copying_score(LatticeModel(SMALL, embedding_dim=8, steps=5), 200) > 0.97


@pytest.mark.slow
def test_the_default_lattice_learns_to_copy_in_300_updates() -> None:
    assert copying_score(LatticeModel(embedding_dim=8), 300) > 0.99


@pytest.mark.slow
def test_copying_on_a_torus_goes_the_short_way() -> None:
    spec = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5), boundary="periodic")
    assert copying_score(LatticeModel(spec, embedding_dim=8, steps=2), 100) > 0.97


def test_one_step_too_few_learns_nothing_however_it_is_trained() -> None:
    """No number can arrive, so the answer is the same for every code, and R² is at most 0 up to rounding."""
    model = LatticeModel(SMALL, embedding_dim=8, steps=3, require_light_cone=False)
    assert copying_score(model, 20) < 0.01
    code = torch.randn(16, 25, generator=torch.Generator().manual_seed(2), requires_grad=True)
    answer = carry(model, code)
    assert torch.equal(answer, carry(model, code + 1))
    (slope,) = torch.autograd.grad(answer.sum(), code)
    assert not slope.any()
    enough = LatticeModel(SMALL, embedding_dim=8, steps=4)
    assert bool((carry(enough, code) != carry(enough, code + 1)).all())
