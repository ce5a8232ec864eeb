"""What training minimises, each term a small function with its formula and scale."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; a weight of 0 leaves a term out.

    Args:
        reconstruction: Of `reconstruction`, ≥ 0.
        cosine: Of `cosine`, ≥ 0.

    Raises:
        ValueError: For a negative weight, or when all are zero.
    """

    reconstruction: float = 1.0
    cosine: float = 1.0

    def __post_init__(self) -> None:
        """Check the weights."""
        weights = {"reconstruction": self.reconstruction, "cosine": self.cosine}
        for name, value in weights.items():
            if not value >= 0:
                raise ValueError(f"loss.{name} must be 0 or more; got {value}; set it to 0 to leave the term out.")
        if not any(weights.values()):
            raise ValueError("at least one loss weight must be above 0; all are 0; set loss.reconstruction to 1.")


def reconstruction(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Compute the squared error, summed over dimensions: :math:`\langle \sum_d (\hat e_d - e_d)^2 \rangle_B`.

    In [0, ∞). The sum, not the mean: for unit vectors of hundreds of dimensions the mean is a few thousandths even for
    a constant answer.

    Args:
        prediction: [B, D].
        target: [B, D].
    """
    return (prediction - target).square().sum(dim=-1).mean()


def cosine(prediction: Tensor, target: Tensor) -> Tensor:
    r"""Compute one minus the cosine: :math:`\langle 1 - \cos(\hat e, e) \rangle_B`, in [0, 2], free of scale.

    Args:
        prediction: [B, D].
        target: [B, D].
    """
    return (1 - functional.cosine_similarity(prediction, target, dim=-1)).mean()


TERMS = {"reconstruction": reconstruction, "cosine": cosine}


def loss_terms(prediction: Tensor, target: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Compute the weighted terms, by name; their sum is the loss."""
    return {
        name: getattr(weights, name) * term(prediction, target)
        for name, term in TERMS.items()
        if getattr(weights, name) > 0
    }
