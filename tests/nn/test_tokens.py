"""Token ids on input ports: a plain loop, exact gradients, padding that changes nothing, errors that help."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from latticegnn.nn import EmbeddingToLatticeMapper, TokenToLatticeMapper

V, P, F, PAD = 11, 6, 4, 3


def places() -> Tensor:
    return torch.rand(P, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1


def mapper() -> TokenToLatticeMapper:
    """A mapper whose positional term is no longer zero."""
    made = TokenToLatticeMapper(V, places(), F, PAD).double()
    torch.nn.init.normal_(made.position.weight)
    return made


@pytest.mark.parametrize("length", [0, 1, 4, P])
def test_a_plain_loop_gives_the_same(length) -> None:
    made = mapper()
    ids = torch.randint(V, (5, length), generator=torch.Generator().manual_seed(1))
    if length:
        ids[0, -1] = PAD
    expected = torch.zeros(5, P, F, dtype=torch.float64)
    for text in range(5):
        for port in range(length):
            if ids[text, port] != PAD:
                term = made.position.weight @ made.features[port]
                expected[text, port] = made.table.weight[ids[text, port]] + term
    torch.testing.assert_close(made(ids), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(made(ids.int()), expected, rtol=1e-12, atol=1e-12)


def test_the_positional_term_is_that_of_the_embedding_mapper() -> None:
    made, other = mapper(), EmbeddingToLatticeMapper(places(), F).double()
    assert not TokenToLatticeMapper(V, places(), F, PAD).position.weight.any()
    other.position.load_state_dict(made.position.state_dict())
    torch.nn.init.zeros_(made.table.weight)
    ids = torch.full((1, P), PAD + 1)
    torch.testing.assert_close(made(ids), other(torch.zeros(1, P, dtype=torch.float64)))


def test_gradients_of_table_and_position() -> None:
    made = mapper()
    ids = torch.tensor([[0, 5, PAD, 5], [10, PAD, PAD, PAD]])

    def states(table: Tensor, position: Tensor) -> Tensor:
        return functional_call(made, {"table.weight": table, "position.weight": position}, (ids,))

    weights = [made.table.weight, made.position.weight]
    assert torch.autograd.gradcheck(states, [weight.detach().clone().requires_grad_() for weight in weights])
    made(ids).pow(2).sum().backward()
    touched = made.table.weight.grad.any(dim=1).nonzero().flatten().tolist()
    assert touched == [0, 5, 10]  # never the padding's row


def test_padding_changes_nothing() -> None:
    made = mapper()
    ids = torch.tensor([[1, 2], [7, 9]])
    bare = made(ids)
    for length in range(2, P + 1):
        padded = torch.full((2, length), PAD)
        padded[:, :2] = ids
        assert torch.equal(made(padded), bare)
    with torch.no_grad():
        made.table.weight[PAD] = torch.nan
    assert torch.equal(made(padded), bare)
    assert not bare[:, 2:].any()


def test_bad_ids_are_refused(refuses) -> None:
    made = mapper()
    with refuses("input port of its own", "received 7 tokens a text and 6 ports", "length=6"):
        made(torch.zeros(2, P + 1, dtype=torch.long))
    for wrong in (V, -1):
        with refuses("0 … 10", f"text 1 has {wrong} at token 2", "Encode with the tokenizer"):
            made(torch.tensor([[1, 2, 4], [1, 2, wrong]]))
    for ids in (torch.zeros(3, dtype=torch.long), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool)):
        with refuses("integers of shape [B, L]", f"{list(ids.shape)} of type {ids.dtype}", "Tokenizer.encode"):
            made(ids)
    for pad_id in (V, -1):
        with refuses("must be a token id", f"received {pad_id} with vocab_size 11", "the same tokenizer"):
            TokenToLatticeMapper(V, places(), F, pad_id)
