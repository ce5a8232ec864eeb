"""The gradient of a fixed point: exact where it is known in closed form, near backpropagation's, never wrong unsaid."""

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latticegnn as lg
from latticegnn.nn import Implicit, Plain
from latticegnn.nn.implicit import solve_adjoint
from latticegnn.rollout import Rollout
from latticegnn.training.losses import LossWeights
from latticegnn.training.module import EmbeddingModule

SPEC = lg.LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
REST = 120  # steps after which `make`'s states stand still in float64
SOLVERS = ("gmres", "iteration")
EXACT = {"tolerance": 1e-12, "products": 400}
MODES = {
    "plain": None,
    "diffusion": {"diffusion": {"rate": 0.2}},
    "directional": {"directional": {"strength": 0.4}},
    "wave": {"wave": {"speed": 0.3, "damping": 0.6}},
}


def contraction(size: int, norm: float, seed: int = 0) -> Tensor:
    """A matrix whose largest singular value is given, no symmetric one."""
    matrix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return norm * matrix / torch.linalg.matrix_norm(matrix, 2)


def make(gradient=None, **settings) -> lg.LatticeModel:
    """A model that comes to rest: its ports are held, its step is short, and its states leak."""
    given = {"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 8, "clamp": True} | settings
    channels = given["channels"]
    model = lg.LatticeModel(SPEC, gradient=gradient, **given).double().eval()
    with torch.no_grad():
        model.cell.step.fill_(0.5)
        model.cell.bypass.weight[:, :channels] -= 0.5 * torch.eye(channels)
    return model


def embeddings() -> Tensor:
    return torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gradients(model: lg.LatticeModel, steps: int, **how) -> dict[str, Tensor]:
    """The gradient of a weighted sum of answers at every parameter and at the embedding."""
    embedding = embeddings().requires_grad_()
    weights = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    (model.rollout(embedding, steps, **how).embedding * weights).sum().backward()
    assert embedding.grad is not None
    found = {name: p.grad for name, p in model.named_parameters()} | {"embedding": embedding.grad}
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


def cosine(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    a, b = (torch.cat([grads[name].flatten() for name in one]) for grads in (one, other))
    return float(a @ b / (a.norm() * b.norm()))


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_linear_cell_has_the_gradient_in_closed_form(solver) -> None:
    r"""x* = (I − A)⁻¹ b: the gradient at b is v = (I − A)⁻ᵀ g, and at A it is v x*ᵀ."""
    a, b = contraction(12, 0.8).requires_grad_(), torch.randn(2, 12, dtype=torch.float64).requires_grad_()

    def step(x: Tensor) -> Tensor:  # 3 cells of 4 channels, nodes first
        flat = x.transpose(0, 1).flatten(1)
        return (flat @ a.T + b).view(-1, 3, 4).transpose(0, 1)

    mode = Implicit(solver, **EXACT)
    run = Rollout(step, Plain(), torch.zeros(2, 3, 4, dtype=torch.float64))
    run.take(200, mode)
    g = torch.randn(2, 12, dtype=torch.float64)
    (run.state.flatten(1) * g).sum().backward()
    inverse = torch.linalg.inv(torch.eye(12, dtype=torch.float64) - a.detach())
    fixed, v = b.detach() @ inverse.T, g @ inverse
    torch.testing.assert_close(run.state.flatten(1).detach(), fixed, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(b.grad, v, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(a.grad, v.T @ fixed, rtol=1e-8, atol=1e-8)
    assert mode.last is not None
    assert max(mode.last.change, mode.last.residual) < 1e-12
    assert mode.moving == 0


@given(size=st.integers(1, 8), norm=st.floats(0.01, 0.9), seed=st.integers(0, 99), solver=st.sampled_from(SOLVERS))
@settings(max_examples=40, deadline=None)
def test_the_residual_is_what_is_said(size, norm, seed, solver) -> None:
    matrix = contraction(size, norm, seed)
    g = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    v, residual, products = solve_adjoint(lambda v: matrix.T @ v, g, solver, 1e-9, 1000)
    assert residual == pytest.approx(float((v - matrix.T @ v - g).norm() / g.norm()), abs=1e-15)
    assert residual <= 1e-9
    assert 1 <= products <= 1000
    exact = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - matrix.T, g)
    torch.testing.assert_close(v, exact, rtol=1e-7, atol=1e-7 * float(g.norm()))


def test_gmres_solves_where_iteration_cannot() -> None:
    """No contraction: the fixed point repels, and has a gradient all the same."""
    matrix, g = 3.0 * torch.eye(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)
    v, residual, _ = solve_adjoint(lambda v: matrix.T @ v, g, "gmres", 1e-9, 50)
    torch.testing.assert_close(v, -0.5 * g)
    assert residual < 1e-9
    assert not solve_adjoint(lambda v: matrix.T @ v, g, "iteration", 1e-9, 50)[1] < 1e-9


def test_nothing_to_solve_is_nothing() -> None:
    zero = torch.zeros(4)
    v, residual, products = solve_adjoint(lambda v: 2 * v, zero, "gmres", 1e-9, 50)
    assert (v.equal(zero), residual, products) == (True, 0.0, 0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("execution", ["reference", "fused"])
@pytest.mark.parametrize("mode", MODES)
def test_at_rest_it_is_the_gradient_of_a_long_rollout(mode, execution, solver) -> None:
    """The cell's parameters, the maps in and out and the embedding alike; 120 steps back against one and a solve."""
    settings = {"dynamics": MODES[mode], "execution": execution}
    exact = gradients(make(**settings), REST)
    model = make({"implicit": {"solver": solver, "tolerance": 1e-9, "products": 200}}, **settings)
    found = gradients(model, REST)
    parts = {name.partition(".")[0] for name in found}
    assert parts == {"cell", "mapper", "extractor", "transformer", "embedding"}
    assert cosine(found, exact) > 1 - 1e-9
    largest = max(float(grad.abs().max()) for grad in exact.values())
    for name, grad in exact.items():  # that of the step size is 0 at a fixed point of the cell alone
        torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-7 * largest, msg=name)
    assert isinstance(model.gradient, Implicit)
    assert model.gradient.last is not None
    assert max(model.gradient.last.residual, model.gradient.last.change) < 1e-9


def test_gradcheck_at_a_fixed_point() -> None:
    model = make({"implicit": EXACT}, execution="reference", channels=2, hidden=2)
    names = ["cell.bypass.weight", "cell.gate.bias", "mapper.lift", "extractor.read"]
    inputs = [embeddings()[:1].requires_grad_(), *(model.get_parameter(name).detach().clone() for name in names)]

    def answer(embedding: Tensor, *values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, given, (embedding,)).embedding

    model.steps = REST
    assert torch.autograd.gradcheck(answer, [value.requires_grad_() for value in inputs], atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_states_are_those_of_every_other_gradient(mode) -> None:
    settings = {"dynamics": MODES[mode], "steps": 40}
    expected, model = make(**settings)(embeddings()), make({"implicit": {}}, **settings)
    assert torch.equal(model(embeddings()).state, expected.state)
    assert torch.equal(model(embeddings()).embedding, expected.embedding)


def test_an_intervention_that_lasts_is_part_of_the_step() -> None:
    def silence(state: Tensor, taken: int) -> Tensor:
        return state.index_fill(1, torch.tensor([7, 30]), 0.0)

    def once(state: Tensor, taken: int) -> Tensor:
        return silence(state, taken) if taken == 3 else state

    for intervene in (silence, once):
        found = gradients(make({"implicit": EXACT}), REST, intervene=intervene)
        assert cosine(found, gradients(make(), REST, intervene=intervene)) > 1 - 1e-9
    lasting, passing = (gradients(make({"implicit": EXACT}), REST, intervene=i) for i in (silence, once))
    assert cosine(lasting, passing) < 0.999


def test_no_samples_have_no_gradient() -> None:
    model = make("implicit")
    model(torch.zeros(0, 12, dtype=torch.float64)).embedding.sum().backward()
    assert not model.cell.bypass.weight.grad.any()


def test_memory_is_that_of_one_step() -> None:
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept[-1] += tensor.numel()
        return tensor

    for gradient, steps in (({"implicit": {}}, 40), ({"implicit": {}}, REST), (None, 1), (None, 40)):
        kept.append(0)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model = make(gradient)
            model.rollout(embeddings(), steps).embedding.sum().backward()
    short, long, one, full = kept
    assert short == long <= one < full / 10


def test_a_state_that_still_moves_is_told_once_and_counted(caplog) -> None:
    model = make({"implicit": {"tolerance": 1e-6}})
    with caplog.at_level(logging.WARNING, logger="latticegnn"):
        gradients(model, REST)
        assert not caplog.records
        for _ in range(5):
            gradients(model, 4)
    assert isinstance(model.gradient, Implicit)
    assert model.gradient.moving == 5
    assert [record.getMessage().partition("so far: ")[2][0] for record in caplog.records] == ["1", "2", "4"]
    assert "beyond the tolerance 1e-06" in caplog.text
    with torch.no_grad():
        model(embeddings())
    assert model.gradient.moving == 5, "no gradient is taken"


@pytest.mark.parametrize(
    ("solver", "hint"), [("iteration", "take solver: gmres"), ("gmres", "raise implicit.products")]
)
def test_an_equation_that_is_not_solved_is_an_error(solver, hint, refuses) -> None:
    model = make({"implicit": {"solver": solver, "tolerance": 1e-9, "products": 3}})
    with refuses("must be solved to implicit.tolerance, 1e-09", f"{solver} got to", hint):
        gradients(model, REST)


def test_a_gradient_that_is_not_finite_is_an_error(refuses) -> None:
    for solver in SOLVERS:
        model = make({"implicit": {"solver": solver}})
        with refuses("the adjoint equation must be solved", "got to nan", "raise implicit.products"):
            (model.rollout(embeddings(), REST).embedding.sum() * float("nan")).backward()


def test_a_trajectory_has_no_implicit_gradient(refuses) -> None:
    model = make({"implicit": {}})
    with refuses("keeps none of them", "got a loss on a trajectory", "under torch.no_grad()"):
        model.rollout(embeddings(), trajectory=True)
    with refuses("keeps none of them", "got a loss on a trajectory", "leave out loss terms on rollouts"):
        EmbeddingModule(model, LossWeights(dynamics=1.0))
    with torch.no_grad():
        assert model.rollout(embeddings(), trajectory=True).trajectory is not None


@pytest.mark.parametrize(
    ("settings", "received", "remedy"),
    [
        ({"clamp": False}, "clamp: false", "set clamp: true"),
        ({"interior": "learned"}, "interior: learned", "set it to zeros"),
        ({"interior": "code"}, "interior: code", "set it to zeros"),
        ({"dynamics": {"stochastic": {"probability": 0.5}}}, "random firing", "take stochastic out of dynamics"),
    ],
)
def test_what_has_no_fixed_point_to_learn_from_is_refused(settings, received, remedy, refuses) -> None:
    with refuses("implicit is that of a fixed point", received, remedy):
        make({"implicit": {}}, **settings)


@pytest.mark.parametrize(
    ("settings", "rule", "received", "remedy"),
    [
        ({"solver": "newton"}, "one of gmres, iteration", "'newton'", "gmres is the default"),
        ({"tolerance": 0}, "above 0 and below 1", "got 0", "1e-3 is the default"),
        ({"tolerance": "small"}, "above 0 and below 1", "'small'", "1e-3 is the default"),
        ({"products": 0}, "a whole number, at least 1", "got 0", "100 is the default"),
    ],
)
def test_settings_out_of_range_are_refused(settings, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        make({"implicit": settings})
