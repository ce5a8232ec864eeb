"""A packed rollout, unpacked, is the rollout; what is left out is said."""

import base64
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latticegnn.lattice import LatticeSpec, Ports, hops
from latticegnn.model import LatticeModel
from latticegnn.report.playback import DECADES, kept_planes, log_bytes, pack_rollout

SPEC = LatticeSpec((3, 4, 5), radii=(0.5, 1.0, 1.5), order="morton")


@pytest.fixture(scope="module")
def model() -> LatticeModel:
    return LatticeModel(SPEC, embedding_dim=6, channels=4, hidden=4, steps=6, seed=2).eval()


@pytest.fixture(scope="module")
def inputs() -> torch.Tensor:
    return torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def unpacked(packed: dict, name: str, kind: str, *width: int) -> np.ndarray:
    values = np.frombuffer(base64.b64decode(packed[name]), kind)
    counts = [len(plane) for plane in packed["planes"]]
    rows = () if name in ("arrival", "ports") else (len(packed["ended"]), packed["steps"] + 1)
    return values.reshape(*rows, *counts, *width)


def test_what_is_unpacked_is_what_the_model_does(model, inputs) -> None:
    packed = pack_rollout(model, inputs, torch.zeros(6))
    twin = model.rollout(torch.cat([inputs, torch.zeros(1, 6)]), trajectory=True).trajectory.detach()
    place = {tuple(at): node for node, at in enumerate(model.graph.pos.long().tolist())}
    signal, state = unpacked(packed, "signal", "u1"), unpacked(packed, "state", "i1", 4)
    gate = unpacked(packed, "gate", "u1", 3)
    for (x, y, z), node in place.items():
        for row, step in ((0, 0), (1, 3), (2, 6)):
            own, other = twin[step, row, node].double(), twin[step, 3, node].double()
            wanted = float((own - other).square().mean().sqrt())
            byte = int(signal[row, step, x, y, z])
            found = packed["top"] * 10 ** (DECADES * ((byte - 1) / 254 - 1)) if byte else 0.0
            assert found == pytest.approx(wanted, rel=0.02, abs=packed["top"] * 1.02 * 10**-DECADES)
            half = np.array(packed["scale"]) / 254
            assert (np.abs(state[row, step, x, y, z] * half * 2 - own.numpy()) <= half * 1.001).all()
            weights = model.cell.gates(twin[step, row : row + 1])[0, node].detach().numpy()
            assert gate[row, step, x, y, z] / 255 == pytest.approx(weights, abs=0.002)
    usage = torch.stack([model.cell.gates(states[:3]).mean(dim=(0, 1)) for states in twin])
    assert torch.tensor(packed["usage"]).numpy() == pytest.approx(usage.detach().numpy(), abs=1e-6)
    assert packed["experts"] == ["local", "functional", "distant"]


def test_ports_and_light_cone_are_the_lattices(model, inputs) -> None:
    packed = pack_rollout(model, inputs, torch.zeros(6))
    ports, arrival = unpacked(packed, "ports", "u1"), unpacked(packed, "arrival", "<i2")
    assert (ports[:, :, 0] == 1).all()
    assert (ports[:, :, 4] == 2).all()
    assert (ports[:, :, 1:4] == 0).all()
    node = {tuple(at): k for k, at in enumerate(model.graph.pos.long().tolist())}
    cone = hops(SPEC, Ports(face="z-").nodes(SPEC))
    assert all(arrival[at] == cone[k] for at, k in node.items())
    signal = unpacked(packed, "signal", "u1")
    for step in range(7):
        assert not signal[:, step][:, arrival > step].any()
    assert signal[:, 6].any(axis=(1, 2, 3)).all()


def test_a_rule_that_ends_rows_lets_the_page_go_on_to_the_last_of_them(inputs) -> None:
    rule = {"relative": {"tolerance": 0.5}, "patience": 1, "max_steps": 12}
    model = LatticeModel(SPEC, embedding_dim=6, channels=4, hidden=4, steps=6, stopping=rule, seed=2).eval()
    ended = model(torch.cat([inputs, torch.zeros(1, 6)])).steps[:3].tolist()
    packed = pack_rollout(model, inputs, torch.zeros(6))
    assert packed["ended"] == ended
    assert packed["steps"] == max(ended) < 12
    assert len(unpacked(packed, "signal", "u1")[0]) == max(ended) + 1


def test_over_the_budget_planes_are_left_out_but_never_a_face(model, inputs) -> None:
    whole = pack_rollout(model, inputs, torch.zeros(6))
    part = pack_rollout(model, inputs, torch.zeros(6), budget=6000)
    assert part["planes"] == [[0, 1, 2], [0, 2, 3], [0, 2, 4]]
    packed = sum(len(base64.b64decode(part[name])) for name in ("signal", "state", "gate", "arrival", "ports"))
    assert 3000 < packed <= 6000
    kept = np.ix_(range(3), range(7), *part["planes"])
    assert (unpacked(part, "state", "i1", 4) == unpacked(whole, "state", "i1", 4)[kept]).all()
    assert {key: part[key] for key in ("usage", "top", "scale")} == {
        key: whole[key] for key in ("usage", "top", "scale")
    }


@given(shape=st.tuples(*[st.integers(1, 40)] * 3), most=st.integers(8, 5000))
def test_kept_planes_are_different_hold_both_ends_and_fit(shape, most) -> None:
    planes = [plane.tolist() for plane in kept_planes(shape, most)]
    assert math.prod(len(plane) for plane in planes) <= most
    for plane, length in zip(planes, shape, strict=True):
        assert plane == sorted(set(plane))
        assert (plane[0], plane[-1]) == (0, length - 1)


@given(share=st.floats(0, 1))
def test_a_byte_tells_a_signal_to_two_percent(share) -> None:
    byte = int(log_bytes(torch.tensor(share, dtype=torch.float64)))
    assert (byte == 0) == (share < 10**-DECADES)
    if byte:
        assert 10 ** (DECADES * (byte - 255) / 254) == pytest.approx(share, rel=0.0185)


def test_a_rollout_without_a_signal_or_with_an_infinite_one_is_refused(model, inputs, refuses) -> None:
    with refuses("finite, and more than rounding", " over 6 steps", "choose other rows"):
        pack_rollout(model, inputs[:1], inputs[0])
    with refuses("finite, and more than rounding", "nan over 6 steps", "choose other rows"):
        pack_rollout(model, inputs * 1e38, inputs[0])
