"""LatticeModel: roll-outs, seeds, the light cone, the shift start, teachers, refusals."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import latticegnn.lattice.graph as lattice_graph
from latticegnn.lattice import LatticeSpec, LightConeError, Ports, Tier, coordinates, node_grid
from latticegnn.model import LatticeModel

RADII = (0.5, 1.0, 1.5)
SPEC = LatticeSpec((4, 3, 5), radii=RADII)
D = 10


def make(spec: LatticeSpec = SPEC, **settings) -> LatticeModel:
    return LatticeModel(spec, **{"embedding_dim": D, "channels": 3, "hidden": 4, "steps": 5} | settings)


def embeddings(rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("readout", ["ports", "ports_full"])
@pytest.mark.parametrize("interior", ["zeros", "learned", "code", "noise"])
def test_shapes(readout, interior) -> None:
    model = make(readout=readout, interior=interior, outputs=Ports("z+", "corners"))
    for rows in (3, 1, 0):
        out = model(embeddings(rows))
        assert out.embedding.shape == (rows, D)
        assert out.state.shape == (rows, 60, 3)
        assert out.steps.tolist() == [5] * rows
        assert out.trajectory is None


def test_a_rollout_keeps_every_state() -> None:
    model, e = make(), embeddings()
    out = model.rollout(e, steps=3, trajectory=True)
    assert out.trajectory.shape == (4, 2, 60, 3)
    assert out.steps.tolist() == [3, 3]
    assert torch.equal(out.trajectory[-1], out.state)
    state = out.trajectory[0]
    for later in out.trajectory[1:]:
        state = model.cell(state)
        torch.testing.assert_close(later, state)
    # At step 0 the code lies on the input ports, in their order, and nowhere else.
    code = model.transformer.encode(e)
    laid = out.trajectory[0][:, SPEC_INPUTS := Ports("z-").nodes(SPEC)]
    torch.testing.assert_close(laid, code.unsqueeze(-1) * model.mapper.lift)
    rest = out.trajectory[0].clone()
    rest[:, SPEC_INPUTS] = 0
    assert not rest.any()


def test_no_steps_at_all_read_the_initial_state() -> None:
    model, e = make(), embeddings()
    out = model.rollout(e, steps=0, trajectory=True)
    assert torch.equal(out.trajectory, out.state.unsqueeze(0))
    blank = model.transformer.decode(torch.zeros(2, 12))
    torch.testing.assert_close(out.embedding, blank)


def test_a_batch_equals_its_samples() -> None:
    model, e = make().double(), embeddings(4).double()
    singles = torch.cat([model(row.unsqueeze(0)).embedding for row in e])
    torch.testing.assert_close(model(e).embedding, singles, rtol=1e-10, atol=1e-10)


def test_skip_adds_the_input() -> None:
    e = embeddings()
    torch.testing.assert_close(make(skip=True)(e).embedding, e + make(skip=False)(e).embedding)


def test_the_seed_decides_the_start_and_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = make(interior="noise", seed=7)
    make(stopping={"halting": {}})
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    again, other = make(interior="noise", seed=7), make(interior="noise", seed=8)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(first(embeddings()).embedding, again(embeddings()).embedding)
    assert not torch.equal(first(embeddings()).embedding, other(embeddings()).embedding)


def test_node_order_changes_nothing() -> None:
    raster, morton = (make(LatticeSpec((4, 3, 5), radii=RADII, order=order)) for order in ("raster", "morton"))
    e = embeddings()
    ours, theirs = raster(e), morton(e)
    torch.testing.assert_close(theirs.embedding, ours.embedding, rtol=1e-4, atol=1e-5)
    into = node_grid(morton.spec)[tuple(coordinates(raster.spec).T)]
    assert not torch.equal(into, torch.arange(60))
    torch.testing.assert_close(theirs.state[:, into], ours.state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", ["edge", "sparse"])
def test_backends_give_the_same_answers(backend) -> None:
    e, model = embeddings().double(), make(backend=backend).double()
    assert model.cell.backend == backend
    torch.testing.assert_close(model(e).embedding, make().double()(e).embedding, rtol=1e-10, atol=1e-10)


def test_too_few_steps_are_refused_and_can_be_had(refuses) -> None:
    with refuses("light cone", "steps=3", "Set steps to 4 or more", LightConeError):
        make(steps=3)
    model = make(steps=3, require_light_cone=False)
    e = embeddings(3)
    out = model(e).embedding
    assert torch.equal(out, model(e + 1).embedding)
    slopes = torch.autograd.grad(out.sum(), [model.transformer.encoder.weight, model.transformer.decoder.bias])
    assert not slopes[0].any()  # no gradient reaches the way in …
    assert slopes[1].any()  # … while the way out learns a constant
    reached = make(steps=4)
    assert not torch.allclose(reached(e).embedding, reached(e + 1).embedding)


def test_an_unreachable_face_can_be_built_without_the_check() -> None:
    model = make(LatticeSpec((3, 3, 3)), require_light_cone=False)
    assert list(model.cell.experts) == ["local"]
    assert torch.equal(model(embeddings()).embedding, model(embeddings() + 1).embedding)


@pytest.mark.parametrize("axis", "xyz")
@pytest.mark.parametrize("sign", "-+")
def test_the_start_carries_a_signal_to_the_output_face(axis, sign) -> None:
    spec = LatticeSpec((5, 5, 5), radii=RADII)
    outputs = Ports(f"{axis}{'-' if sign == '+' else '+'}")
    model = make(spec, inputs=Ports(f"{axis}{sign}"), outputs=outputs)
    silent = make(spec, inputs=Ports(f"{axis}{sign}"), outputs=outputs, initialisation="random")
    place, goal = model.graph.pos[:, "xyz".index(axis)], 4.0 if sign == "-" else 0.0

    def away(model: LatticeModel) -> float:
        """How far from the output face, in cells, the change that the embeddings make has its centre."""
        with torch.no_grad():
            weight = (model(embeddings()).state - model(torch.zeros(2, D)).state).square().sum(dim=(0, 2))
        return abs(float((place * weight).sum() / weight.sum()) - goal)

    assert away(model) < 1.5
    assert away(silent) > 2.5


def drift(model: LatticeModel) -> list[float]:
    """Velocity of the bypass's shift, in cells a step, read off its weights; the carrier is the one with a mean."""
    weight, channels = model.cell.bypass.weight.detach(), model.channels
    for k, tier in enumerate(model.cell.reaching):
        first = channels * (1 + 4 * k)
        if weight[:, first : first + channels].diagonal().mean() > 0.5:
            blocks = weight[:, first + channels : first + 4 * channels].split(channels, dim=1)
            spread = model.cell.spread[tier]
            return [float(-b.diagonal().mean()) * s for b, s in zip(blocks, spread, strict=True)]
    raise AssertionError("the bypass carries nothing")


