"""A whole model with zones, learned ports, and the first ports of an order."""

import pytest
import torch

from latticegnn.lattice import LatticeSpec, Learned, Nested, Ports, Zones
from latticegnn.model import LatticeModel

SPEC = LatticeSpec((4, 4, 5), radii=(0.5, 1.0, 1.5), order="morton")
D = 10


def make(**settings) -> LatticeModel:
    return LatticeModel(SPEC, **{"embedding_dim": D, "channels": 3, "hidden": 4, "steps": 5} | settings)


def embeddings(rows: int = 3) -> torch.Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(0))


def test_zones_start_as_the_full_face() -> None:
    zoned, full = make(inputs=Ports("z-", "zones")), make()
    torch.testing.assert_close(zoned(embeddings()).state, full(embeddings()).state)


def test_narrow_learned_ports_are_nested_ports() -> None:
    soft = make(inputs=Ports("z-", Learned(6, 0.05)), outputs=Ports("z+", Learned(6, 0.05)))
    hard = make(inputs=Ports("z-", Nested(6)), outputs=Ports("z+", Nested(6)))
    first, second = soft(embeddings()), hard(embeddings())
    assert first.code.shape == (3, 6)
    torch.testing.assert_close(first.state, second.state)
    torch.testing.assert_close(first.embedding, second.embedding)


@pytest.mark.parametrize(
    ("settings", "parameters"),
    [
        ({"inputs": Ports("z-", Zones(3))}, ["entry.router.gate.weight", "entry.router.gate.bias"]),
        (
            {"inputs": Ports("z-", Learned(5)), "outputs": Ports("z+", Learned(4))},
            ["entry.soft.position", "exit.soft.position"],
        ),
    ],
    ids=["zones", "learned"],
)
def test_training_moves_what_they_learn(settings, parameters) -> None:
    model = make(**settings)
    model.fit_maps(embeddings(30), embeddings(30))
    with torch.no_grad():
        model.entry.load_state_dict({k: v + 0.1 for k, v in model.entry.state_dict().items()})
    (model(embeddings()).embedding - embeddings()).square().sum().backward()
    named = dict(model.named_parameters())
    assert {name for name in named if name.startswith(("entry", "exit"))} == set(parameters)
    for name in parameters:
        assert float(named[name].grad.abs().max()) > 1e-6


@pytest.mark.parametrize("inputs", [Ports("z-", "zones"), Ports("z-", Learned(5))], ids=["zones", "learned"])
def test_a_sample_hangs_on_itself_alone_and_the_model_comes_back(inputs, tmp_path) -> None:
    model = make(inputs=inputs, outputs=Ports("z+", Learned(4)), prefixes=[2, 4]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    together = model(embeddings()).embedding
    alone = torch.cat([model(row).embedding for row in embeddings().split(1)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    model.save_pretrained(tmp_path / "model")
    again = LatticeModel.from_pretrained(tmp_path / "model")
    assert again.settings == model.settings
    assert torch.equal(again(embeddings()).embedding, together)


def test_the_first_ports_are_decoded_alone() -> None:
    model = make(outputs=Ports("z+", "nested"), readout="ports_full", skip=True).eval()
    whole, part = model(embeddings()), model.rollout(embeddings(), ports=3)
    assert torch.equal(whole.code[:, :9], part.code[:, :9])
    plain = embeddings() + part.code[:, :9] @ model.decoder.weight[:, :9].T + model.decoder.bias
    torch.testing.assert_close(part.embedding, plain)
    assert torch.equal(whole.state, part.state)


def test_a_model_in_training_reads_a_drawn_prefix_and_one_in_evaluation_all() -> None:
    model = make(outputs=Ports("z+", "nested"), prefixes=[1, 4, 16])
    read = {int((model(embeddings(1)).code != 0).sum()) for _ in range(30)}
    assert read == {1, 4, 16}
    assert int((model.eval()(embeddings(1)).code != 0).sum()) == 16


def test_number_k_of_the_code_leaves_opposite_of_where_it_entered() -> None:
    model = make(inputs=Ports("z-", "nested"), outputs=Ports("z+", "nested"))
    grid = model.output_nodes - model.input_nodes
    assert len(grid) == 16
    moved = model.graph.pos[model.output_nodes] - model.graph.pos[model.input_nodes]
    assert torch.equal(moved, torch.tensor([[0.0, 0.0, 4.0]]).expand(16, 3))


@pytest.mark.parametrize("placement", ["zones", Learned(5)], ids=["zones", "learned"])
def test_bf16(placement) -> None:
    model = make(inputs=Ports("z-", placement), outputs=Ports("z+", "learned"))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(embeddings())
    torch.testing.assert_close(out.embedding.float(), model(embeddings()).embedding, atol=0.1, rtol=0.1)


def test_refusals(refuses) -> None:
    with refuses("end with all of them, 16", "[4, 8]", "[2, 4, 8, 16]"):
        make(outputs=Ports("z+", "nested"), prefixes=[4, 8])
    with refuses("ports in an order", "4 of 16 ports", "placement: nested"):
        make().rollout(embeddings(), ports=4)
