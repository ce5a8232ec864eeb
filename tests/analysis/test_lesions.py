"""Lesions against plain loops in float64; and nothing of the model is changed for good."""

import logging

import pytest
import torch
from torch import Tensor

from latticegnn.analysis import (
    Box,
    Cells,
    LostPorts,
    Plane,
    RandomCells,
    RandomRegion,
    Sphere,
    TierEdges,
    TierExpert,
    When,
    lesioned,
)
from latticegnn.lattice import LatticeSpec, Ports, coordinates
from latticegnn.lattice.ports import Learned
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((5, 5, 5), radii=(0.5, 1.0, 1.5))
CELLS = [
    Cells((3, 70)), RandomCells(0.3), RandomRegion(0.25, "box"), Plane(2, 2, opening=1), Sphere((2, 2, 2), 1.5),
    Box((0, 0, 0), (2, 2, 5)),
]  # fmt: skip
PARTS = [TierEdges("functional"), TierEdges("distant"), *map(TierExpert, ("local", "functional", "distant"))]
PORTS = [LostPorts("inputs", 0.5), LostPorts("outputs", 0.5)]


def build(**settings) -> LatticeModel:
    given = {"embedding_dim": 10, "channels": 4, "hidden": 6, "steps": 6, "execution": "reference"} | settings
    return LatticeModel(SPEC, **given).double().eval()


