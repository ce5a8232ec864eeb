"""Stopping: patience and limits, settings by name, and rollouts whose samples end one by one."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latticegnn as lg
from latticegnn.nn import Absolute, Combined, Energy, Halting, Relative, Statistical, Stopping, build_stopping

SPEC = lg.LatticeSpec((3, 3, 5), radii=(0.5, 1.0, 1.5))
PORTS = (lg.Ports(face="z-"), lg.Ports(face="z+"))
MODES = {
    "plain": None,
    "diffusion": {"diffusion": {"rate": 0.2}},
    "wave": {"wave": {"speed": 0.2, "damping": 0.6}},
    "stochastic": {"stochastic": {"probability": 0.7}},
}
RULES = {
    "absolute": {"absolute": {"tolerance": 0.06}},
    "largest": {"absolute": {"tolerance": 0.2, "norm": "max"}, "patience": 2},
    "relative": {"relative": {"tolerance": 0.06}, "patience": 2},
    "adaptive": {"relative": {"tolerance": 0.1, "adaptive": True}},
    "energy": {"energy": {"tolerance": 0.03}},
    "spatial_gradient": {"spatial_gradient": {"tolerance": 0.03}},
    "statistical": {"statistical": {"window": 4, "tolerance": 0.05}},
    "combined": {"combined": {"relative": {"tolerance": 0.06}, "energy": {"tolerance": 0.02}, "absolute": {}}},
    "halting": {"halting": {"prior": 0.1}},
}


def build(given: dict) -> Stopping:
    return build_stopping(given, SPEC, *PORTS, channels=4, steps=30)


def make(rule: dict | None = None, mode: str = "plain", clamp: bool = True, **more) -> lg.LatticeModel:
    given = {"embedding_dim": 12, "channels": 4, "hidden": 4, "steps": 5} | more
    rule = None if rule is None else {"max_steps": 30} | rule
    model = lg.LatticeModel(SPEC, dynamics=MODES[mode], clamp=clamp, stopping=rule, **given).double().eval()
    if rule is not None and isinstance(model.stopping.criterion, Halting):
        torch.nn.init.normal_(
            model.stopping.criterion.score.weight, std=0.05, generator=torch.Generator().manual_seed(0)
        )
    return model


def embeddings(rows: int = 6) -> Tensor:
    """Rows of very different scale, so that they end at different steps."""
    scale = torch.logspace(-1, 1, rows, dtype=torch.float64).unsqueeze(1)
    return scale * torch.randn(rows, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_patience_and_limits() -> None:
    satisfied = [1, 0, 1, 1, 0, 1, 1, 1, 1]
    moves = torch.tensor([0.0 if s else 1.0 for s in satisfied]).cumsum(0)

    def ends(**limits: int) -> list[int]:
        rule = Stopping(Absolute(0.5), **{"min_steps": 1, "max_steps": 9, "patience": 1} | limits)
        memory, told = rule.start(torch.zeros(1, 1, 1)), []
        for taken, place in enumerate(moves, 1):
            done, memory = rule(place.reshape(1, 1, 1), memory, taken)
            if bool(done):
                told.append(taken)
        return told

    assert ends() == [1, 3, 4, 6, 7, 8, 9]
    assert ends(patience=2) == [4, 7, 8, 9]
    assert ends(patience=3) == [8, 9]
    assert ends(min_steps=4, patience=2) == [4, 7, 8, 9], "steps before the fewest count for patience"
    assert ends(min_steps=5) == [6, 7, 8, 9]


def test_settings_build_what_they_say() -> None:
    rule = build({"relative": {"tolerance": 0.002, "adaptive": True}, "patience": 2, "min_steps": 8, "max_steps": 24})
    assert isinstance(rule.criterion, Relative)
    assert (rule.criterion.tolerance, rule.criterion.adaptive) == (0.002, True)
    assert (rule.min_steps, rule.max_steps, rule.patience) == (8, 24, 2)
    assert (build({"energy": {}}).min_steps, build({"energy": {}}).max_steps) == (4, 30), "light cone, and T"
    several = build({"combined": {"at_least": 3, "absolute": {}, "energy": {}, "statistical": {"window": 6}}})
    assert isinstance(several.criterion, Combined)
    assert [type(part) for part in several.criterion.criteria] == [Absolute, Energy, Statistical]
    assert several.criterion.tolerance == 0.5
    free = build_stopping({"energy": {}}, lg.LatticeSpec((3, 3, 3)), *PORTS, 4, 5, require_light_cone=False)
    assert free.min_steps == 1


@pytest.mark.parametrize(
    ("given", "rule", "received", "remedy"),
    [
        ({"relativ": {}}, "a criterion is one of absolute, relative", "'relativ'", "Name one of these"),
        ({}, "names one criterion of absolute", "got none", "name one"),
        ({"energy": {}, "relative": {}}, "names one criterion of absolute", "energy, relative", "within combined"),
        ({"energy": 0.1}, "settings of stopping are mappings", "0.1 for energy", "write energy: {…}"),
        ("energy", "settings of stopping are mappings", "'energy'", "write stopping: {…}"),
        ({"energy": {"level": 1}}, "energy takes tolerance, adaptive", "'level'", "use these names"),
        ({"spatial_gradient": {"spec": 1}}, "spatial_gradient takes tolerance", "'spec'", "use these names"),
        ({"combined": {"halting": {}, "energy": {}}}, "within combined is one of", "'halting'", "Name one of these"),
        ({"energy": {}, "patience": 0}, "stopping.patience must be a whole number", "got 0", "1 or more"),
        ({"energy": {}, "max_steps": 8.5}, "stopping.max_steps must be a whole number", "got 8.5", "1 or more"),
        ({"energy": {}, "min_steps": 9, "max_steps": 8}, "at least stopping.min_steps", "8 and 9", "raise the first"),
        ({"energy": {}, "min_steps": 3}, "inside the input ports' light cone", "steps=3", "Set steps to 4 or more"),
        ({"halting": {"prior": 1.0}}, "a probability between 0 and 1", "got 1.0", "0.1 means"),
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(given, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build(given)


@pytest.mark.parametrize("name", RULES)
def test_samples_end_where_a_rollout_of_each_alone_satisfies_the_rule(name) -> None:
    """The twin: all states of all samples, judged afterwards one by one."""
    model, e = make(RULES[name]), embeddings()
    out = model.rollout(e, trajectory=True)
    whole = model.rollout(e, steps=30, trajectory=True).trajectory
    for b in range(len(e)):
        memory, end = model.stopping.start(whole[0, b : b + 1]), None
        for taken in range(1, 31):
            done, memory = model.stopping(whole[taken, b : b + 1], memory, taken)
            if bool(done):
                end = taken
                break
        assert (int(out.steps[b]), bool(out.settled[b])) == (end or 30, end is not None)
        last = int(out.steps[b])
        torch.testing.assert_close(out.state[b], whole[last, b], rtol=1e-12, atol=1e-12)
        alone = model.rollout(e[b : b + 1], steps=last)
        torch.testing.assert_close(out.embedding[b], alone.embedding[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out.code[b], alone.code[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(out.trajectory[:last, b], whole[:last, b], rtol=1e-12, atol=1e-12)
        assert torch.equal(out.trajectory[last:, b], out.state[b].expand(len(out.trajectory) - last, 45, 4))
    assert len(out.trajectory) == int(out.steps.max()) + 1
    assert len(set(out.steps.tolist())) > 1, "a test of samples that end together shows nothing"


@given(
    st.sampled_from(list(RULES)),
    st.sampled_from(list(MODES)),
    st.booleans(),
    st.lists(st.integers(0, 5), min_size=1, max_size=7),
)
@settings(deadline=None, max_examples=60)
def test_a_sample_never_hangs_on_its_batch(name, mode, clamp, rows) -> None:
    model, e = make(RULES[name], mode, clamp), embeddings()
    with torch.no_grad():
        out, mixed = model.rollout(e), model.rollout(e[rows])
    assert torch.equal(mixed.steps, out.steps[rows])
    assert torch.equal(mixed.settled, out.settled[rows])
    torch.testing.assert_close(mixed.state, out.state[rows], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixed.embedding, out.embedding[rows], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["plain", "wave"])
def test_who_has_ended_is_computed_no_more(mode) -> None:
    model = make(RULES["spatial_gradient"], mode, execution="reference")
    rows = []
    model.cell.experts["local"].register_forward_hook(lambda module, given, out: rows.append(given[0].shape[1]))
    out = model.rollout(embeddings())
    assert rows == [int((out.steps >= k).sum()) for k in range(1, int(out.steps.max()) + 1)]
    assert rows[0] == 6 > rows[-1]
    assert sum(rows) == int(out.steps.sum())


@pytest.mark.parametrize("execution", ["reference", "fused"])
def test_gradients_flow_through_samples_that_ended(execution) -> None:
    """They are those of each sample's own number of steps."""
    model, e = make(RULES["spatial_gradient"], "wave", execution=execution), embeddings()
    out = model.rollout(e)
    assert len(set(out.steps.tolist())) > 2
    out.embedding.square().sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for b, steps in enumerate(out.steps.tolist()):
        model.rollout(e[b : b + 1], steps=steps).embedding.square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-9, atol=1e-9)


