"""Learned ports, the router of zones, and reading the first ports: closed forms, gradients, refusals."""

import pytest
import torch

from latticegnn.lattice import LatticeSpec, Learned, Nested, Ports, Random, coordinates
from latticegnn.nn import InputSurface, OutputSurface, SoftPorts, ZoneRouter

SPEC = LatticeSpec((4, 3, 5))


def soft(count: int = 5, width: float = 0.8, face: str = "z+") -> SoftPorts:
    made = OutputSurface(SPEC, Ports(face, Learned(count, width))).soft
    assert made is not None
    return made.double()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("face", ["x-", "y+", "z+"])
def test_learned_ports_start_at_the_nested_ones(face) -> None:
    start = coordinates(SPEC)[Ports(face, Nested(5)).nodes(SPEC)]
    torch.testing.assert_close(soft(face=face).places(), start.double())


def test_the_kernel_is_that_of_its_definition() -> None:
    ports = soft()
    with torch.no_grad():
        ports.position += 0.3 * draw(5, 2)
    cells, places = ports.cells.tolist(), ports.places().tolist()
    for row, place in zip(ports.kernel().tolist(), places, strict=True):
        plain = [2.718281828459045 ** (-sum((a - b) ** 2 for a, b in zip(place, c, strict=True)) / 1.28) for c in cells]
        length = sum(g * g for g in plain) ** 0.5
        assert row == pytest.approx([g / length for g in plain])


def test_a_narrow_port_is_the_cell_it_lies_on() -> None:
    ports, states = soft(width=0.05), draw(2, 5, 3)
    written = ports.write(states)
    torch.testing.assert_close(written[:, :5], states)  # the nodes begin with the starts
    torch.testing.assert_close(written[:, 5:], torch.zeros(2, 7, 3).double())
    torch.testing.assert_close(ports.read(written), states)


def test_a_port_alone_reads_back_what_it_wrote_wherever_it_is() -> None:
    ports, states = soft(count=1), draw(2, 1, 3)
    with torch.no_grad():
        ports.position += torch.tensor([0.37, -0.81])
    torch.testing.assert_close(ports.read(ports.write(states)), states)


def test_ports_stay_on_the_face_whatever_training_does() -> None:
    ports = soft()
    with torch.no_grad():
        ports.position += 50 * draw(5, 2)
    places = ports.places()
    assert torch.equal(places[:, 2], torch.full((5,), 4.0).double())
    assert bool(((places >= 0) & (places <= torch.tensor([3.0, 2.0, 4.0]))).all())
    assert len(places.unique(dim=0)) == 5


def test_positions_at_the_edge_are_folded_back() -> None:
    ports = soft(count=1)
    with torch.no_grad():
        ports.position.copy_(torch.tensor([[1.25, -1.5]]))
    assert ports.places().tolist() == [[1.5 + 1.5 * 0.75, 1 - 0.5, 4]]


def test_a_face_of_one_row_has_one_free_axis() -> None:
    made = InputSurface(LatticeSpec((5, 1, 4)), Ports("z-", Learned(3)), 6).soft
    assert made is not None
    assert made.position.shape == (3, 1)
    assert made.places()[:, 1:].abs().max() == 0


def test_gradients_of_states_and_positions() -> None:
    ports, states = soft(count=3), draw(2, 3, 2).requires_grad_()
    cells = draw(2, 12, 2).requires_grad_()
    place = (0.5 * draw(3, 2)).requires_grad_()  # off the edges, where folding has a kink

    def write(states: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_Call(ports, "write"), {"ports.position": position}, (states,))

    def read(cells: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(_Call(ports, "read"), {"ports.position": position}, (cells,))

    assert torch.autograd.gradcheck(write, (states, place))
    assert torch.autograd.gradcheck(read, (cells, place))


class _Call(torch.nn.Module):
    """A method of learned ports as a module's forward pass."""

    def __init__(self, ports: SoftPorts, method: str) -> None:
        super().__init__()
        self.ports, self.method = ports, method

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self.ports, self.method)(x)