@pytest.fixture(scope="module")
def model() -> LatticeModel:
    return build()


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(3, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def step(model: LatticeModel, x: Tensor, lesion: TierEdges | TierExpert | None) -> Tensor:
    """One step as the formula reads, nodes first, without a tier's sums or an expert's proposal."""
    cell, tiers = model.cell, {}
    for place, tier in enumerate(cell.reaching):
        silent = isinstance(lesion, TierEdges) and lesion.tier == tier.name.lower()
        rows = cell.aggregator(x)[4 * place : 4 * place + 4]
        tiers[tier.name.lower()] = torch.cat(list(rows * (0 if silent else 1)), dim=-1)
    activity = [m[..., : cell.channels].square().mean(-1, keepdim=True) for m in tiers.values()]
    weights = torch.softmax(cell.gate(torch.cat([cell.norm(x), *activity], dim=-1)), dim=-1)
    change = cell.bypass(torch.cat([x, *tiers.values()], dim=-1))
    for k, (name, expert) in enumerate(cell.experts.items()):
        if not (isinstance(lesion, TierExpert) and lesion.tier == name):
            change = change + weights[..., k, None] * expert(x, tiers.get(name, x[..., :0]))
    return x + cell.step * change


def twin(model: LatticeModel, inputs: Tensor, lesion, when: When) -> Tensor:
    """The last state of a plain loop under a lesion."""
    x = model.rollout(inputs, 0).state.transpose(0, 1)
    structural = isinstance(lesion, TierEdges | TierExpert)
    for k in range(model.steps + 1):
        if not structural and k in when:
            x = x * (~lesion.mask(SPEC)).double()[:, None, None]
        if k < model.steps:
            x = step(model, x, lesion if structural and k in when else None)
    return x.transpose(0, 1)


def spread(rows: Tensor) -> float:
    """How far the rows' answers differ."""
    return float((rows.amax(0) - rows.amin(0)).max())


@pytest.mark.parametrize("when", [When(), When(2), When(2, once=True)], ids=["always", "from 2", "at 2"])
@pytest.mark.parametrize("lesion", [*CELLS, *PARTS], ids=str)
def test_a_lesion_is_what_a_plain_loop_says(lesion, when, model, inputs) -> None:
    with lesioned(model, lesion, first=when.first, once=when.once):
        found = model(inputs).state
    torch.testing.assert_close(found, twin(model, inputs, lesion, when), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, model(inputs).state, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("execution", ["fused", pytest.param("compiled", marks=pytest.mark.slow)])
def test_every_execution_is_right_under_every_lesion(execution, model, inputs) -> None:
    fast = build(execution=execution)
    for lesion in (*CELLS, *PARTS, *PORTS):
        with lesioned(model, lesion), lesioned(fast, lesion):
            torch.testing.assert_close(fast(inputs).embedding, model(inputs).embedding, rtol=1e-10, atol=1e-10)
        assert fast.execution == execution


def test_a_silenced_expert_is_computed_as_the_cell_reads_and_the_log_says_why(inputs, caplog) -> None:
    model = build(execution="fused")
    with caplog.at_level(logging.INFO, "latticegnn"), lesioned(model, TierExpert("functional")):
        model(inputs)
    assert "execution: auto in place of fused" in caplog.text
    assert "the cell as it reads, for the functional tier has SilentExpert" in caplog.text


@pytest.mark.parametrize("lesion", [*CELLS, *PARTS, *PORTS], ids=str)
def test_nothing_stays_changed(lesion, inputs) -> None:
    model = build(execution="fused")
    before, names = model(inputs), [name for name, _ in model.named_modules()]
    with lesioned(model, lesion):
        assert not torch.equal(model(inputs).embedding, before.embedding)
    with pytest.raises(ValueError, match="embeddings must have shape"), lesioned(model, lesion):
        model(inputs[0])
    assert torch.equal(model(inputs).state, before.state)
    assert [name for name, _ in model.named_modules()] == names
    assert not {"begin", "rollout"} & set(vars(model))
    assert not model.mapper._forward_hooks
    assert not model.exit._forward_hooks


def test_contexts_nest_and_a_rollouts_own_intervention_comes_after(model, inputs) -> None:
    first, second = Cells((3,)), Cells((70,))
    with lesioned(model, first, second):
        both = model(inputs).state
    seen = []

    def note(state: Tensor, taken: int) -> Tensor:
        seen.append((taken, bool((state[:, [3, 70]] == 0).all())))
        return state

    with lesioned(model, first):
        with lesioned(model, second):
            assert torch.equal(model.rollout(inputs, intervene=note).state, both)
        inner = model(inputs).state
        assert (inner[:, 3] == 0).all()
        assert (inner[:, 70] != 0).any()
    assert seen == [(k, True) for k in range(model.steps + 1)]
    assert not model.rollout(inputs, intervene=first.intervention(SPEC, When(6, once=True))).state[:, 3].any()


def test_a_lesioned_model_takes_no_gradient_but_an_intervention_does(model, inputs) -> None:
    given = inputs.clone().requires_grad_()
    with lesioned(model, Cells((3,))):
        assert not model(given).embedding.requires_grad
    lesion = Plane(2, 2, opening=1)
    model.rollout(given, intervene=lesion.intervention(SPEC, When())).embedding.sum().backward()
    assert given.grad is not None
    assert given.grad.abs().sum() > 0


def test_no_signal_passes_a_wall_without_a_hole(model, inputs) -> None:
    with lesioned(model, Plane(2, 2)):
        shut = model.rollout(inputs, 20).embedding
    with lesioned(model, Plane(2, 2, opening=1)):
        ajar = model.rollout(inputs, 20).embedding
    assert spread(shut) < 1e-12
    assert spread(ajar) > 1e-6


def test_the_edges_of_a_layer_that_works_edge_by_edge_are_cut(inputs) -> None:
    model = build(experts={"distant": {"class_path": "torch_geometric.nn.SAGEConv"}})
    layer, ones = model.cell.experts["distant"].layer, torch.ones(125, 2, 4, dtype=torch.float64)
    intact = model.rollout(inputs, 1).state
    with lesioned(model, TierEdges("distant")):
        assert not torch.allclose(model.rollout(inputs, 1).state, intact)
        alone = model.cell.experts["distant"](ones, ones[..., :0])  # still in the step that the rollout took last
    torch.testing.assert_close(alone, layer.lin_r(ones) + layer.lin_l.bias)
    torch.testing.assert_close(
        model.cell.experts["distant"](ones, ones[..., :0])[0], layer.lin_r(ones[0]) + layer.lin_l(ones[0])
    )


@pytest.mark.parametrize("clamp", [False, True])
def test_nothing_is_laid_on_lost_input_ports(clamp, inputs) -> None:
    model = build(clamp=clamp)
    with lesioned(model, LostPorts("inputs")):
        out = model.rollout(inputs, 6, trajectory=True)
    assert out.trajectory is not None
    assert not out.trajectory[0].any()
    assert bool(out.trajectory[:, :, model.input_nodes].any()) is not clamp, "a cell that is not held lives on"
    assert spread(out.embedding) < 1e-12
    with lesioned(model, LostPorts("inputs", 0.2)):
        laid = model.rollout(inputs, 0).state[:, model.input_nodes]
    assert int((laid == 0).all(dim=2).all(dim=0).sum()) == 5


def test_zero_is_read_from_lost_output_ports(inputs) -> None:
    model = build(skip=True)
    with lesioned(model, LostPorts("outputs")):
        out = model(inputs)
    torch.testing.assert_close(out.embedding, inputs + model.decoder.bias)
    torch.testing.assert_close(out.state, model(inputs).state)
    with lesioned(model, LostPorts("outputs", 0.2, seed=1)):
        assert int((model(inputs).code == 0).all(dim=0).sum()) == 5


LEARNED = {
    "inputs": Ports("z-", Learned(count=5)), "outputs": Ports("z+", Learned(count=10)),
}  # fmt: skip


@pytest.mark.parametrize(
    "settings", [LEARNED, {"port_map": "bilinear", "code_shape": (3, 4)}], ids=["learned", "image"]
)
def test_ports_are_lost_as_ports_whatever_lies_between_them_and_cells_or_code(settings, inputs) -> None:
    model = build(**settings)
    ports = [ports.count(SPEC) for ports in (model.inputs, model.outputs)]
    with lesioned(model, LostPorts("inputs")):
        assert not model.rollout(inputs, 0).state.any()
    with lesioned(model, LostPorts("outputs")):
        assert not model(inputs).code.any()
    found = []
    for module, side in ((model.mapper, "inputs"), (model.exit, "outputs")):
        with lesioned(model, LostPorts(side, 0.4)):
            hook = module.register_forward_hook(lambda module, args, states: found.append(states))
            model(inputs)
            hook.remove()
    lost = [int((states == 0).all(dim=2).all(dim=0).sum()) for states in found]
    assert lost == [round(0.4 * count) for count in ports]


@pytest.mark.parametrize("tier", ["local", "functional", "distant"])
def test_the_edges_of_a_soft_tier_are_cut(tier, inputs) -> None:
    model, when = build(soft_tiers=0.2), When(2, once=True)
    lesion = TierEdges(tier)
    with lesioned(model, lesion, first=2, once=True):
        found = model(inputs).state
    torch.testing.assert_close(found, twin(model, inputs, lesion, when), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, model(inputs).state, rtol=1e-6, atol=1e-6)
    assert not model.cell.aggregator._forward_hooks


@pytest.mark.parametrize(
    ("lesion", "tolerance"),
    [(Sphere((2, 2, 2), 1.5), 1.0), (TierEdges("distant"), 0.9), (TierExpert("functional"), 1.1), (PORTS[0], 0.8)],
)
def test_a_lesioned_model_stops_by_itself(lesion, tolerance, inputs) -> None:
    model = build(stopping={"relative": {"tolerance": tolerance}, "max_steps": 12}, steps=4)
    with lesioned(model, lesion, Cells((7,))):
        out = model(inputs)
        assert len(out.steps.unique()) > 1, "samples leave at different steps"
        for row, steps in enumerate(out.steps.tolist()):
            alone = model.rollout(inputs[row : row + 1], steps)
            torch.testing.assert_close(out.state[row], alone.state[0], rtol=1e-10, atol=1e-10)
        free = model.rollout(inputs, stopping={"relative": {"tolerance": 1e-9}, "max_steps": 5})
        torch.testing.assert_close(free.state, model.rollout(inputs, 5, ports=25).state, rtol=1e-10, atol=1e-10)


def test_a_rollout_that_is_read_at_any_time_is_lesioned(model, inputs) -> None:
    with lesioned(model, Sphere((2, 2, 2), 1.5), TierExpert("functional"), first=1), torch.no_grad():
        run = model.begin(inputs)
        for steps in range(1, 4):
            assert torch.equal(run.step(), model.rollout(inputs, steps).state)


def test_a_blow_leaves_a_wave_nothing_to_remember(inputs) -> None:
    model = build(dynamics={"diffusion": {"rate": 0.1}, "wave": {"speed": 0.3, "damping": 0.1}})
    cells = Box((0, 0, 0), (5, 5, 5))
    with lesioned(model, cells, first=3, once=True):
        struck = model.rollout(inputs, 5, trajectory=True).trajectory
    empty = model.rollout(inputs, 2, start=torch.zeros(3, 125, 4, dtype=torch.float64), trajectory=True).trajectory
    assert struck is not None
    assert empty is not None
    assert struck[2].abs().max() > 0.1
    torch.testing.assert_close(struck[3:], empty)
    # Cells that are not struck keep their velocity: were all at rest, the same state would go on differently.
    with lesioned(model, Cells((0,)), first=3, once=True):
        whole = model.rollout(inputs, 4, trajectory=True).trajectory
    assert whole is not None
    resting = model.rollout(inputs, 1, start=whole[3]).state
    assert not torch.allclose(whole[4][:, 1:], resting[:, 1:])


def test_shapes_of_lesions() -> None:
    spec = LatticeSpec((8, 8, 8))
    assert int(Plane(2, 4).mask(spec).sum()) == 64
    hole = ~Plane(2, 4, opening=2).mask(spec) & (coordinates(spec)[:, 2] == 4)
    assert coordinates(spec)[hole].tolist() == [[3, 3, 4], [3, 4, 4], [4, 3, 4], [4, 4, 4]]
    assert not Plane(0, 1, opening=8).mask(spec).any()
    assert int(Box((0, 0, 0), (4, 4, 8)).mask(spec).sum()) == 128
    assert [int(Sphere((4, 4, 4), r).mask(spec).sum()) for r in (0, 1, 2**0.5, 3**0.5, 2)] == [1, 7, 19, 27, 33]
    assert int(Sphere((0, 0, 0), 1).mask(spec).sum()) == 4
    torus = LatticeSpec((8, 8, 8), boundary="periodic")
    assert int(Sphere((0, 0, 0), 1).mask(torus).sum()) == 7
    small, large = (RandomCells(part, seed=3).mask(spec) for part in (0.2, 0.5))
    assert (int(small.sum()), int(large.sum())) == (102, 256)
    assert not (small & ~large).any()
    morton = LatticeSpec((8, 8, 8), order="morton")
    assert set(coordinates(morton)[Plane(1, 3).mask(morton)][:, 1].tolist()) == {3}


def test_lesions_that_do_not_fit_are_refused(model, inputs, refuses) -> None:
    for lesion, *texts in (
        (Cells((125,)), "lie in 0 … 124", "125", "node_grid"),
        (Plane(3, 0), "across axis 0, 1 or 2", "axis 3", "count layers from 0"),
        (Plane(0, 5), "across axis 0, 1 or 2", "index 5", "count layers from 0"),
        (Plane(0, 0, 6), "from 0 to the layer's longer side", "6", "smaller"),
        (Sphere((0, 0, 0), -1), "a radius of at least 0", "-1", "Sphere("),
        (Box((0, 0, 3), (2, 2, 6)), "lies in the lattice", "(2, 2, 6)", "inside"),
        (TierEdges("distal"), "must be one that", "'distal'", "Did you mean 'distant'?"),
        (TierEdges("local"), "must reach other cells", "local", "silence its expert"),
    ):
        with refuses(*texts), lesioned(model, lesion):
            pass
    with refuses("for a whole rollout", "first 3", "silence the ports' cells"), lesioned(model, PORTS[0], first=3):
        pass
    with refuses("at least 0", "-1", "first=0"):
        When(-1)
    with refuses("from 0 to 1", "1.2", "0.25"):
        RandomCells(1.2)
    with refuses("inputs or outputs", "'top'", "choose one"):
        LostPorts("top")
    assert not {"begin", "rollout"} & set(vars(model))