def test_the_rule_acts_in_evaluation_and_where_it_is_passed() -> None:
    model, e = make(RULES["absolute"]), embeddings()
    assert model(e).settled is not None
    assert len(set(model(e).steps.tolist())) > 1
    fixed = model.rollout(e, steps=7)
    assert (fixed.steps.tolist(), fixed.settled) == ([7] * 6, None)
    model.train()
    assert (model(e).steps.tolist(), model(e).settled) == ([5] * 6, None)
    passed = model.rollout(e, stopping=model.stopping)
    assert torch.equal(passed.steps, model.eval()(e).steps)
    none = make()
    assert none(e).settled is None
    assert torch.equal(none.rollout(e, stopping={**RULES["absolute"], "max_steps": 30}).steps, passed.steps)
    never = model.rollout(e, stopping={"absolute": {"tolerance": 1e-12}, "max_steps": 9})
    assert (never.steps.tolist(), never.settled.tolist()) == ([9] * 6, [False] * 6)


def test_no_samples_at_all() -> None:
    out = make(RULES["relative"]).rollout(embeddings()[:0], trajectory=True)
    assert (out.embedding.shape, out.steps.shape, out.settled.shape) == ((0, 12), (0,), (0,))
    assert out.trajectory.shape == (1, 0, 45, 4)