def test_a_port_finds_the_cell_that_it_is_trained_to_read() -> None:
    ports = soft(count=1, width=1.0)
    goal = torch.tensor([2.0, 2.0, 4.0]).double()
    cells = torch.exp(-(ports.cells - goal).square().sum(1) / 2)[None, :, None]
    optimizer = torch.optim.Adam(ports.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (-ports.read(cells).sum()).backward()
        optimizer.step()
    torch.testing.assert_close(ports.places()[0], goal, atol=0.05, rtol=0)


def test_a_router_starts_as_if_it_were_not_there_and_then_weighs_zones() -> None:
    zone = torch.tensor([0, 0, 1, 2, 3, 3])
    router, states, embedding = ZoneRouter(4, zone).double(), draw(2, 6, 3), draw(2, 4)
    torch.testing.assert_close(router(states, embedding), states)
    with torch.no_grad():
        router.gate.weight.copy_(draw(4, 4))
        router.gate.bias.copy_(draw(4))
    scores = (embedding @ router.gate.weight.T + router.gate.bias).exp()
    for sample in range(2):
        for port in range(6):
            factor = 4 * scores[sample, zone[port]] / scores[sample].sum()
            torch.testing.assert_close(router(states, embedding)[sample, port], factor * states[sample, port])
    assert torch.autograd.gradcheck(router, (states.requires_grad_(), embedding.requires_grad_()))


def test_a_router_learns_to_tell_kinds_of_content_apart() -> None:
    router = ZoneRouter(2, torch.arange(4))
    kinds = torch.tensor([0, 1, 2, 3]).repeat(8)
    content = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])[kinds]
    optimizer = torch.optim.Adam(router.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        laid = router(torch.ones(len(kinds), 4, 1), content)[:, :, 0]
        (-laid[torch.arange(len(kinds)), kinds].log().mean()).backward()
        optimizer.step()
    assert torch.equal(router.weights(content).argmax(1), kinds)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_ports_are_kept_and_the_others_zero(channels) -> None:
    surface, read = OutputSurface(SPEC, Ports("z+", Nested(6))), draw(2, 6 * channels)
    kept = surface.keep(read, 4)
    assert torch.equal(kept[:, : 4 * channels], read[:, : 4 * channels])
    assert float(kept[:, 4 * channels :].abs().max()) == 0
    assert torch.equal(surface.keep(read), read)
    assert torch.equal(surface.keep(read, 6), read)


def test_training_draws_prefixes_evenly_from_the_seeded_generator() -> None:
    surface = OutputSurface(SPEC, Ports("z+", Nested(6)), [1, 3, 6])

    def lengths() -> list[int]:
        torch.manual_seed(0)
        return [int(surface.keep(torch.ones(1, 6)).sum()) for _ in range(600)]

    drawn = lengths()
    assert drawn == lengths()
    assert all(150 < drawn.count(k) < 250 for k in (1, 3, 6))
    surface.eval()
    assert set(lengths()) == {6}


def test_without_prefixes_nothing_is_drawn() -> None:
    state = torch.get_rng_state()
    OutputSurface(SPEC, Ports("z+")).keep(torch.ones(1, 12))
    assert torch.equal(state, torch.get_rng_state())


NESTED = Ports("z+", Nested(6))


@pytest.mark.parametrize(
    ("build", "rule", "received", "remedy"),
    [
        (lambda: OutputSurface(SPEC, NESTED, [2, 4]), "end with all of them, 6", "[2, 4]", "[1, 3, 6]"),
        (lambda: OutputSurface(SPEC, NESTED, [4, 2, 6]), "rising", "[4, 2, 6]", "[1, 3, 6]"),
        (lambda: OutputSurface(SPEC, NESTED, []), "rising", "[]", "[1, 3, 6]"),
        (lambda: OutputSurface(SPEC, NESTED, [2.5, 6]), "whole numbers", "[2.5, 6]", "[1, 3, 6]"),
        (lambda: OutputSurface(SPEC, NESTED, [0, 6]), "whole number from 1 to 6", "got 0", "take one"),
        (lambda: OutputSurface(SPEC, NESTED).keep(torch.ones(1, 6), 7), "from 1 to 6", "got 7", "take one"),
        (
            lambda: OutputSurface(SPEC, Ports("z+", Random(6)), [3, 6]),
            "ports in an order", "3 of 6 ports", "placement: nested",
        ),
    ],
)  # fmt: skip
def test_refusals(build, rule, received, remedy, refuses) -> None:
    with refuses(rule, received, remedy):
        build()
