"""The modes of a gradient: what they keep, that they agree where they should, and how a rollout's graph is cut."""

import json
import logging

import pytest
import torch
from torch import Tensor

import latticegnn as lg
from latticegnn.nn.gradient import Checkpointed, Full, Truncated, build_gradient
from latticegnn.rollout import Rollout

SPEC = lg.LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
STEPS = 6
MODES = {
    "plain": None,
    "diffusion": {"diffusion": {"rate": 0.2}},
    "wave": {"wave": {"speed": 0.3, "damping": 0.1}},
    "stochastic": {"stochastic": {"probability": 0.5, "seed": 3}},
}


def make(gradient, **settings) -> lg.LatticeModel:
    given = {"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": STEPS, "interior": "learned"} | settings
    return lg.LatticeModel(SPEC, gradient=gradient, **given).eval()


def embeddings(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 12, dtype=dtype, generator=torch.Generator().manual_seed(0))


def gradients(model: lg.LatticeModel, loss=lambda out: out.embedding.square().sum(), **how) -> dict[str, Tensor]:
    """The gradient at every parameter, and at the embedding; what has none is left out."""
    embedding = embeddings(model.decoder.weight.dtype).requires_grad_()
    model.zero_grad()
    loss(model.rollout(embedding, **how)).backward()
    found = {name: p.grad for name, p in model.named_parameters()} | {"embedding": embedding.grad}
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(grad, other[name]) for name, grad in one.items())


