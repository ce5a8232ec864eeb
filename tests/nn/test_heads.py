"""The heads: known answers, plain loops, places that do not see each other, and what builds them again."""

import math

import pytest
import torch
from scipy.stats import chisquare

from latticegnn.nn import (
    Generation,
    LatticeToEmbeddingExtractor,
    LinearHead,
    MajorityHead,
    MLPHead,
    PortHead,
    TokenDecoder,
    build_decoder,
)
from latticegnn.nn.generation import until_end

W, V, L, PAD, EOS = 12, 9, 4, 0, 2
BASE = {"width": W, "vocab_size": V, "length": L, "pad_id": PAD, "eos_id": EOS}
HEADS: dict[str, dict] = {"linear": {}, "mlp": {"hidden": 5, "dropout": 0.5}, "ports": {"channels": 2}, "majority": {}}


def make(kind: str, **settings) -> TokenDecoder:
    head = build_decoder({"kind": kind} | BASE | HEADS[kind] | settings).double()
    if isinstance(head, MajorityHead):
        head.fit(torch.randint(3, V, (30, L), generator=torch.Generator().manual_seed(0)))
    return head


def codes(count: int) -> torch.Tensor:
    return torch.randn(count, W, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("kind", HEADS)
def test_all_share_one_interface(kind) -> None:
    head = make(kind).eval()
    assert head.settings["kind"] == kind
    assert (head.width, head.vocab_size, head.length, head.pad_id, head.eos_id) == (W, V, L, PAD, EOS)
    tokens = torch.randint(V, (5, L), generator=torch.Generator().manual_seed(3))
    logits = head(codes(5), tokens)
    assert logits.shape == (5, L, V)
    assert torch.equal(head(codes(5), (tokens + 1) % V), logits)
    found = head.generate(codes(5))
    wanted = logits.clone()
    wanted[:, :, PAD] = -math.inf
    wanted[:, L - 1, :EOS] = wanted[:, L - 1, EOS + 1 :] = -math.inf
    expected = wanted.argmax(dim=-1)
    assert torch.equal(found, expected.masked_fill(~until_end(expected, EOS), PAD))
    assert torch.equal(head.generate(codes(5), Generation("beam")), found)
    assert head.generate(codes(0)).shape == (0, L)


@pytest.mark.parametrize("kind", HEADS)
def test_settings_and_weights_build_it_again(kind) -> None:
    head = make(kind, **({"seed": 3} if kind != "majority" else {}))
    again = build_decoder(head.settings).double()
    again.load_state_dict(head.state_dict())
    assert type(again) is type(head)
    assert again.settings == head.settings
    sample = Generation("sample", seed=2)
    assert torch.equal(again.generate(codes(8), sample), head.generate(codes(8), sample))
    assert torch.equal(again.eval()(codes(8), None), head.eval()(codes(8), None))


@pytest.mark.parametrize("kind", ["linear", "mlp", "ports"])
def test_the_start_is_the_seeds_and_the_gradient_reaches_everything(kind) -> None:
    first, second, other = make(kind), make(kind), make(kind, seed=1)
    assert torch.equal(first.eval()(codes(2), None), second.eval()(codes(2), None))
    assert not torch.equal(first(codes(2), None), other.eval()(codes(2), None))
    code = codes(2).requires_grad_()
    assert torch.autograd.gradcheck(lambda code: first(code, None), code)
    first(code, None).square().sum().backward()
    assert all(float(parameter.grad.abs().max()) > 0 for parameter in first.parameters())


def test_linear_and_mlp_are_plain_products() -> None:
    linear, mlp, code = make("linear"), make("mlp").eval(), codes(3)
    inner, outer = mlp.map[0], mlp.map[3]
    hidden = torch.nn.functional.silu(code @ inner.weight.T + inner.bias)
    for k in range(L):
        own = slice(k * V, (k + 1) * V)
        expected = code @ linear.map.weight[own].T + linear.map.bias[own]
        torch.testing.assert_close(linear(code)[:, k], expected, rtol=1e-12, atol=1e-12)
        expected = hidden @ outer.weight[own].T + outer.bias[own]
        torch.testing.assert_close(mlp(code)[:, k], expected, rtol=1e-12, atol=1e-12)


def test_a_port_gives_its_own_token_by_the_map_of_all() -> None:
    head = make("ports")
    states = torch.randn(3, 6, 2, dtype=torch.float64)
    code = LatticeToEmbeddingExtractor("ports_full", 6, 2)(states)
    logits = head(code)
    for port in range(L):
        expected = states[:, port] @ head.map.weight.T + head.map.bias
        torch.testing.assert_close(logits[:, port], expected, rtol=1e-12, atol=1e-12)
    changed = states.clone()
    changed[:, L:] += 1  # ports beyond the row's length
    assert torch.equal(head(changed.flatten(1)), logits)
    changed = states.clone()
    changed[:, 2] += 1
    moved = (head(changed.flatten(1)) != logits).any(dim=-1).any(dim=0)
    assert moved.tolist() == [False, False, True, False]
    assert sum(parameter.numel() for parameter in head.parameters()) == 2 * V + V


def test_the_majority_of_each_place_is_counted_without_ends() -> None:
    rows = torch.tensor([[5, 6, EOS, PAD], [5, EOS, PAD, PAD], [4, EOS, PAD, PAD], [5, 7, 7, EOS], [8, 7, 3, 3]])
    head = MajorityHead(**BASE).fit(rows)
    assert head(torch.zeros(2, W))[1].exp().round()[:, 3:].tolist() == [
        [1, 2, 4, 1, 1, 2],
        [1, 1, 1, 2, 3, 1],
        [2, 1, 1, 1, 2, 1],
        [2, 1, 1, 1, 1, 1],
    ]
    assert head.generate(torch.randn(3, W)).tolist() == [[5, 7, 3, EOS]] * 3
    assert list(head.parameters()) == []
    head.fit(rows[:1])
    assert head.logits[0].exp().round().tolist() == [1, 1, 1, 1, 1, 2, 1, 1, 1], "what was counted before is gone"
    same = MajorityHead(**BASE | {"pad_id": EOS}).fit(rows.masked_fill(rows == PAD, EOS))
    assert same.generate(torch.randn(1, W)).tolist() == [[5, 7, 3, EOS]]


@pytest.mark.parametrize("kind", HEADS)
def test_draws_follow_the_softmax_and_do_not_hang_on_the_batch(kind) -> None:
    head, sample = make(kind).eval(), Generation("sample", seed=1)
    code, seeds = codes(6), torch.arange(6) + 11
    together = head.generate(code, sample, seeds)
    alone = torch.cat([head.generate(code[k : k + 1], sample, seeds[k : k + 1]) for k in range(6)])
    assert torch.equal(together, alone)
    drawn = head.generate(code[:1].expand(3000, -1), sample)[:, 0]
    share = head(code[:1], None)[0, 0].detach()
    share[PAD] = -math.inf
    expected = share.softmax(dim=-1) * 3000
    seen = expected > 5
    counts = torch.bincount(drawn, minlength=V)
    assert seen.sum() >= 6
    assert chisquare(counts[seen], expected[seen] * counts[seen].sum() / expected[seen].sum()).pvalue > 1e-3
    assert counts[~seen].sum() <= 60


def test_mistakes_are_refused(refuses) -> None:
    with refuses("an output port of its own", "length 7 with a code of 12 numbers, 2 a port", "length to 6"):
        PortHead(**BASE | {"length": 7}, channels=2)
    with refuses("an output port of its own", "12 numbers, 5 a port", "readout: ports_full"):
        PortHead(**BASE, channels=5)
    with refuses("shape [B, W] with W = 12", "[2, 3]", "trained on"):
        LinearHead(**BASE)(torch.zeros(2, 3))
    with refuses("hidden must be a whole number", "got 0", "raise it"):
        MLPHead(**BASE, hidden=0)
    with refuses("dropout must be a share", "got -0.1", "0.1 is the default"):
        MLPHead(**BASE, dropout=-0.1)
    with refuses("tokens must be whole numbers of shape [B, L]", "[3, 2]", "Tokenizer.encode"):
        MajorityHead(**BASE).fit(torch.zeros(3, 2, dtype=torch.long))
    with refuses("kind must be one of transformer, linear, mlp, ports, majority", "'lineer'", "did you mean 'linear'?"):
        build_decoder(BASE | {"kind": "lineer"})
    with refuses("kind must be one of", "got None", "choose one of them"):
        build_decoder(BASE)
    with refuses("arguments of its own", "'hiden'", "did you mean 'hidden'?"):
        build_decoder(BASE | {"kind": "mlp", "hiden": 3})
    with refuses("of kind ports needs", "none of channels", "its tokenizer"):
        build_decoder(BASE | {"kind": "ports"})
