"""The maps between a teacher's space and the lattice: embedding, code, port states and back."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

Readout = Literal["ports", "ports_full"]
Interior = Literal["zeros", "learned", "code", "noise"]
FREQUENCIES = 2


class EmbeddingTransformer(nn.Module):
    r"""Between the teacher's space and the code: :math:`c = A(e)`, :math:`\hat e = B(\hat c)`, both affine.

    `fit` starts A as the whitened principal components of a sample and B as their inverse (Eckart and Young, 1936):
    code numbers of unit variance, and the best linear reconstruction there is if the lattice hands the code through.

    Args:
        embedding_dim: D, > 0.
        code: K, numbers laid on the input ports; None for a lattice that takes no embeddings, and has no A.
        read: K', numbers read from the output ports.

    Shapes:
        - encode: [B, D] -> [B, K]
        - decode: [B, K'] -> [B, D]
    """

    def __init__(self, embedding_dim: int, code: int | None, read: int) -> None:
        super().__init__()
        self.encoder = None if code is None else nn.Linear(embedding_dim, code)
        self.decoder = nn.Linear(read, embedding_dim)

    def encode(self, embedding: Tensor) -> Tensor:
        """Map an embedding to a code."""
        assert self.encoder is not None
        return self.encoder(embedding)

    def decode(self, read: Tensor) -> Tensor:
        """Map what was read to an embedding."""
        return self.decoder(read)

    @torch.no_grad()
    def fit(self, inputs: Tensor, targets: Tensor, ports: int, scale: float = 1.0) -> None:
        """Start both maps from samples of embeddings.

        Args:
            inputs: What will be encoded [n, D], n ≥ 2; not looked at without A.
            targets: What will be decoded to [n, D]: the inputs, the answers, or what a model with skip has to add.
            ports: P', output ports; number k is decoded from the first number read at port k, and where each port is
                read with several channels the others start at zero.
            scale: Factor on the decoder's start; below one the model starts nearer the mean.
        """
        if self.encoder is not None:
            encoder, mean = _whitening(inputs, self.encoder.out_features)
            self.encoder.weight.copy_(encoder)
            self.encoder.bias.copy_(-encoder @ mean)
        components, mean = _components(targets, ports)
        self.decoder.weight.zero_()
        self.decoder.weight[:, :: self.decoder.in_features // ports] = components * scale
        self.decoder.bias.copy_(mean)


class EmbeddingToLatticeMapper(nn.Module):
    r"""From a code to the states of the input ports: :math:`s_p = c_p\, w + P\, \gamma(r_p)`.

    One lift w is shared by all ports, so that a code number means the same everywhere; γ are sines and cosines of the
    port's position r in [-1, 1]³ (Vaswani et al., 2017; Tancik et al., 2020), P starts at zero.

    Args:
        position: Positions of the input ports in [-1, 1] [P, 3].
        channels: F.

    Shapes:
        - input: code [B, P]
        - output: states [B, P, F]
    """

    features: Tensor

    def __init__(self, position: Tensor, channels: int) -> None:
        super().__init__()
        self.ports = len(position)
        self.register_buffer("features", fourier(position), persistent=False)
        self.lift = nn.Parameter(_near_first(channels))
        self.position = positional(self.features, channels)

    def forward(self, code: Tensor) -> Tensor:
        """Lay a code on the ports."""
        return code.unsqueeze(-1) * self.lift + self.position(self.features)


class VolumeStateInitializer(nn.Module):
    """The state of all cells at step 0, before the input ports are written.

    Args:
        interior: "zeros" (best so far); "learned": a state for every cell; "code": a linear map of the whole code, the
            same for every cell, which reaches the far face at step 0 and so steps outside the light cone; "noise": a
            fixed draw of standard deviation 0.1, the same for every sample.
        num_nodes: N.
        channels: F.
        code: K.

    Shapes:
        - input: code [B, K]
        - output: state [B, N, F]

    Raises:
        ValueError: For an unknown interior.
    """

    def __init__(self, interior: Interior, num_nodes: int, channels: int, code: int) -> None:
        super().__init__()
        if interior not in get_args(Interior):
            raise ValueError(f"interior must be one of {', '.join(get_args(Interior))}; got {interior!r}; choose one.")
        self.interior, self.num_nodes, self.channels = interior, num_nodes, channels
        if interior == "learned":
            self.state = nn.Parameter(torch.zeros(num_nodes, channels))
        elif interior == "noise":
            self.register_buffer("state", 0.1 * torch.randn(num_nodes, channels))
        elif interior == "code":
            self.spread = nn.Linear(code, channels)

    def forward(self, code: Tensor) -> Tensor:
        """Make the initial state of a batch."""
        shape = (code.shape[0], self.num_nodes, self.channels)
        if self.interior == "zeros":
            return code.new_zeros(shape)
        if self.interior == "code":
            return self.spread(code).unsqueeze(1).expand(shape)
        return self.state.to(code.dtype).expand(shape)


class LatticeToEmbeddingExtractor(nn.Module):
    r"""From the states of the output ports to the numbers that are decoded.

    "ports" reads one number a port by a shared vector, :math:`c_p = r^\top s_p`; "ports_full" reads all F channels. A
    linear decoder of K numbers cannot beat the K first principal components; reading all channels lifts that bound.

    Args:
        readout: "ports" or "ports_full".
        ports: P.
        channels: F.

    Shapes:
        - input: states [B, P, F]
        - output: [B, P] or [B, P·F], the attribute `width`

    Raises:
        ValueError: For an unknown readout.
    """

    def __init__(self, readout: Readout, ports: int, channels: int) -> None:
        super().__init__()
        if readout not in get_args(Readout):
            raise ValueError(f"readout must be one of {', '.join(get_args(Readout))}; got {readout!r}; choose one.")
        self.readout, self.ports = readout, ports
        self.width = ports if readout == "ports" else ports * channels
        if readout == "ports":
            self.read = nn.Parameter(_near_first(channels))

    def forward(self, states: Tensor) -> Tensor:
        """Read the ports."""
        return states @ self.read if self.readout == "ports" else states.flatten(1)


def check_embeddings(embedding: Tensor, dim: int) -> None:
    """Raise ValueError unless embeddings are finite and have shape [B, dim]."""
    if embedding.dim() != 2 or embedding.shape[1] != dim:
        raise ValueError(
            f"embeddings must have shape [B, D] with D = {dim}; got {list(embedding.shape)}; embed with the "
            "teacher this model was built for."
        )
    finite = torch.isfinite(embedding).all(dim=1)
    if not bool(finite.all()):
        raise ValueError(
            f"embeddings must be finite; got nan or inf in {int((~finite).sum())} of {len(finite)} rows, first in "
            f"row {int((~finite).nonzero()[0])}; drop these rows or embed their texts again."
        )


def _near_first(channels: int) -> Tensor:
    """Make a vector that carries a number on channel 0 and a little of it on the others."""
    vector = 0.3 * torch.randn(channels)
    vector[0] = 1.0
    return vector


def fourier(position: Tensor) -> Tensor:
    """Give the sines and cosines γ(r) of positions in [-1, 1]: [P, 3] -> [P, 12]."""
    angles = torch.cat([position * (math.pi / 2 * 2**k) for k in range(FREQUENCIES)], dim=1)
    return torch.cat([angles.sin(), angles.cos()], dim=1).float()


def positional(features: Tensor, channels: int) -> nn.Linear:
    """Make the map P of the positional term P γ(r), from the width of `features` to F channels, at zero."""
    term = nn.Linear(features.shape[1], channels, bias=False)
    nn.init.zeros_(term.weight)
    return term


def _principal(sample: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = sample.mean(dim=0)
    _, singular, axes = torch.linalg.svd(sample - mean, full_matrices=False)
    return singular / max(len(sample) - 1, 1) ** 0.5, axes, mean


def _whitening(sample: Tensor, count: int) -> tuple[Tensor, Tensor]:
    deviation, axes, mean = _principal(sample)
    rounding = 100 * torch.finfo(sample.dtype).eps * sample.abs().max()  # a spread below it is no direction
    kept = min(count, int((deviation > torch.maximum(1e-6 * deviation[0], rounding)).sum()))
    weight = sample.new_zeros(count, sample.shape[1])
    weight[:kept] = axes[:kept] / deviation[:kept, None]
    return weight, mean


def _components(sample: Tensor, count: int) -> tuple[Tensor, Tensor]:
    deviation, axes, mean = _principal(sample)
    kept = min(count, len(deviation))
    weight = sample.new_zeros(sample.shape[1], count)
    weight[:, :kept] = (axes[:kept] * deviation[:kept, None]).T
    return weight, mean
