"""A cell that was trained at 6³ copies at 8³ and 12³ as it is, if its signal lasts; a single pulse does not survive."""

import random

import pytest
import torch

from latticegnn.lattice import LatticeSpec
from latticegnn.model import LatticeModel

D, SPEC = 16, LatticeSpec((6, 6, 6), radii=(0.3, 1.04, 1.6))
NEED = 5  # steps of the light cone


def trained(clamp: bool, low: int, high: int, updates: int, seed: int = 0) -> LatticeModel:
    """Train a model on copying normal embeddings, with low … high steps; it then takes high steps."""
    model = LatticeModel(
        SPEC, D, hidden=8, steps=high, port_map="bilinear", code_shape=(4, 4), clamp=clamp, execution="fused", seed=seed
    )
    generator, steps = torch.Generator().manual_seed(seed), random.Random(seed)
    sample = torch.randn(512, D, generator=generator)
    model.fit_maps(sample, sample)
    maps = [p for name, p in model.named_parameters() if not name.startswith("cell.")]
    optimizer = torch.optim.AdamW([{"params": model.cell.parameters()}, {"params": maps}], betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [1e-2, 1e-3], total_steps=updates, pct_start=0.1)
    for _ in range(updates):
        x = torch.randn(16, D, generator=generator)
        loss = (model.rollout(x, steps=steps.randint(low, high)).embedding - x).square().sum(dim=1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def score(model: LatticeModel) -> float:
    """R² on fresh embeddings."""
    x = torch.randn(64, D, generator=torch.Generator().manual_seed(99))
    return 1 - float((model(x).embedding - x).square().sum() / x.square().sum())


@pytest.mark.slow
def test_a_lasting_signal_survives_a_change_of_size() -> None:
    model = trained(True, 2 * NEED, 3 * NEED, updates=150)
    assert score(model) > 0.9
    assert score(model.resized((8, 8, 8))) > 0.5
    assert score(model.resized((8, 8, 8), keep="ratios")) > 0.6
    fine = model.resized((12, 12, 12), keep="ratios")
    assert score(fine) > 0.4
    # With the moments as they come, the same weights carry faster than a step is stable for.
    fine.cell.units.fill_(1.0)
    assert score(fine) < 0


@pytest.mark.slow
def test_a_pulse_does_not() -> None:
    model = trained(False, NEED + 1, NEED + 1, updates=100)
    assert score(model) > 0.9
    assert score(model.resized((12, 12, 12))) < 0