def test_a_rollout_may_go_on_from_where_samples_ended() -> None:
    model, e = make(RULES["absolute"]), embeddings()
    out = model.rollout(e)
    later = model.rollout(e, steps=3, start=out.state)
    for b, steps in enumerate(out.steps.tolist()):
        alone = model.rollout(e[b : b + 1], steps=steps + 3)
        torch.testing.assert_close(later.state[b], alone.state[0], rtol=1e-12, atol=1e-12)


def test_what_excludes_stopping_is_refused(refuses) -> None:
    model, e = make(RULES["absolute"]), embeddings()
    with refuses("steps and stopping exclude each other", "steps=3", "drop one"):
        model.rollout(e, steps=3, stopping=model.stopping)
    with refuses("an intervention acts on all samples", "got both", "give steps"):
        model.rollout(e, intervene=lambda state, taken: state)
    assert model.rollout(e, steps=3, intervene=lambda state, taken: 0 * state).state.abs().sum() == 0
    with refuses("a halting head is learned with its model", "'prior': 0.1", "build the model with it"):
        model.rollout(e, stopping=RULES["halting"])
    for gradient, name in (("implicit", "implicit"), ({"truncated": {"steps": 2}}, "truncated")):
        other = make(RULES["absolute"], gradient=gradient, clamp=True).train()
        with refuses("the gradient through all of their steps", f"gradient: {name}", "give steps"):
            other.rollout(e, stopping=RULES["absolute"])
        assert other.eval()(e).settled is not None
        with torch.no_grad():
            assert other.train().rollout(e, stopping=RULES["absolute"]).settled is not None


@pytest.mark.parametrize("name", ["combined", "halting"])
def test_a_rule_is_saved_with_its_model(name, tmp_path) -> None:
    model, e = make(RULES[name]), embeddings()
    model.save_pretrained(tmp_path)
    again = lg.LatticeModel.from_pretrained(tmp_path).double()
    assert again.settings == model.settings
    ours, theirs = model(e), again(e)
    assert torch.equal(ours.steps, theirs.steps)
    torch.testing.assert_close(theirs.embedding, ours.embedding)


def test_a_head_that_is_certain_halts_as_soon_as_the_output_ports_can_have_been_reached() -> None:
    model = make(RULES["halting"])
    model.stopping.criterion.score.bias.data.fill_(200.0)
    assert model(embeddings()).steps.tolist() == [lg.steps_needed(SPEC, *PORTS)] * 6
