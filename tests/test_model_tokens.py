"""A lattice that takes token ids: what reaches which port, what it refuses, and that all else works as it does."""

import copy

import pytest
import torch

from latticegnn.analysis.baselines import CodeMLP, ProjectionOnly
from latticegnn.analysis.ladder import RUNGS
from latticegnn.lattice import LatticeSpec, Ports
from latticegnn.lattice.placement import Learned
from latticegnn.model import LatticeModel
from latticegnn.nn import EmbeddingToLatticeMapper, TokenToLatticeMapper, silence

SPEC = LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5))
V, PAD, D, P = 11, 0, 6, 9


def make(spec: LatticeSpec = SPEC, **settings) -> LatticeModel:
    fixed = {"embedding_dim": D, "channels": 3, "hidden": 4, "steps": 4, "tokens": {"vocab_size": V, "pad_id": PAD}}
    return LatticeModel(spec, **fixed | settings).double()


def ids(rows: int = 4, length: int = P) -> torch.Tensor:
    return torch.randint(1, V, (rows, length), generator=torch.Generator().manual_seed(0))


def test_a_rollout_is_the_cells_steps_from_the_tokens_states() -> None:
    model = make().eval()
    assert isinstance(model.mapper, TokenToLatticeMapper)
    assert model.transformer.encoder is None
    state = torch.zeros(4, SPEC.num_nodes, 3, dtype=torch.float64)
    state[:, model.input_nodes] = model.mapper(ids())
    for _ in range(4):
        state = model.cell(state)
    out = model(ids())
    torch.testing.assert_close(out.state, state, rtol=1e-10, atol=1e-10)
    code = state[:, model.output_nodes] @ model.extractor.read
    torch.testing.assert_close(out.embedding, code @ model.decoder.weight.T + model.decoder.bias)
    assert out.embedding.dtype == torch.float64
    assert make().float()(ids().int()).embedding.dtype == torch.float32


def test_padding_and_what_shares_the_batch_change_nothing() -> None:
    model, short = make().eval(), ids(length=5)
    padded = torch.full((4, P), PAD)
    padded[:, :5] = short
    assert torch.equal(model(padded).embedding, model(short).embedding)
    alone = torch.cat([model(short[k : k + 1]).embedding for k in range(4)])
    torch.testing.assert_close(alone, model(short).embedding, rtol=1e-12, atol=1e-12)


def test_the_gradient_reaches_every_parameter() -> None:
    model = make(readout="ports_full", interior="learned", dynamics={"diffusion": {"rate": 0.1}})
    model(ids()).embedding.square().sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("settings", [
    {"interior": "noise"}, {"clamp": True}, {"gradient": "checkpointed"},
    {"inputs": Ports("z-", Learned(count=4))},
    {"stopping": {"relative": {"tolerance": 0.5}, "max_steps": 8}},
    {"outputs": Ports("z+", "nested"), "prefixes": [3, 9]},
], ids=str)  # fmt: skip
def test_other_settings_go_together_with_tokens(settings, tmp_path) -> None:
    model = make(**settings)
    given = ids(length=4)
    model(given).embedding.sum().backward()
    assert model.mapper.table.weight.grad.any()
    model.eval().save_pretrained(tmp_path)
    again = LatticeModel.from_pretrained(tmp_path).double()
    assert again.settings == model.settings
    assert again.tokens == {"vocab_size": V, "pad_id": PAD}
    assert torch.equal(again(given).embedding, model.float().double()(given).embedding)


def test_without_tokens_all_is_as_it_was() -> None:
    model = make(tokens=None)
    assert isinstance(model.mapper, EmbeddingToLatticeMapper)
    assert model.transformer.encoder is not None
    assert model(torch.zeros(2, D, dtype=torch.float64)).embedding.shape == (2, D)


def test_fit_maps_fits_the_way_out_alone() -> None:
    model, targets = make(), torch.randn(40, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before = copy.deepcopy(model.mapper.state_dict())
    model.fit_maps(ids(40), targets)
    torch.testing.assert_close(model.decoder.bias.detach(), targets.mean(dim=0))
    assert all(torch.equal(value, before[name]) for name, value in model.mapper.state_dict().items())


def test_a_longer_lattice_takes_the_same_weights_and_a_larger_face_where_the_reading_end_allows(refuses) -> None:
    model = make()
    longer = model.resized((3, 3, 6))
    assert longer(ids()).embedding.shape == (4, D)
    assert all(torch.equal(a, b) for a, b in zip(longer.parameters(), model.parameters(), strict=True))
    with refuses("keeps every weight", "transformer.decoder.weight [6, 9] → [6, 16]", "port_map: bilinear"):
        model.resized((4, 4, 4))
    image = make(port_map="bilinear", code_shape=(2, 2))
    larger = image.resized((5, 5, 4))
    assert larger(ids(length=25)).code.shape == (4, 4)
    torch.testing.assert_close(larger.mapper(ids())[:, 0], image.mapper(ids())[:, 0])


@pytest.mark.parametrize("rung", RUNGS)
def test_the_rungs_take_tokens_too(rung) -> None:
    model = make(LatticeSpec((3, 3, 4), radii=(0.5, 1.0, 1.5)))
    lower = RUNGS[rung](model)
    assert torch.equal(lower.mapper(ids()).isfinite(), torch.ones(4, P, 3, dtype=torch.bool))
    torch.testing.assert_close(lower.mapper.table.weight, model.mapper.table.weight)
    assert lower(ids()).embedding.shape == (4, D)


def test_mistakes_are_refused(refuses) -> None:
    for tokens in ({"vocab_size": 5}, {"vocab_size": 5, "pad": 0}, {"vocab_size": "5", "pad_id": 0}, {}, 7):
        with refuses("a mapping of vocab_size, from 1, and pad_id", repr(tokens), "{vocab_size: 2000, pad_id: 0}"):
            make(tokens=tokens)
    with refuses("must be a token id", "11 with vocab_size 11", "same tokenizer"):
        make(tokens={"vocab_size": V, "pad_id": V})
    for settings, name in [
        ({"skip": True}, "skip"),
        ({"interior": "code"}, "interior: code"),
        ({"inputs": Ports("z-", "zones")}, "placement: zones"),
    ]:
        with refuses("no embedding to add, to start its cells from, or to route by", name, "leave out tokens"):
            make(**settings)
    model = make()
    with refuses("integers of shape [B, L]", "torch.float64", "Tokenizer.encode"):
        model(torch.zeros(2, D, dtype=torch.float64))
    with refuses("an input port of its own", "10 tokens a text and 9 ports", "length=9"):
        model(ids(length=10))
    with refuses("a teacher gives embeddings", "a lattice that takes token ids", "without tokens"):
        model.attach_teacher(object())
    for baseline in (ProjectionOnly, lambda model: CodeMLP(model, 3)):
        with refuses("needs a lattice that does", "takes token ids", "leave this baseline out"):
            baseline(model)


def test_silence_is_padding_whatever_its_id_and_leaves_the_lattice_empty() -> None:
    ids = torch.tensor([[4, 2, 3], [1, 3, 3]])
    assert silence(ids, {"vocab_size": 5, "pad_id": 3}).tolist() == [[3, 3, 3]]
    assert silence(torch.randn(2, 3), None).tolist() == [[0, 0, 0]]
    model = make(tokens={"vocab_size": 5, "pad_id": 3})
    assert not bool(model.begin(silence(ids, model.tokens)).state.any())
