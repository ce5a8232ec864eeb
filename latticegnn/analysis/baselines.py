"""What the lattice is held against: closed-form references, and models trained on the same data and budget."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticegnn.model import LatticeModel

PENALTIES = tuple(10.0**k for k in range(-2, 4))
"""Ridge penalties tried; the validation split chooses."""


@dataclass
class Prediction:
    """What a baseline gives.

    Args:
        embedding: The answer in the teacher's space [B, D].
        code: What it was decoded from [B, K].
    """

    embedding: Tensor
    code: Tensor


class ProjectionOnly(nn.Module):
    """The lattice's own maps without the lattice: the code is laid on the input ports and read at once.

    What it reaches is owed to the projections alone.

    Args:
        model: The lattice whose maps are copied, with their start.

    Shapes:
        - input: embedding [B, D]
        - output: `Prediction`
    """

    def __init__(self, model: LatticeModel) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(code_encoder(model))
        self.lay, self.read = copy.deepcopy(model.lay), model.lay.inverse()
        self.mapper = copy.deepcopy(model.mapper)
        self.extractor = copy.deepcopy(model.extractor)
        self.skip = model.skip
        ports = self.encoder.out_features
        width = ports * (model.decoder.in_features // model.extractor.ports)
        self.decoder = _decoder(model, width, ports)

    def forward(self, embedding: Tensor) -> Prediction:
        """Encode and decode."""
        code = self.extractor(self.read(self.mapper(self.lay(self.encoder(embedding)))))
        answer = self.decoder(code)
        return Prediction(embedding + answer if self.skip else answer, code)


def code_encoder(model: LatticeModel) -> nn.Linear:
    """Return the map from embeddings to the code that baselines share with a lattice.

    Raises:
        ValueError: When the lattice takes token ids, and so has none.
    """
    encoder = model.transformer.encoder
    if encoder is None:
        raise ValueError(
            "a baseline that encodes embeddings needs a lattice that does; got one that takes token ids; leave this "
            "baseline out, or build the model without tokens."
        )
    return encoder


def frozen_cell(model: LatticeModel) -> LatticeModel:
    """Copy a lattice and freeze its cell as it is: a reservoir whose maps alone are trained."""
    frozen = copy.deepcopy(model)
    frozen.cell.requires_grad_(False)
    return frozen


class CodeMLP(nn.Module):
    r"""A perceptron behind the same code, :math:`c = A e`.

    .. math::
        \hat e = B \, [c \,\|\, s\,\mathrm{SiLU}(W c + b)] \;(+\, e), \qquad s = \min(1, 64 / \text{hidden})

    A and the part of B that reads c start as the lattice's maps do, the other part at zero. The factor s lets one
    learning rate serve every width (Yang et al., 2022).

    Args:
        model: The lattice whose code size, dimension, skip and start are taken.
        hidden: Width of the hidden layer, ≥ 1.

    Shapes:
        - input: embedding [B, D]
        - output: `Prediction`
    """

    def __init__(self, model: LatticeModel, hidden: int) -> None:
        super().__init__()
        code = code_encoder(model).out_features
        self.skip = model.skip
        self.scale = min(1.0, 64 / hidden)
        self.encoder = copy.deepcopy(code_encoder(model))
        self.inner = nn.Linear(code, hidden)
        self.decoder = _decoder(model, code + hidden, code, stride=1)

    def forward(self, embedding: Tensor) -> Prediction:
        """Encode and decode."""
        code = self.encoder(embedding)
        code = torch.cat([code, self.scale * functional.silu(self.inner(code))], dim=-1)
        answer = self.decoder(code)
        return Prediction(embedding + answer if self.skip else answer, code)


@torch.no_grad()
def _decoder(model: LatticeModel, width: int, code: int, stride: int | None = None) -> nn.Linear:
    """Make a decoder of another width that starts as the lattice's does on the numbers of the code."""
    own = model.decoder.in_features // model.extractor.ports
    start = model.decoder.weight[:, ::own][:, :code]
    decoder = nn.Linear(width, model.embedding_dim)
    decoder.weight.zero_()
    stride = own if stride is None else stride
    decoder.weight[:, : start.shape[1] * stride : stride] = start
    decoder.bias.copy_(model.decoder.bias)
    return decoder


