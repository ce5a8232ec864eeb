"""What the lattice is held against: closed-form references, and models trained on the same data and budget."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticegnn.model import LatticeModel, LatticeOutput

PENALTIES = tuple(10.0**k for k in range(-2, 4))
"""Ridge penalties tried; the validation split chooses."""


class ProjectionOnly(nn.Module):
    """The lattice's own maps without the lattice: the code is laid on the input ports and read at once.

    What it reaches is owed to the projections alone.

    Args:
        model: The lattice whose maps are copied; it needs as many output ports as input ports.

    Shapes:
        - input: embedding [B, D]
        - output: `LatticeOutput` with the ports' states

    Raises:
        ValueError: When the numbers of ports differ.
    """

    def __init__(self, model: LatticeModel) -> None:
        super().__init__()
        if len(model.input_nodes) != len(model.output_nodes):
            raise ValueError(
                "projection_only reads the code where it was laid, so it needs as many output as input ports; got "
                f"{len(model.output_nodes)} and {len(model.input_nodes)}; leave this baseline out."
            )
        self.transformer = copy.deepcopy(model.transformer)
        self.mapper = copy.deepcopy(model.mapper)
        self.extractor = copy.deepcopy(model.extractor)
        self.skip = model.skip

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Encode and decode."""
        state = self.mapper(self.transformer.encode(embedding))
        answer = self.transformer.decode(self.extractor(state))
        return LatticeOutput(
            embedding + answer if self.skip else answer, state, torch.zeros(len(embedding), dtype=torch.long)
        )


def frozen_cell(model: LatticeModel) -> LatticeModel:
    """Copy a lattice and freeze its cell as it is: a reservoir whose maps alone are trained."""
    frozen = copy.deepcopy(model)
    frozen.cell.requires_grad_(False)
    return frozen


class CodeMLP(nn.Module):
    r"""A perceptron behind the same code, :math:`c = A e`.

    .. math::
        \hat e = B c + s\,W_2\,\mathrm{SiLU}(W_1 c + b_1) \;(+\, e), \qquad s = \min(1, 64 / \text{hidden})

    A and B start as the lattice's maps do, W_2 at zero. The factor s lets one learning rate serve every width (Yang et
    al., 2022).

    Args:
        model: The lattice whose code size, dimension, skip and start are taken.
        hidden: Width of the hidden layer, ≥ 1.

    Shapes:
        - input: embedding [B, D]
        - output: `LatticeOutput` with the code as state
    """

    def __init__(self, model: LatticeModel, hidden: int) -> None:
        super().__init__()
        code = len(model.input_nodes)
        self.skip = model.skip
        self.scale = min(1.0, 64 / hidden)
        self.encoder = copy.deepcopy(model.transformer.encoder)
        self.linear = nn.Linear(code, model.embedding_dim)
        self.inner = nn.Linear(code, hidden)
        self.outer = nn.Linear(hidden, model.embedding_dim, bias=False)
        with torch.no_grad():
            stride = model.transformer.decoder.in_features // len(model.output_nodes)
            start = model.transformer.decoder.weight[:, ::stride][:, :code]
            self.linear.weight.zero_()
            self.linear.weight[:, : start.shape[1]] = start
            self.linear.bias.copy_(model.transformer.decoder.bias)
            self.outer.weight.zero_()

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Encode and decode."""
        code = self.encoder(embedding)
        answer = self.linear(code) + self.scale * self.outer(functional.silu(self.inner(code)))
        return LatticeOutput(
            embedding + answer if self.skip else answer, code, torch.zeros(len(embedding), dtype=torch.long)
        )


def mlp_of_equal_parameters(model: LatticeModel) -> CodeMLP:
    """Make the `CodeMLP` whose number of parameters is nearest to the lattice's."""
    code, dim = len(model.input_nodes), model.embedding_dim
    linear = sum(p.numel() for p in CodeMLP(model, 1).parameters()) - (code + 1 + dim)
    wanted = model.parameter_counts()["total"] - linear
    return CodeMLP(model, max(1, round(wanted / (code + 1 + dim))))


def mlp_of_equal_compute(model: LatticeModel) -> CodeMLP:
    """Make the `CodeMLP` whose multiplications for one sample are nearest to the lattice's (`multiplications`)."""
    code, dim = len(model.input_nodes), model.embedding_dim
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
    """

    def __init__(self, weight: Tensor, mean: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight: Tensor
        self.mean: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight)
        self.register_buffer("mean", mean)
        self.register_buffer("bias", bias)

    def forward(self, embedding: Tensor) -> LatticeOutput:
        """Apply the map."""
        out = (embedding - self.mean) @ self.weight.T + self.bias
        return LatticeOutput(out, out, torch.zeros(len(out), dtype=torch.long))


def mean_vector(targets: Tensor) -> AffineMap:
    """Answer every input with the mean training target."""
    mean = targets.mean(dim=0)
    return AffineMap(targets.new_zeros(targets.shape[1], targets.shape[1]), torch.zeros_like(mean), mean)


def raw_teacher(dim: int) -> AffineMap:
    """Answer every input with itself: what the teacher alone achieves on pairs."""
    return AffineMap(torch.eye(dim), torch.zeros(dim), torch.zeros(dim))


def principal_components(inputs: Tensor, count: int) -> AffineMap:
    """Reconstruct from the first principal components, the best linear code of that size (Eckart and Young, 1936).

    Args:
        inputs: Training embeddings [n, D].
        count: K, numbers in the code.
    """
    mean = inputs.mean(dim=0)
    axes = torch.linalg.svd(inputs - mean, full_matrices=False)[2][:count]
    return AffineMap(axes.T @ axes, mean, mean)


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
        fitted.append(AffineMap(eye + weight, mean, mean + shift))
    return max(fitted, key=score)