def held(model: lg.LatticeModel, steps: int) -> int:
    """Numbers that a rollout's graph saves; a tensor saved by many operations counts once."""
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model.rollout(embeddings(model.decoder.weight.dtype), steps)
    assert out.embedding.requires_grad
    return sum(tensor.numel() for tensor in kept.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("execution", ["reference", "fused"])
@pytest.mark.parametrize("gradient", ["checkpointed", {"truncated": {"steps": STEPS}}, {"truncated": {"steps": 99}}])
@pytest.mark.parametrize("clamp", [False, True])
def test_an_exact_mode_gives_the_full_gradient_bit_for_bit(gradient, execution, dtype, clamp) -> None:
    expected = gradients(make(None, execution=execution, clamp=clamp).to(dtype))
    assert {"embedding", "volume.state", "cell.step", "transformer.encoder.weight"} <= expected.keys()
    assert equal(gradients(make(gradient, execution=execution, clamp=clamp).to(dtype)), expected)


@pytest.mark.parametrize("gradient", ["checkpointed", {"truncated": {"steps": STEPS}}])
@pytest.mark.parametrize("mode", MODES)
def test_an_exact_mode_is_exact_with_every_mode_of_propagation(gradient, mode) -> None:
    def loss(out: lg.LatticeOutput) -> Tensor:
        return out.embedding.square().sum() + out.trajectory.diff(dim=0).square().sum()

    expected = gradients(make("full", dynamics=MODES[mode]), loss, trajectory=True)
    assert equal(gradients(make(gradient, dynamics=MODES[mode]), loss, trajectory=True), expected)


def by_hand(model: lg.LatticeModel, embedding: Tensor, last: int) -> tuple[Tensor, list[Tensor]]:
    """A rollout whose state and memory are cut by `detach` before its last steps."""
    code = model.transformer.encode(embedding)
    own = model.volume(code).index_add(1, model.input_nodes, model.mapper(code))
    laid = own[:, model.input_nodes] if model.clamp else None
    state, memory = own.detach(), model.dynamics.start(own.detach())
    states = [state]
    for at in range(STEPS):
        if at == STEPS - last:
            state, memory = state.detach(), tuple(past.detach() for past in memory)
            states = [past.detach() for past in states]
        state, memory = model.dynamics(model.cell, state, memory, at)
        if laid is not None:
            state = state.index_copy(1, model.input_nodes, laid)
        states.append(state)
    return model.transformer.decode(model.extractor(state[:, model.output_nodes])), states


@pytest.mark.parametrize("clamp", [False, True])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("last", [1, 3, STEPS - 1])
def test_a_truncated_gradient_is_that_of_a_rollout_cut_by_hand(last, mode, clamp) -> None:
    def loss(embedding: Tensor, states: Tensor) -> Tensor:
        return embedding.square().sum() + states.diff(dim=0).square().sum()

    settings = {"dynamics": MODES[mode], "clamp": clamp, "execution": "reference"}
    model = make({"truncated": {"steps": last}}, **settings).double()
    found = gradients(model, lambda out: loss(out.embedding, out.trajectory), trajectory=True)
    model.zero_grad()
    embedding = embeddings().requires_grad_()
    answer, states = by_hand(model, embedding, last)
    loss(answer, torch.stack(states)).backward()
    assert ("embedding" in found) == clamp
    assert "volume.state" not in found or clamp
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (name not in found), name
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-9, atol=1e-11, msg=name)
    if clamp:
        torch.testing.assert_close(found["embedding"], embedding.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("gradient", ["full", "checkpointed", {"truncated": {"steps": 2}}])
@pytest.mark.parametrize("mode", MODES)
def test_the_states_are_the_same_in_every_mode(gradient, mode) -> None:
    expected = make(None, dynamics=MODES[mode]).rollout(embeddings(torch.float32), trajectory=True)
    found = make(gradient, dynamics=MODES[mode]).rollout(embeddings(torch.float32), trajectory=True)
    assert torch.equal(found.embedding, expected.embedding)
    assert torch.equal(found.trajectory, expected.trajectory)


@pytest.mark.parametrize("execution", ["reference", "fused"])
def test_what_a_truncated_rollout_keeps_does_not_grow_with_its_steps(execution) -> None:
    settings = {"execution": execution, "clamp": True}
    truncated = [held(make({"truncated": {"steps": 2}}, **settings), steps) for steps in (6, 12, 24)]
    full = [held(make("full", **settings), steps) for steps in (2, 6, 12)]
    assert truncated[0] == truncated[1] == truncated[2] <= full[0]
    assert full[0] < full[1] < full[2]
    assert held(make("checkpointed", **settings), 12) < full[2] / 2


def test_modes_by_name() -> None:
    assert isinstance(build_gradient(None), Full)
    assert isinstance(build_gradient("full"), Full)
    assert isinstance(build_gradient({"checkpointed": {}}), Checkpointed)
    mode = build_gradient({"truncated": {"steps": 3}})
    assert isinstance(mode, Truncated)
    assert (mode.kept(8), mode.kept(2)) == (3, 2)


@pytest.mark.parametrize(
    ("setting", "rule", "received", "remedy"),
    [
        ("truncate", "gradient is one of full, checkpointed, truncated", "'truncate'", "Did you mean 'truncated'?"),
        ({"full": {}, "checkpointed": {}}, "one mode's name", "'checkpointed': {}", "write full"),
        (3, "one mode's name", "got 3", "write full"),
        ({"truncated": {"step": 3}}, "truncated takes the settings steps", "{'step': 3}", "write truncated: {"),
        ({"checkpointed": {"steps": 3}}, "checkpointed takes no settings", "{'steps': 3}", "write checkpointed"),
        ({"truncated": 3}, "truncated takes the settings steps", "got 3", "write truncated: {"),
        ("truncated", "truncated needs its settings", "got {}", "give steps"),
        ({"truncated": {"steps": 0}}, "must be a whole number, at least 1", "got 0", "count the steps"),
        ({"truncated": {"steps": 2.5}}, "must be a whole number, at least 1", "got 2.5", "count the steps"),
        ({"truncated": {"steps": True}}, "must be a whole number, at least 1", "got True", "count the steps"),
    ],
)
def test_what_is_no_mode_is_refused(setting, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        make(setting)


def test_maps_out_of_reach_are_told(caplog) -> None:
    with caplog.at_level(logging.WARNING, logger="latticegnn"):
        make({"truncated": {"steps": STEPS}})
        make({"truncated": {"steps": 2}}, clamp=True)
        assert not caplog.records
        make({"truncated": {"steps": 2}})
    assert "the last 2 of 6 steps does not reach the maps" in caplog.text


@pytest.mark.parametrize(("old", "mode"), [(True, Checkpointed), (False, Full)])
def test_a_model_that_was_saved_with_the_old_setting_loads(old, mode, tmp_path) -> None:
    make(None).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["model"]["gradient"]
    config["model"]["checkpoint"] = old
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert isinstance(lg.LatticeModel.from_pretrained(tmp_path).gradient, mode)


def test_a_rollout_goes_on_with_another_gradient() -> None:
    """`Rollout.take` counts on: two parts give the states of one."""
    model = make(None).double()
    own = model.rollout(embeddings(), steps=0).state.detach()
    run = Rollout(model.cell.advance, model.dynamics, own)
    run.take(2, Truncated(1))
    assert run.take(2, Full(), trajectory=True).state.shape == own.shape
    assert run.taken == 4
    assert torch.equal(run.state, Rollout(model.cell.advance, model.dynamics, own).take(4, Full()).state)
