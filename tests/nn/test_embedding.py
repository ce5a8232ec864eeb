"""The maps in and out: the PCA start, ports that share one lift, interiors, readouts."""

import pytest
import torch
from torch import Tensor

from latticegnn.nn import (
    EmbeddingToLatticeMapper,
    EmbeddingTransformer,
    LatticeToEmbeddingExtractor,
    VolumeStateInitializer,
)

D, K = 12, 5


def sample(rows: int = 60) -> Tensor:
    """Correlated rows of unequal variance and a mean far from zero."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=generator, dtype=torch.float64)
    scale = torch.linspace(3, 0.2, D, dtype=torch.float64)
    return torch.randn(rows, D, generator=generator, dtype=torch.float64) * scale @ mixing + 5.0


def fitted(inputs: Tensor, targets: Tensor, channels: int = 1, scale: float = 1.0) -> EmbeddingTransformer:
    maps = EmbeddingTransformer(D, K, K * channels).double()
    maps.fit(inputs, targets, K, scale)
    return maps


def pca(data: Tensor, count: int) -> Tensor:
    """Projection on the leading eigenvectors of the covariance."""
    centred = data - data.mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred)[1][:, -count:]
    return centred @ axes @ axes.T + data.mean(dim=0)


def test_a_code_handed_through_gives_the_pca_reconstruction() -> None:
    data = sample()
    maps = fitted(data, data)
    torch.testing.assert_close(maps.decode(maps.encode(data)), pca(data, K), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_first_number_of_each_port_is_decoded(channels) -> None:
    data = sample()
    maps = fitted(data, data, channels)
    read = torch.randn(len(data), K, channels, dtype=torch.float64)
    read[:, :, 0] = maps.encode(data)
    torch.testing.assert_close(maps.decode(read.flatten(1)), pca(data, K), rtol=1e-9, atol=1e-9)


def test_codes_are_white() -> None:
    data = sample()
    code = fitted(data, data).encode(data)
    torch.testing.assert_close(torch.cov(code.T), torch.eye(K, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(code.mean(dim=0), torch.zeros(K, dtype=torch.float64), rtol=0, atol=1e-9)


def test_other_targets_have_a_decoder_of_their_own() -> None:
    data, answers = sample(), sample().flip(1) ** 2
    maps = fitted(data, answers, scale=0.5)
    whitened = fitted(answers, answers).encode(answers)
    torch.testing.assert_close(maps.encode(data), fitted(data, data).encode(data))
    half = answers.mean(dim=0) + 0.5 * (pca(answers, K) - answers.mean(dim=0))
    torch.testing.assert_close(maps.decode(whitened), half)


@pytest.mark.parametrize("rows", [2, 4])
def test_fewer_directions_than_ports_leave_the_rest_at_zero(rows) -> None:
    data = sample(rows)
    maps = fitted(data, data)
    code = maps.encode(data)
    assert not code[:, rows - 1 :].abs().gt(1e-6).any()
    torch.testing.assert_close(code[:, : rows - 1].var(dim=0), torch.ones(rows - 1, dtype=torch.float64))
    torch.testing.assert_close(maps.decode(code), data, rtol=1e-8, atol=1e-8)


def test_a_sample_of_one_repeated_row_gives_that_row() -> None:
    data = sample(1).expand(7, D)
    maps = fitted(data, data)
    torch.testing.assert_close(maps.encode(data), torch.zeros(7, K, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(maps.decode(maps.encode(data)), data.contiguous(), rtol=1e-9, atol=1e-9)


def test_ports_share_one_lift() -> None:
    position = torch.tensor([[-1.0, -1.0, -1.0], [0.5, 0.0, -1.0], [1.0, 1.0, -1.0]])
    mapper = EmbeddingToLatticeMapper(position, 4)
    code = torch.randn(6, 3)
    torch.testing.assert_close(mapper(code), code.unsqueeze(-1) * mapper.lift)
    assert mapper.lift[0] == 1.0
    # Once learned, the position adds its own state, whatever the code; equal places get equal states.
    torch.nn.init.normal_(mapper.position.weight)
    placed = mapper(torch.zeros(2, 3))
    assert torch.equal(placed[0], placed[1])
    assert not torch.allclose(placed[0, 0], placed[0, 1])
    twin = EmbeddingToLatticeMapper(position[[1, 1]], 4)
    twin.load_state_dict(mapper.state_dict())
    torch.testing.assert_close(twin(torch.zeros(1, 2)), placed[:1, [1, 1]])


def test_interiors() -> None:
    code = torch.randn(3, K, dtype=torch.float64)
    zeros, learned, spread, noise = (
        VolumeStateInitializer(kind, 400, 4, K).double() for kind in ("zeros", "learned", "code", "noise")
    )
    for initializer in (zeros, learned, spread, noise):
        assert initializer(code).shape == (3, 400, 4)
        assert initializer(code).dtype == torch.float64
    assert not zeros(code).any()
    assert not list(zeros.parameters())
    torch.nn.init.normal_(learned.state)
    assert torch.equal(learned(code), learned.state.expand(3, 400, 4))
    expected = code @ spread.spread.weight.T + spread.spread.bias
    torch.testing.assert_close(spread(code), expected.unsqueeze(1).expand(3, 400, 4))
    assert not list(noise.parameters())
    assert torch.equal(noise(code)[0], noise(code)[2])
    assert torch.equal(noise(code)[0], noise.state_dict()["state"])
    assert noise(code)[0].std().item() == pytest.approx(0.1, abs=0.01)


def test_readouts() -> None:
    states = torch.randn(3, K, 4)
    one, full = LatticeToEmbeddingExtractor("ports", K, 4), LatticeToEmbeddingExtractor("ports_full", K, 4)
    assert (one.width, full.width) == (K, 4 * K)
    torch.testing.assert_close(one(states), (states * one.read).sum(dim=-1))
    assert torch.equal(full(states), states.reshape(3, 4 * K))
    assert not list(full.parameters())


def test_unknown_names_are_refused(refuses) -> None:
    with refuses("interior must be one of zeros, learned, code, noise", "'zero'", "choose one"):
        VolumeStateInitializer("zero", 8, 4, K)
    with refuses("readout must be one of ports, ports_full", "'port'", "choose one"):
        LatticeToEmbeddingExtractor("port", K, 4)