def test_on_a_torus_the_signal_takes_the_short_way_round() -> None:
    """The faces z- and z+ of a torus touch: the shift must go back one layer, not forth across the lattice."""
    model = make(LatticeSpec((5, 5, 5), radii=RADII, boundary="periodic"), steps=2)
    assert drift(model) == pytest.approx([0.0, 0.0, -0.5], abs=0.02)
    opened = make(LatticeSpec((5, 5, 5), radii=RADII, boundary=("periodic", "periodic", "open")), steps=5)
    assert drift(opened) == pytest.approx([0.0, 0.0, 0.8], abs=0.02)


def test_a_tier_that_cannot_move_along_the_way_does_not_carry() -> None:
    """In a lattice two cells thick no edge of length 2 crosses it: the shift is left out, nothing divided by zero."""
    spec = LatticeSpec((2, 5, 5), radii=(1.8, 1.9, 2.0))
    model = make(spec, inputs=Ports("x-"), outputs=Ports("x+"), steps=2)
    assert model.cell.reaching == (Tier.LOCAL, Tier.DISTANT)
    assert model.cell.bypass.weight.abs().max() < 0.1


def test_fit_maps_fits_what_is_decoded() -> None:
    inputs, targets = embeddings(40), embeddings(40).flip(1) * 2 + 1
    plain, skipping = make(gain=0.5), make(skip=True)
    plain.fit_maps(inputs, targets)
    skipping.fit_maps(inputs, targets)
    torch.testing.assert_close(plain.transformer.decoder.bias, targets.mean(dim=0))
    torch.testing.assert_close(skipping.transformer.decoder.bias, (targets - inputs).mean(dim=0))
    full = make()
    full.fit_maps(inputs, targets)
    torch.testing.assert_close(plain.transformer.decoder.weight, 0.5 * full.transformer.decoder.weight)
    code = plain.transformer.encode(inputs)
    torch.testing.assert_close(code[:, :D].var(dim=0), torch.ones(D), rtol=1e-3, atol=1e-3)


