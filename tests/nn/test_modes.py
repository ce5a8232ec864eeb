"""Modes by name: nested in their order, refused by their bounds, and rolled out by the model."""

import pytest
import torch

import latticegnn as lg
from latticegnn.nn import Diffusion, Directional, Plain, Stochastic, Wave, build_modes

SPEC = lg.LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
PORTS = (lg.Ports(face="z-"), lg.Ports(face="z+"))
MODES = {
    "diffusion": {"diffusion": {"rate": 0.2}},
    "wave": {"wave": {"speed": 0.3, "damping": 0.1}},
    "directional": {"directional": {"strength": 0.4}},
    "stochastic": {"diffusion": {"rate": 0.2}, "stochastic": {"probability": 0.5, "seed": 3}},
}


def make(dynamics, **settings) -> lg.LatticeModel:
    given = {"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 5} | settings
    return lg.LatticeModel(SPEC, dynamics=dynamics, **given)


def test_modes_nest_in_their_order() -> None:
    mode = build_modes({"diffusion": {"rate": 0.1}, "wave": {"speed": 0.2}}, SPEC, *PORTS)
    assert isinstance(mode, Wave)
    assert isinstance(mode.inner, Diffusion)
    assert isinstance(mode.inner.inner, Plain)
    assert isinstance(build_modes({}, SPEC, *PORTS), Plain)
    along = build_modes({"directional": {"strength": 0.1}}, SPEC, *PORTS)
    assert isinstance(along, Directional)
    assert along.axis == (0.0, 0.0, 1.0)
    across = build_modes({"directional": {"strength": 0.1, "axis": [1, 0, 0]}}, SPEC, *PORTS)
    assert isinstance(across, Directional)
    assert across.axis == (1.0, 0.0, 0.0)
    assert isinstance(build_modes({"stochastic": {"probability": 0.5}}, SPEC, *PORTS), Stochastic)


@pytest.mark.parametrize(
    ("settings", "rule", "received", "remedy"),
    [
        ({"difusion": {}}, "is one of diffusion, wave", "'difusion'", "Name one of these"),
        ({"diffusion": {"speed": 1}}, "diffusion takes rate", "'speed'", "use these names"),
        ({"diffusion": {}}, "needs all of its settings", "rate", "give rate"),
        ({"diffusion": 0.2}, "settings are a mapping", "0.2 for diffusion", "write diffusion: {…}"),
        ({"diffusion": {"rate": 3.0}}, "rate must be at least 0 and at most", "got 3", "within the bound"),
    ],
)
def test_what_is_no_mode_is_refused(settings, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        make(settings)


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("execution", ["reference", "fused"])
def test_the_model_rolls_out_its_mode(name, execution) -> None:
    model = make(MODES[name], execution=execution).double().eval()
    embedding = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    out = model.rollout(embedding, trajectory=True)
    assert out.trajectory is not None
    x = out.trajectory[0]
    memory = model.dynamics.start(x)
    for at in range(5):
        x, memory = model.dynamics(model.cell, x, memory, at)
        torch.testing.assert_close(out.trajectory[at + 1], x, rtol=1e-9, atol=1e-9)
    plain = make(None, execution=execution).double().eval().rollout(embedding)
    assert not torch.allclose(out.state, plain.state)
    single = model.rollout(embedding[1:2])
    torch.testing.assert_close(single.state[0], out.state[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", MODES)
def test_a_model_with_a_mode_trains_saves_and_loads(name, tmp_path) -> None:
    model = make(MODES[name], gradient="checkpointed")
    embedding = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    model(embedding).embedding.square().sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.save_pretrained(tmp_path)
    again = lg.LatticeModel.from_pretrained(tmp_path)
    assert torch.equal(again(embedding).embedding, model.eval()(embedding).embedding)


def test_recomputed_steps_fire_the_same_cells() -> None:
    embedding = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    gradients = []
    for gradient in ("full", "checkpointed"):
        model = make(MODES["stochastic"], gradient=gradient)
        torch.manual_seed(7)
        model(embedding).embedding.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_firing_is_drawn_anew_in_training_alone() -> None:
    model = make(MODES["stochastic"])
    embedding = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    first, second = model(embedding).state, model(embedding).state
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(model(embedding).state, first)
    model.eval()
    before = torch.get_rng_state()
    assert torch.equal(model(embedding).state, model(embedding).state)
    assert torch.equal(torch.get_rng_state(), before), "nothing is drawn"
