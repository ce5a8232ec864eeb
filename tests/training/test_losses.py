"""Each term by hand, by its gradient, by its range and its scale; and how terms are weighted and added."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from latticegnn.lattice import LatticeSpec, Tier, build_graph
from latticegnn.training.losses import (
    EMBEDDING_TERMS,
    TRAJECTORY_TERMS,
    Contrastive,
    Cosine,
    Diversity,
    Loss,
    LossWeights,
    Reconstruction,
    Similarity,
    TokenCrossEntropy,
    loss_terms,
)
from latticegnn.training.trajectory_losses import Dynamics, Emergence, Spatial, Temporal

SPEC = LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5))
ON_EMBEDDINGS = {
    "reconstruction": Reconstruction(), "cosine": Cosine(), "similarity": Similarity(),
    "contrastive": Contrastive(0.5), "diversity": Diversity(),
}  # fmt: skip
ON_TRAJECTORIES = {
    "emergence": Emergence(SPEC),
    "dynamics": Dynamics(),
    "spatial": Spatial(SPEC),
    "temporal": Temporal(),
}
RANGES = {
    "reconstruction": (0, math.inf), "cosine": (0, 2), "similarity": (0, 4), "contrastive": (0, math.inf),
    "diversity": (math.exp(-8), 1), "emergence": (0, 1), "dynamics": (0, math.inf), "spatial": (0, 4),
    "temporal": (0, 2),
}  # fmt: skip


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def tensor(*rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


# Two answers at a right angle, targets at cosine 0.6: (3, 4) / 5 against (1, 0), and (0, 2) against (0, 1).
PREDICTION, TARGET = tensor((3.0, 4.0), (0.0, 2.0)), tensor((1.0, 0.0), (0.0, 1.0))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("reconstruction", ((4 + 16) + (0 + 1)) / 2),
        ("cosine", (0.4 + 0.0) / 2),
        ("similarity", 0.8**2),  # cos of the predictions 0.8, of the targets 0
        (
            "contrastive",
            (math.log(math.exp(1.2) + math.exp(1.6)) - 1.2 + math.log(math.exp(0) + math.exp(2)) - 2) / 2,
        ),
        ("diversity", math.exp(-2 * (2 - 2 * 0.8))),
    ],
)
def test_terms_on_embeddings_by_hand(name, value) -> None:
    assert ON_EMBEDDINGS[name](PREDICTION, TARGET).item() == pytest.approx(value, rel=1e-12)


def rollout(*states: float) -> torch.Tensor:
    """One sample, one channel, two cells: the first takes the states given, the second stays at 0."""
    return torch.stack([tensor(s, 0.0).view(1, 2, 1) for s in states])


@pytest.mark.parametrize(
    ("term", "trajectory", "value"),
    [
        (Dynamics(), rollout(1, 3, 2), (4 + 1) / (9 + 4)),
        (Dynamics(), rollout(2, 2, 2), 0),
        (Dynamics(), rollout(0, 0), 0),
        (Temporal(), rollout(0, 1, 3), 1 / (1 + 4)),
        (Temporal(), rollout(0, 1, 2, 3), 0),
        (Temporal(), rollout(0, 1, 0, 1), 2),
        (Temporal(), rollout(1, 1, 1), 0),
        # Two cells, two edges of squared difference 9; mean square 4.5.
        (Spatial(LatticeSpec((1, 1, 2), radii=(0.5, 1.0, 1.5))), rollout(3), 9 / (2 * 4.5)),
        (Spatial(LatticeSpec((1, 1, 2), radii=(1.0, 1.2, 1.5))), rollout(3), 9 / (2 * 4.5)),  # in the local tier
    ],
)
def test_terms_on_trajectories_by_hand(term, trajectory, value) -> None:
    assert term(trajectory).item() == pytest.approx(value, rel=1e-12, abs=1e-300)


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        LatticeSpec((3, 4, 5), connectivity="full"),
        LatticeSpec((5, 5, 6), radii=(0.5, 1.0, 1.5), boundary="periodic"),
        LatticeSpec((4, 4, 4), radii=(1.0, 1.5, 2.0), order="morton"),
    ],
    ids=str,
)
def test_spatial_is_the_mean_over_the_edges_of_each_tier(spec) -> None:
    graph, state = build_graph(spec), draw(2, spec.num_nodes, 3)
    (source, target), parts = graph.edge_index, []
    for tier in Tier:
        chosen = (graph.edge_tier == int(tier)) & (source != target)
        if bool(chosen.any()):
            gap = state[:, source[chosen]] - state[:, target[chosen]]
            parts.append(gap.square().sum(-1).mean(1) / (2 * state.square().sum(-1).mean(1)))
    expected = torch.stack(parts).mean()
    torch.testing.assert_close(Spatial(spec)(state[None]), expected, rtol=1e-10, atol=0)


def test_emergence_is_the_share_a_least_squares_read_out_explains() -> None:
    graph, trajectory = build_graph(SPEC), draw(3, 4, SPEC.num_nodes, 2)
    seen = [trajectory[-2]]
    source, target = graph.edge_index
    for tier in (Tier.FUNCTIONAL, Tier.DISTANT):
        chosen = graph.edge_tier == int(tier)
        total = torch.zeros_like(seen[0]).index_add_(1, target[chosen], seen[0][:, source[chosen]])
        seen.append(total / torch.bincount(target[chosen], minlength=SPEC.num_nodes)[:, None])
    inputs = torch.cat([*seen, torch.ones_like(seen[0][..., :1])], -1).flatten(0, 1).numpy()
    wanted = trajectory[-1].flatten(0, 1).numpy()
    residual = wanted - inputs @ np.linalg.lstsq(inputs, wanted, rcond=None)[0]
    expected = 1 - (residual**2).sum() / ((wanted - wanted.mean(0)) ** 2).sum()
    assert 0.01 < expected < 0.2, "independent states, of which a few numbers fit little"
    assert Emergence(SPEC)(trajectory).item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_emergence_is_one_for_a_cell_that_passes_on_what_it_receives(dtype) -> None:
    before = draw(4, SPEC.num_nodes, 3).to(dtype)
    mean = Emergence(SPEC).means[0](before)
    repeated = torch.stack([before, 0.5 * before + 2 * mean.flip(-1) + 1])
    assert Emergence(SPEC)(repeated).item() == pytest.approx(1, abs=1e-4)
    squared = torch.stack([before, before.square()])
    assert Emergence(SPEC)(squared).item() < 0.2


def test_emergence_bears_channels_that_repeat_each_other() -> None:
    before = draw(4, SPEC.num_nodes, 1).expand(-1, -1, 3).float().requires_grad_()
    value = Emergence(SPEC)(torch.stack([before, 2 * before]))
    value.backward()
    assert value.item() == pytest.approx(1, abs=1e-3)
    assert torch.isfinite(before.grad).all()


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_gradients_of_terms_on_embeddings(name) -> None:
    prediction = draw(4, 5).requires_grad_()
    target = draw(4, 5, seed=1)
    assert torch.autograd.gradcheck(lambda e: ON_EMBEDDINGS[name](e, target), (prediction,))


@pytest.mark.parametrize("name", ON_TRAJECTORIES)
def test_gradients_of_terms_on_trajectories(name) -> None:
    trajectory = draw(3, 2, SPEC.num_nodes, 2).requires_grad_()
    assert torch.autograd.gradcheck(ON_TRAJECTORIES[name], (trajectory,))


@pytest.mark.parametrize("name", [name for name in ON_EMBEDDINGS if name != "reconstruction"])
def test_terms_free_of_scale_on_embeddings(name) -> None:
    prediction, target, term = draw(5, 4), draw(5, 4, seed=1), ON_EMBEDDINGS[name]
    scale = torch.tensor([0.01, 1.0, 3.0, 50.0, 1e4], dtype=torch.float64)[:, None]
    torch.testing.assert_close(term(prediction * scale, target * 7), term(prediction, target))


def test_reconstruction_grows_with_the_square() -> None:
    prediction, target = draw(5, 4), draw(5, 4, seed=1)
    torch.testing.assert_close(Reconstruction()(3 * prediction, 3 * target), 9 * Reconstruction()(prediction, target))


@pytest.mark.parametrize("name", ON_TRAJECTORIES)
@pytest.mark.parametrize("scale", [1e-4, 1e3])
def test_terms_free_of_scale_on_trajectories(name, scale) -> None:
    trajectory, term = draw(4, 3, SPEC.num_nodes, 2), ON_TRAJECTORIES[name]
    torch.testing.assert_close(term(scale * trajectory), term(trajectory))


@settings(max_examples=30, deadline=None)
@given(rows=st.integers(2, 6), seed=st.integers(0, 999), spread=st.sampled_from([0.0, 1e-3, 1.0, 30.0]))
def test_terms_stay_in_their_ranges(rows, seed, spread) -> None:
    base = draw(1, 4, seed=seed) + 0.1
    prediction, target = base + spread * draw(rows, 4, seed=seed), draw(rows, 4, seed=seed + 1)
    states = draw(1, 1, SPEC.num_nodes, 2, seed=seed) + spread * draw(4, rows, SPEC.num_nodes, 2, seed=seed + 1)
    values = {name: term(prediction, target) for name, term in ON_EMBEDDINGS.items()}
    values |= {name: term(states) for name, term in ON_TRAJECTORIES.items()}
    for name, value in values.items():
        low, high = RANGES[name]
        assert low - 1e-9 <= value.item() <= high + 1e-9, name


@pytest.mark.parametrize("name", ON_EMBEDDINGS)
def test_gradients_are_finite_where_predictions_coincide_or_vanish(name) -> None:
    for prediction in (torch.ones(3, 4), torch.zeros(3, 4), torch.ones(1, 4)):
        prediction.requires_grad_()
        value = ON_EMBEDDINGS[name](prediction, torch.ones(len(prediction), 4))
        (grad,) = torch.autograd.grad(value, prediction)
        assert torch.isfinite(value)
        assert torch.isfinite(grad).all()


def test_terms_that_compare_rows_are_nothing_for_a_single_row() -> None:
    for name in ("similarity", "diversity", "contrastive"):
        assert ON_EMBEDDINGS[name](draw(1, 4), draw(1, 4, seed=1)).item() == 0


def test_contrastive_is_log_b_for_answers_that_are_all_the_same() -> None:
    assert Contrastive()(torch.ones(8, 4), draw(8, 4).float()).item() > math.log(8) - 1e-6
    assert Contrastive()(torch.ones(8, 4), torch.ones(8, 4)).item() == pytest.approx(math.log(8), rel=1e-6)


def test_diversity_is_one_for_answers_that_are_all_the_same() -> None:
    assert Diversity()(torch.ones(8, 4)).item() == pytest.approx(1)
    assert Diversity()(tensor((1.0, 0.0), (-1.0, 0.0))).item() == pytest.approx(math.exp(-8))


@pytest.mark.parametrize("name", ["emergence", "dynamics", "temporal"])
def test_short_rollouts_are_refused(name, refuses) -> None:
    steps = 1 if name == "temporal" else 0
    with refuses(f"the term {name} needs a rollout of {steps + 1} steps", f"got {steps}", f"loss.{name} to 0"):
        ON_TRAJECTORIES[name](draw(steps + 1, 2, SPEC.num_nodes, 2))


def test_tokens_by_hand() -> None:
    logits = torch.log(tensor(((0.5, 0.25, 0.25), (0.1, 0.8, 0.1)), ((0.2, 0.2, 0.6), (1 / 3, 1 / 3, 1 / 3))))
    tokens = torch.tensor([[0, 1], [2, 9]])
    term = TokenCrossEntropy(tensor(1.0, 2.0, 4.0), ignore_index=9)
    expected = -(math.log(0.5) + 2 * math.log(0.8) + 4 * math.log(0.6)) / 7
    assert term(logits, tokens).item() == pytest.approx(expected, rel=1e-12)
    plain = -(math.log(0.5) + math.log(0.8) + math.log(0.6)) / 3
    assert TokenCrossEntropy(ignore_index=9)(logits, tokens).item() == pytest.approx(plain, rel=1e-12)
    assert torch.autograd.gradcheck(lambda x: term(x, tokens), (draw(2, 2, 3).requires_grad_(),))


def test_tokens_that_do_not_count_are_refused(refuses) -> None:
    with refuses("needs a token that counts", "all 4 are ignored", "drop such batches"):
        TokenCrossEntropy(ignore_index=0)(draw(2, 2, 3), torch.zeros(2, 2, dtype=torch.long))
    with refuses("needs a token that counts", "of weight 0", "drop such batches"):
        TokenCrossEntropy(tensor(0.0, 1.0))(draw(1, 1, 2), torch.zeros(1, 1, dtype=torch.long))
    with refuses("token weights must be 0 or more", "-1.0", "set them"):
        TokenCrossEntropy(tensor(-1.0, 1.0))


def test_terms_are_weighted_by_name() -> None:
    weights = LossWeights(reconstruction=0.5, cosine=3.0, similarity=2.0, dynamics=0.25, spatial=4.0)
    trajectory = draw(3, 2, SPEC.num_nodes, 2)
    terms = Loss(weights, SPEC)(PREDICTION, TARGET, trajectory)
    expected = {
        "reconstruction": 0.5 * 10.5, "cosine": 3 * 0.2, "similarity": 2 * 0.64,
        "dynamics": 0.25 * Dynamics()(trajectory).item(), "spatial": 4 * Spatial(SPEC)(trajectory).item(),
    }  # fmt: skip
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(expected)
    for found in (Loss(weights)(PREDICTION, TARGET), loss_terms(PREDICTION, TARGET, weights)):
        assert list(found) == ["reconstruction", "cosine", "similarity"]
    assert list(Loss(weights, SPEC).parameters()) == []
    assert Loss(weights, SPEC).state_dict() == {}


def test_every_term_has_a_weight_and_a_module() -> None:
    every = dict.fromkeys((*EMBEDDING_TERMS, *TRAJECTORY_TERMS), 1.0)
    terms = Loss(LossWeights(**every), SPEC)(PREDICTION, TARGET, draw(3, 2, SPEC.num_nodes, 2))
    assert set(terms) == set(every) == {*ON_EMBEDDINGS, *ON_TRAJECTORIES}


def test_a_trajectory_that_is_missing_is_named(refuses) -> None:
    loss = Loss(LossWeights(dynamics=1.0), SPEC)
    with refuses("the terms dynamics look at a rollout's states", "no trajectory", "trajectory=True"):
        loss(PREDICTION, TARGET)


def test_uncertainty_starts_as_fixed_and_settles_where_each_term_counts_one() -> None:
    weights = LossWeights(reconstruction=2.0, cosine=5.0, weighting="uncertainty")
    loss, fixed = Loss(weights).double(), Loss(LossWeights(reconstruction=2.0, cosine=5.0))
    terms, plain = loss(PREDICTION, TARGET), fixed(PREDICTION, TARGET)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {name: term.item() for name, term in plain.items()} | {"uncertainty": 0}
    )
    total = torch.stack(list(terms.values())).sum()
    (slope,) = torch.autograd.grad(total, loss.log_variance)
    torch.testing.assert_close(slope, 1 - torch.stack(list(plain.values())))
    with torch.no_grad():
        loss.log_variance.copy_(torch.stack(list(plain.values())).log())
    terms = loss(PREDICTION, TARGET)
    assert [terms[name].item() for name in ("reconstruction", "cosine")] == pytest.approx([1, 1])
    (slope,) = torch.autograd.grad(torch.stack(list(terms.values())).sum(), loss.log_variance)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    assert isinstance(loss.log_variance, nn.Parameter)


@pytest.mark.parametrize(
    ("given", "rule", "received", "remedy"),
    [
        ({"cosine": -1.0}, "loss.cosine must be 0 or more", "got -1.0", "set it to 0"),
        ({"dynamics": math.nan}, "loss.dynamics must be 0 or more", "got nan", "set it to 0"),
        ({"spatial": math.inf}, "loss.spatial must be 0 or more", "got inf", "set it to 0"),
        ({"reconstruction": 0.0, "cosine": 0.0}, "at least one loss weight", "all are 0", "loss.reconstruction to 1"),
        ({"reconstruction": 0.0, "cosine": 0.0, "dynamics": 1.0}, "at least one loss weight", "are 0", "to 1"),
        ({"temperature": 0.0}, "loss.temperature must be above 0", "got 0.0", "0.05 is the default"),
        ({"weighting": "learned"}, "loss.weighting must be one of fixed, uncertainty", "'learned'", "choose one"),
    ],
)
def test_weights_out_of_range_are_refused(given, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        LossWeights(**given)