def test_parameters_are_counted_by_part() -> None:
    model = make()
    counts = model.parameter_counts()
    assert counts["total"] == sum(p.numel() for p in model.parameters()) == counts["cell"] + counts["maps"]
    assert counts["cell"] == sum(p.numel() for p in model.cell.parameters())
    # Bypass, local, functional and distant expert, gate, norm, step, at F = 8 and hidden 16.
    parts = [72 * 8, 9 * 16 + 17 * 8, 41 * 16 + 17 * 8, 41 * 8 + 8, 11 * 3, 2 * 8, 1]
    assert LatticeModel().parameter_counts()["cell"] == sum(parts) == 2034


def test_a_used_model_can_be_copied() -> None:
    model, e = make(), embeddings()
    assert torch.equal(model(e).embedding, copy.deepcopy(model)(e).embedding)


class Fake:
    """A teacher whose vector says how long the text is."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def encode(self, texts: list[str], batch_size: int = 32) -> np.ndarray:
        return np.array([[float(len(t))] * self.dim for t in texts], dtype=np.float32).reshape(-1, self.dim)


def test_texts_are_embedded_by_the_teacher_and_carried_through(refuses) -> None:
    model = make()
    with refuses("encode needs a teacher", "none is attached", "attach_teacher"):
        model.encode(["one"])
    with refuses("dimension must be the model's, 10", "got 11", "attach the teacher"):
        model.attach_teacher(Fake(11))
    model.attach_teacher(Fake(D))
    texts = ["a", "four", "eleven char"]
    found = model.encode(texts, batch_size=2)
    assert found.dtype == np.float32
    with torch.no_grad():
        expected = model(torch.tensor([[1.0], [4.0], [11.0]]).expand(3, D)).embedding
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-6)
    assert model.encode([]).shape == (0, D)


@pytest.mark.parametrize(
    ("settings", "rule", "received", "remedy"),
    [
        ({"channels": 0}, "channels must be a whole number, at least 1", "got 0", "set it to 1 or more"),
        ({"embedding_dim": -3}, "embedding_dim must be a whole number", "got -3", "set it to 1 or more"),
        ({"hidden": 2.5}, "hidden must be a whole number", "got 2.5", "set it to 1 or more"),
        ({"steps": "8"}, "steps must be a whole number", "got '8'", "set it to 1 or more"),
        ({"gain": 0.0}, "gain must be above 0", "got 0.0", "1 is the default"),
        ({"initialisation": "shfit"}, "shift or random", "'shfit'", "choose one of them"),
        ({"interior": "zero"}, "interior must be one of", "'zero'", "choose one"),
        ({"readout": "all"}, "readout must be one of", "'all'", "choose one"),
        ({"backend": "spares"}, "backend must be one of", "'spares'", "did you mean 'sparse'?"),
        ({"experts": {"local": "mpl"}}, "class_path must be one of", "'mpl'", "did you mean 'mlp'?"),
        ({"experts": {"near": "mlp"}}, "tiers local, functional, distant", "'near'", "use these names"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        make(**settings)


def test_bad_embeddings_are_refused(refuses) -> None:
    model = make()
    for wrong in (torch.zeros(3, D + 1), torch.zeros(D), torch.zeros(1, 2, D)):
        with refuses("[B, D] with D = 10", f"got {list(wrong.shape)}", "embed with the teacher"):
            model(wrong)
    for bad in (float("nan"), float("inf")):
        e = embeddings(5)
        e[[2, 4], 3] = bad
        with refuses("must be finite", "2 of 5 rows, first in row 2", "drop these rows"):
            model(e)
    with refuses("must not be negative", "got -1", "take 0 or more"):
        model.rollout(embeddings(), steps=-1)


def test_the_cell_is_one_object_and_its_gradients_sum_over_steps() -> None:
    model, e = make(), embeddings()
    assert sum(isinstance(m, nn.LayerNorm) for m in model.modules()) == 1
    model(e).embedding.square().sum().backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_no_edge_list_is_made_until_it_is_asked_for(monkeypatch, refuses) -> None:
    """37³ at the default ratios has 70 million edges; the model runs and learns without them."""
    spec = LatticeSpec((37, 37, 37))
    model = LatticeModel(spec, 8, channels=2, hidden=2, steps=6, execution="fused")
    model(torch.randn(1, 8)).embedding.square().sum().backward()
    assert all(p.grad is not None for p in model.cell.parameters())
    assert "graph" not in vars(model)
    monkeypatch.setattr(lattice_graph, "available_memory", lambda: 2**30)
    with refuses("edge list must fit in memory", "69,746,767 edges, which take about", "Use a smaller shape"):
        _ = model.graph
    small = make()
    assert small.graph is small.graph
    assert torch.equal(small.graph.input_nodes, small.input_nodes)


def test_strict_tiers_hold_without_an_edge_list(refuses) -> None:
    with refuses("strict_tiers asks that every tier has neighbours", "leave empty: local", "local_ratio"):
        LatticeModel(LatticeSpec((8, 8, 8), strict_tiers=True), D)


@pytest.mark.parametrize("execution", ["reference", "fused"])
@pytest.mark.parametrize("interior", ["zeros", "code", "learned"])
def test_autocast_ends_at_the_maps_and_the_products(execution, interior) -> None:
    """States and sums over neighbours keep float32; the answer is that of float32 to the digits of bfloat16."""
    spec = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
    model = LatticeModel(spec, embedding_dim=12, channels=4, hidden=4, steps=5, execution=execution, interior=interior)
    embedding = torch.randn(6, 12, generator=torch.Generator().manual_seed(0))
    exact = model(embedding).embedding
    with torch.autocast("cpu", torch.bfloat16):
        out = model(embedding)
        out.embedding.square().sum().backward()
    assert (out.state.dtype, out.embedding.dtype) == (torch.float32, torch.float32)
    assert not torch.equal(out.embedding, exact), "bfloat16 was in use"
    assert (out.embedding - exact).norm() < 0.03 * exact.norm()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_clamped_code_stays_on_the_input_ports() -> None:
    model, e = make(clamp=True).double(), embeddings().double()
    laid = model.rollout(e, steps=0).state[:, model.input_nodes]
    out = model.rollout(e, steps=4, trajectory=True)
    assert torch.equal(out.trajectory[:, :, model.input_nodes], laid.expand(5, *laid.shape))
    state = out.trajectory[0]
    for later in out.trajectory[1:]:
        state = model.cell(state).index_copy(1, model.input_nodes, laid)
        torch.testing.assert_close(later, state, rtol=1e-12, atol=1e-12)


def test_clamped_ports_cannot_be_read(refuses) -> None:
    with refuses("no output port may be one", "inputs on z- and outputs on surface", "drop clamp"):
        make(clamp=True, inputs=Ports("z-"), outputs=Ports("surface"))


@pytest.mark.parametrize("settings", [{}, {"clamp": True}, {"dynamics": {"diffusion": {"rate": 0.1}}}])
def test_a_rollout_in_two_parts_is_the_rollout_in_one(settings) -> None:
    model, e = make(**settings).double(), embeddings().double()
    half = model.rollout(e, steps=2)
    torch.testing.assert_close(
        model.rollout(e, steps=3, start=half.state).embedding, model.rollout(e, steps=5).embedding,
        rtol=1e-12, atol=1e-12,
    )  # fmt: skip


def test_an_intervention_acts_between_the_steps() -> None:
    model, e = make(clamp=True).double(), embeddings().double()
    asked = []

    def silence(state: torch.Tensor, taken: int) -> torch.Tensor:
        asked.append(taken)
        return state.index_fill(1, torch.tensor([7, 30]), 0.0) if taken != 1 else state

    out = model.rollout(e, steps=3, trajectory=True, intervene=silence)
    assert asked == [0, 1, 2, 3]
    assert not out.trajectory[[0, 2, 3]][:, :, [7, 30]].any()
    assert out.trajectory[1][:, [7, 30]].any()
    laid = model.rollout(e, steps=0).state[:, model.input_nodes]
    second = model.cell(out.trajectory[1]).index_copy(1, model.input_nodes, laid)
    torch.testing.assert_close(out.trajectory[2], second.index_fill(1, torch.tensor([7, 30]), 0.0))


def test_a_start_or_an_intervention_of_another_shape_is_refused(refuses) -> None:
    model, e = make(), embeddings()
    with refuses("start must hold a state", "[1, 60, 3]", "take the state"):
        model.rollout(e, start=torch.zeros(1, 60, 3))
    with refuses("an intervention must return states", "[1, 60, 3]", "return the changed copy"):
        model.rollout(e, intervene=lambda state, taken: state[:1])
    with refuses("an intervention must return states", "NoneType", "return the changed copy"):
        model.rollout(e, intervene=lambda state, taken: None)