def mlp_of_equal_parameters(model: LatticeModel) -> CodeMLP:
    """Make the `CodeMLP` whose number of parameters is nearest to the lattice's."""
    code, dim = code_encoder(model).out_features, model.embedding_dim
    linear = sum(p.numel() for p in CodeMLP(model, 1).parameters()) - (code + 1 + dim)
    wanted = model.parameter_counts()["total"] - linear
    return CodeMLP(model, max(1, round(wanted / (code + 1 + dim))))


def mlp_of_equal_compute(model: LatticeModel) -> CodeMLP:
    """Make the `CodeMLP` whose multiplications for one sample are nearest to the lattice's (`multiplications`)."""
    code, dim = code_encoder(model).out_features, model.embedding_dim
    wanted = multiplications(model) - 2 * code * dim
    return CodeMLP(model, max(1, round(wanted / (code + dim))))


def multiplications(model: LatticeModel) -> int:
    """Count multiplications of one sample's forward pass: T·N times the cell's weights, and the maps once.

    Sums over neighbours are left out: they multiply by fixed weights and cost a few percent of the cell.
    """
    weights = sum(p.numel() for p in model.cell.parameters() if p.dim() == 2)
    maps = sum(p.numel() for p in model.transformer.parameters() if p.dim() == 2)
    return model.steps * model.spec.num_nodes * weights + maps


TRAINED: dict[str, Callable[[LatticeModel], nn.Module]] = {
    "projection_only": ProjectionOnly,
    "frozen_cell": frozen_cell,
    "mlp_equal_parameters": mlp_of_equal_parameters,
    "mlp_equal_compute": mlp_of_equal_compute,
}
"""Baselines that are trained, by name: each made from the lattice before its training."""


class AffineMap(nn.Module):
    r"""A fixed affine map :math:`\hat e = W (e - \mu) + b`, the form of every closed-form reference.

    Args:
        weight: W [D, D].
        mean: μ [D].
        bias: b [D].
        fitted: Numbers that were fitted to data, for the table.
    """

    def __init__(self, weight: Tensor, mean: Tensor, bias: Tensor, fitted: int) -> None:
        super().__init__()
        self.fitted = fitted
        self.weight: Tensor
        self.mean: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("mean", mean)
        self.register_buffer("bias", bias)

    def forward(self, embedding: Tensor) -> Prediction:
        """Apply the map."""
        return Prediction((embedding - self.mean) @ self.weight.T + self.bias, embedding)


def mean_vector(targets: Tensor) -> AffineMap:
    """Answer every input with the mean training target."""
    mean = targets.mean(dim=0)
    return AffineMap(targets.new_zeros(len(mean), len(mean)), torch.zeros_like(mean), mean, fitted=len(mean))


def raw_teacher(dim: int) -> AffineMap:
    """Answer every input with itself: what the teacher alone achieves on pairs."""
    return AffineMap(torch.eye(dim), torch.zeros(dim), torch.zeros(dim), fitted=0)


def principal_components(inputs: Tensor, count: int) -> AffineMap:
    """Reconstruct from the first principal components, the best linear code of that size (Eckart and Young, 1936).

    Args:
        inputs: Training embeddings [n, D].
        count: K, numbers in the code.
    """
    mean = inputs.mean(dim=0)
    axes = torch.linalg.svd(inputs - mean, full_matrices=False)[2][:count]
    return AffineMap(axes.T @ axes, mean, mean, fitted=axes.numel() + len(mean))


def residual_ridge(
    inputs: Tensor, targets: Tensor, score: Callable[[nn.Module], float], count: int | None = None
) -> AffineMap:
    r"""Fit :math:`e + W(e - \mu) + b` to pairs by ridge regression; `score` on the validation split picks the penalty.

    Args:
        inputs: Training inputs [n, D].
        targets: Training targets [n, D].
        score: The higher the better.
        count: Let W see only this many principal components of the inputs; all by default.
    """
    mean, shift = inputs.mean(dim=0), (targets - inputs).mean(dim=0)
    axes = torch.linalg.svd(inputs - mean, full_matrices=False)[2][:count]
    code = ((inputs - mean) @ axes.T).double()
    residual = (targets - inputs - shift).double()
    eye = torch.eye(inputs.shape[1])
    fitted = []
    for penalty in PENALTIES:
        gram = code.T @ code + penalty * torch.eye(len(axes), dtype=code.dtype)
        weight = torch.linalg.solve(gram, code.T @ residual).T.float() @ axes
        numbers = axes.shape[0] * 2 * len(mean) if count else weight.numel()
        fitted.append(AffineMap(eye + weight, mean, mean + shift, fitted=numbers + 2 * len(mean)))
    return max(fitted, key=score)
