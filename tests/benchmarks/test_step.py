"""The training step's variants are what they are called, and the claims are judged on the right ones."""

import math

import pytest
import torch

from latticegnn.aggregate.product import linear
from latticegnn.benchmarks import peer, scaling, step
from latticegnn.lattice import LatticeSpec, edge_count
from latticegnn.nn import FusedStep, LatticeCell

TINY = step.Case(4, 6, shape=(3, 4, 5), batch=2, steps=2)


@pytest.fixture
def eager(monkeypatch) -> None:
    """A machine without a compiler: nothing waits for one."""
    for module in (step, peer):
        monkeypatch.setattr(module, "compiler", lambda device: None)


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Profiles in this process, at sizes that take no time."""
    for module in (step, peer, scaling):
        monkeypatch.setattr(module, "alone", lambda function, cold=False, **arguments: function(**arguments))


def finite(row) -> bool:
    numbers = [value for value in row.values() if isinstance(value, (int, float))]
    return len(numbers) >= 3 and all(math.isfinite(number) for number in numbers)


def test_a_row_a_variant(eager, in_process) -> None:
    table, claims = step.compare(TINY, rounds=1, memory=True)
    names = {row["variant"] for row in table.rows}
    assert names == {step.EDGE, step.READABLE, step.EAGER, step.BARE, step.BARE_ONEDNN}
    assert all(map(finite, table.rows))
    by_name = {row["variant"]: row for row in table.rows}
    assert by_name[step.BARE]["÷ torch.mm"] == by_name[step.BARE_ONEDNN]["÷ oneDNN"] == 1
    assert len(claims) == 1  # nothing is claimed for this size but that it beats PyG's default


def test_claims_of_a_step() -> None:
    times = {step.EDGE: 27.0, step.EAGER: 28.1, step.COMPILED: 10.0, step.BARE: 10.0, step.BARE_ONEDNN: 5.0}
    faster, compiled, eager = step.judge(step.Case(32, 64), times)
    assert (faster.measured, faster.holds) == (2.7, True)
    assert (compiled.measured, compiled.limit, compiled.holds) == (1.0, 2.0, True)
    assert (eager.measured, eager.limit, eager.holds) == (pytest.approx(2.81), 2.8, False)
    assert [claim.limit for claim in step.judge(step.Case(16, 32), times)] == [2.7, 2.4, 2.8]


def test_every_variant_takes_the_same_step(monkeypatch) -> None:
    """Seen at the optimiser: the gradients of all variants agree."""
    found = {}
    for variant in (step.EDGE, step.READABLE, step.EAGER):
        grads: list[torch.Tensor] = []

        class Recorder(torch.optim.AdamW):
            def step(self, grads=grads):
                grads += [p.grad.clone() for group in self.param_groups for p in group["params"]]

        monkeypatch.setattr(torch.optim, "AdamW", Recorder)
        step.training_step(variant, TINY)()
        found[variant] = grads
    for variant in (step.READABLE, step.EAGER):
        for grad, expected in zip(found[variant], found[step.EDGE], strict=True):
            torch.testing.assert_close(grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rows", [7, 1 << 30])
def test_bare_products_are_those_of_the_fused_step(monkeypatch, rows) -> None:
    """The same multiplications, however the rows are cut."""

    def counted(work: list[int]):
        def product(x, weight):
            work.append(x.shape[0] * x.shape[1] * len(weight))
            return linear(x, weight)

        return product

    bare: list[int] = []
    step.bare_products(TINY, counted(bare), rows)()
    ours: list[int] = []
    monkeypatch.setattr("latticegnn.nn.fused.linear", counted(ours))
    cell = LatticeCell(LatticeSpec(TINY.shape), TINY.channels, TINY.hidden)
    x = torch.randn(60, 2, 4).requires_grad_()
    advance = FusedStep(cell, rows=min(rows, 120)).bind()
    advance(advance(x)).sum().backward()
    assert sorted(bare) == sorted(ours)
    assert len(bare) == 2 * 3 * 3 * -(-120 // min(rows, 120))  # steps, products of a weight, weights


def test_bf16_is_near_float32() -> None:
    assert 0 < step.bf16_error(TINY) < 0.05


def test_peers_have_the_same_neighbourhood_and_size() -> None:
    spec = LatticeSpec((3, 3, 3), radii=peer.RADII, boundary="periodic")
    assert sum(edge_count(spec).values()) == 27 * 27
    ours = sum(p.numel() for p in peer._cell(peer.hidden()).parameters())
    theirs = sum(p.numel() for p in peer.ConvAutomaton().parameters())
    assert abs(ours - theirs) <= 0.02 * theirs
    x = torch.randn(1, 16, 3, 4, 5).contiguous(memory_format=torch.channels_last_3d)
    assert peer.ConvAutomaton()(x).is_contiguous(memory_format=torch.channels_last_3d)


def test_peer_rows_and_claims(eager, in_process) -> None:
    case = peer.Case(3, 1, 2)
    times = {case: peer.compare(case, rounds=1)}
    profiles = {case: {name: peer.profile(name, **vars(case)) for name in times[case]}}
    table = peer.table(times, profiles)
    assert [row["variant"] for row in table.rows] == [peer.CONV, peer.OURS_EAGER]
    assert all(map(finite, table.rows))
    assert len(peer.judge(times, profiles)) == 2


def test_peer_claims_are_judged_on_one_configuration_against_the_better_peer() -> None:
    case = peer.Case(8, 8, 5)
    times = {peer.CONV: 10.0, peer.CONV_COMPILED: 8.0, peer.OURS_EAGER: 1.0, peer.OURS: 1.0, peer.OURS_RECOMPUTE: 12.0}
    peaks = {peer.CONV: 50, peer.CONV_COMPILED: 60, peer.OURS_EAGER: 1, peer.OURS: 1, peer.OURS_RECOMPUTE: 40}
    profiles = {name: {"peak_bytes": peak, "first_seconds": 1.0} for name, peak in peaks.items()}
    time, memory = peer.judge({case: times}, {case: profiles})
    assert (time.measured, time.holds) == (1.5, False)
    assert (memory.measured, memory.holds) == (0.8, True)
    profiles[peer.CONV]["peak_bytes"] = None
    assert not peer.judge({case: times}, {case: profiles})[1].holds


def test_scaling_rows_and_claims(eager) -> None:
    cases = (scaling.Case(5, local=True, train=True, checkpoint=True), scaling.Case(6, True, train=False, steps=2))
    profiles = {case: scaling.profile(**vars(case)) for case in cases}
    assert [(found["steps"], found["needed"]) for found in profiles.values()] == [(4, 4), (2, 5)]
    table = scaling.model_table(profiles)
    assert [row["steps"] for row in table.rows] == ["4", "2 of 5 needed"]
    assert all(map(finite, table.rows))
    trained, inferred = scaling.judge({cases[0]: {"peak_bytes": 4.1e9}, cases[1]: {"peak_bytes": 4.1e9}})
    assert (trained.holds, inferred.holds, trained.limit) == (False, True, 4.0)


def test_messages_of_pyg_are_counted_from_offsets() -> None:
    spec = LatticeSpec((4, 4, 4), radii=(0.5, 1.0, 1.5))
    edges = sum(edge_count(spec).values()) - 64
    assert scaling.message_bytes(spec, batch=2, channels=3) == edges * 4 * 3 * 2 * 4


def test_cost_of_a_cell_by_size(eager) -> None:
    table, claim = scaling.cell_cost((3, 4), 4, 6, steps=1, rounds=1)
    assert [row["batch"] for row in table.rows] == [2, 1]
    costs = [row["µs a cell-step"] for row in table.rows]
    assert claim.measured == pytest.approx(max(costs) / min(costs))
    assert table.rows[1]["at batch 1"] == costs[1]
