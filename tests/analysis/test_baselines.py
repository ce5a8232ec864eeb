"""The baselines: closed forms against slow twins, and trained ones that start where they say and cost what they say."""

import numpy as np
import pytest
import torch

from latticegnn.analysis import baselines
from latticegnn.analysis.baselines import CodeMLP, ProjectionOnly
from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))


def draw(rows: int, seed: int = 0, dim: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + 1.0


def make(**settings) -> LatticeModel:
    model = LatticeModel(SPEC, **{"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 5} | settings)
    model.fit_maps(draw(60), draw(60, seed=1))
    return model


@pytest.mark.parametrize("skip", [False, True])
def test_projection_only_reads_the_code_where_it_was_laid(skip) -> None:
    model = make(skip=skip)
    bare, e = ProjectionOnly(model), draw(4, seed=2)
    code = model.extractor(model.mapper(model.transformer.encode(e)))
    wanted = model.transformer.decode(code) + (e if skip else 0)
    out = bare(e)
    torch.testing.assert_close(out.embedding, wanted)
    torch.testing.assert_close(out.code, code)
    assert sum(p.numel() for p in bare.parameters()) == model.parameter_counts()["maps"]


def test_projection_only_trains_copies() -> None:
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bare = ProjectionOnly(model)
    with torch.no_grad():
        for parameter in bare.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("readout", ["ports", "ports_full"])
def test_projection_only_starts_as_the_components_the_output_ports_have_room_for(readout) -> None:
    model = make(outputs=Ports("z+", "corners"), readout=readout)
    e = draw(40, seed=1)
    model.fit_maps(e, e)
    reference = baselines.principal_components(e, 4)(e).embedding
    got = ProjectionOnly(model)
    with torch.no_grad():
        got.mapper.lift.zero_()[0] = 1.0
        if readout == "ports":
            got.extractor.read.zero_()[0] = 1.0
        assert torch.allclose(got(e).embedding, reference, atol=1e-4)


def test_a_frozen_cell_is_not_touched_by_training() -> None:
    model = make()
    frozen = baselines.frozen_cell(model)
    optimizer = torch.optim.SGD([p for p in frozen.parameters() if p.requires_grad], lr=0.01)
    start = {name: value.clone() for name, value in frozen.state_dict().items()}
    frozen(draw(8, seed=3)).embedding.square().sum().backward()
    optimizer.step()
    moved = {name for name, value in frozen.state_dict().items() if not torch.equal(start[name], value)}
    assert not any(name.startswith("cell.") for name in moved)
    assert {"transformer.encoder.weight", "transformer.decoder.weight"} <= moved
    assert all(p.requires_grad for p in model.cell.parameters()), "the lattice itself still learns"


@pytest.mark.parametrize("readout", ["ports", "ports_full"])
@pytest.mark.parametrize("skip", [False, True])
def test_the_perceptron_starts_as_the_linear_map(readout, skip) -> None:
    model = make(skip=skip, readout=readout)
    e, inputs = draw(5, seed=4), draw(60)
    targets = draw(60, seed=1) - inputs if skip else draw(60, seed=1)
    got = CodeMLP(model, hidden=7)(e).embedding
    # By hand: whitened components of the inputs, each handed on as the component of the targets of the same place.
    code = model.transformer.encode(e)
    _, spread, axes = np.linalg.svd((inputs - inputs.mean(dim=0)).numpy(), full_matrices=False)
    naive = (e - inputs.mean(dim=0)).numpy() @ axes[:9].T / spread[:9] * np.sqrt(59)
    np.testing.assert_allclose(code.detach().abs(), np.abs(naive), rtol=1e-2, atol=1e-3)
    _, spread, axes = np.linalg.svd((targets - targets.mean(dim=0)).numpy(), full_matrices=False)
    first = model.transformer.decoder.weight[:, :: 1 if readout == "ports" else 4]
    np.testing.assert_allclose(
        first.detach().abs(), np.abs(axes[:9].T * spread[:9] / np.sqrt(59)), rtol=1e-2, atol=1e-3
    )
    wanted = code @ first.T + targets.mean(dim=0) + (e if skip else 0)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_the_hidden_layer_is_learned_and_scaled() -> None:
    mlp = CodeMLP(make(), hidden=256)
    assert mlp.scale == 0.25
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        mlp.decoder.weight.normal_(generator=generator)
    e = draw(3, seed=5)
    code = mlp.encoder(e)
    inner = torch.nn.functional.silu(code @ mlp.inner.weight.T + mlp.inner.bias)
    linear, outer = mlp.decoder.weight.split([9, 256], dim=1)
    out = mlp(e)
    torch.testing.assert_close(out.embedding, code @ linear.T + 0.25 * inner @ outer.T + mlp.decoder.bias)
    torch.testing.assert_close(mlp.decoder(out.code), out.embedding)


@pytest.mark.parametrize("settings", [{}, {"readout": "ports_full"}, {"channels": 8, "hidden": 16, "steps": 6}])
def test_perceptrons_of_equal_size_are_within_half_a_unit(settings) -> None:
    model = make(**settings)
    mlp = baselines.mlp_of_equal_parameters(model)
    unit = 9 + 1 + 12
    count = sum(p.numel() for p in mlp.parameters())
    assert abs(count - model.parameter_counts()["total"]) <= unit / 2
    mlp = baselines.mlp_of_equal_compute(model)
    products = sum(p.numel() for p in mlp.parameters() if p.dim() == 2)
    assert abs(products - baselines.multiplications(model)) <= (9 + 12) / 2


def test_multiplications_grow_with_steps_by_the_cells_weights() -> None:
    five, six = baselines.multiplications(make()), baselines.multiplications(make(steps=6))
    weights = sum(p.numel() for p in make().cell.parameters() if p.dim() == 2)
    assert six - five == 45 * weights
    assert five - 5 * 45 * weights == 2 * 9 * 12


def test_principal_components_equal_the_eigenvectors_of_the_covariance() -> None:
    train, test = draw(80), draw(7, seed=6)
    mean = train.mean(dim=0)
    _, vectors = np.linalg.eigh(np.cov(train.double().numpy(), rowvar=False))
    top = torch.from_numpy(vectors[:, -4:])
    wanted = (test.double() - mean) @ top @ top.T + mean
    got = baselines.principal_components(train, 4)(test).embedding
    torch.testing.assert_close(got.double(), wanted, rtol=1e-4, atol=1e-4)
    full = baselines.principal_components(train, 50)(test).embedding
    torch.testing.assert_close(full, test, rtol=1e-4, atol=1e-4)


def closed_form(inputs: torch.Tensor, targets: torch.Tensor, penalty: float, count: int | None) -> tuple:
    """Ridge regression by the normal equations with an intercept column, which is not penalised."""
    x, r = inputs.double().numpy(), (targets - inputs).double().numpy()
    if count is not None:
        _, vectors = np.linalg.eigh(np.cov(x, rowvar=False))
        x = (x - x.mean(axis=0)) @ vectors[:, -count:]
    columns = np.hstack([x, np.ones((len(x), 1))])
    damping = penalty * np.eye(columns.shape[1])
    damping[-1, -1] = 0
    return np.linalg.solve(columns.T @ columns + damping, columns.T @ r), (vectors[:, -count:] if count else None)


@pytest.mark.parametrize("count", [None, 5])
@pytest.mark.parametrize("penalty", baselines.PENALTIES)
def test_ridge_equals_the_normal_equations(penalty, count) -> None:
    inputs, targets, fresh = draw(70), draw(70, seed=7), draw(6, seed=8)
    tried = []

    def score(model: torch.nn.Module) -> float:
        tried.append(model)
        return float(len(tried) - 1 == baselines.PENALTIES.index(penalty))

    got = baselines.residual_ridge(inputs, targets, score, count)(fresh).embedding
    weight, axes = closed_form(inputs, targets, penalty, count)
    x = fresh.double().numpy()
    code = x if axes is None else (x - inputs.double().numpy().mean(axis=0)) @ axes
    wanted = x + np.hstack([code, np.ones((len(x), 1))]) @ weight
    np.testing.assert_allclose(got.numpy(), wanted, rtol=1e-3, atol=1e-3)
    assert len(tried) == len(baselines.PENALTIES)


def test_the_penalty_with_the_best_score_wins() -> None:
    """Targets that owe nothing to the inputs call for the greatest penalty, exact ones for the least."""
    inputs, fresh = draw(60), draw(200, seed=9)
    turn = torch.linalg.qr(draw(12, seed=10))[0]

    def least_error(truth):
        return lambda model: -float((model(fresh).embedding - truth(fresh)).square().sum())

    def chosen(targets, truth) -> int:
        best = baselines.residual_ridge(inputs, targets, least_error(truth))
        errors = []
        baselines.residual_ridge(inputs, targets, lambda m: errors.append(m) or 0.0)
        return next(k for k, model in enumerate(errors) if torch.equal(model.weight, best.weight))

    noise = 30 * torch.randn(60, 12, generator=torch.Generator().manual_seed(11))
    assert chosen(inputs @ turn, lambda e: e @ turn) == 0
    assert chosen(inputs + noise, lambda e: e) == len(baselines.PENALTIES) - 1


def test_the_mean_and_the_teacher_itself() -> None:
    targets, e = draw(20), draw(5, seed=12)
    torch.testing.assert_close(baselines.mean_vector(targets)(e).embedding, targets.mean(dim=0).expand(5, 12))
    assert torch.equal(baselines.raw_teacher(12)(e).embedding, e)
    for model in (baselines.mean_vector(targets), baselines.raw_teacher(12)):
        assert list(model.parameters()) == []


def test_every_trained_baseline_is_made_from_the_lattice() -> None:
    model, e = make(), draw(3, seed=13)
    for name, build in baselines.TRAINED.items():
        out = build(model)(e)
        assert out.embedding.shape == (3, 12), name
        assert out.embedding.requires_grad, name
