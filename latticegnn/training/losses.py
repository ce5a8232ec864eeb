"""What training minimises: terms on predictions and targets, and how all terms are weighted and added."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from latticegnn.lattice import LatticeSpec
from latticegnn.training.ponder import Pondered
from latticegnn.training.trajectory_losses import Dynamics, Emergence, Spatial, Temporal

EMBEDDING_TERMS = ("reconstruction", "cosine", "similarity", "contrastive", "diversity")
"""Terms on predictions and targets [B, D]; every model has them."""
TRAJECTORY_TERMS = ("emergence", "dynamics", "spatial", "temporal")
"""Terms on the states of a rollout [T + 1, B, N, F]; a lattice alone has them."""
PAIRWISE_TERMS = ("similarity", "contrastive", "diversity")
"""Terms on embeddings that hold the rows of a batch against each other."""
WEIGHTINGS = ("fixed", "uncertainty")


@dataclass(frozen=True)
class LossWeights:
    """Weights of the loss terms; a weight of 0 leaves a term out.

    LOG.md holds what each of them did.

    Args:
        reconstruction: Of `Reconstruction`, as all others ≥ 0 and of the term of its name.
        cosine: Of `Cosine`.
        similarity: Of `Similarity`.
        contrastive: Of `Contrastive`.
        diversity: Of `Diversity`.
        emergence: Of `Emergence`.
        dynamics: Of `Dynamics`.
        spatial: Of `Spatial`.
        temporal: Of `Temporal`.
        tokens: Of `TokenCrossEntropy` of a text decoder, the section ``decoder``; its weight is never learned.
        ponder: Of a halting head's divergence from its prior, ≥ 0, see `latticegnn.nn.Halting`.
        temperature: Of `Contrastive`, > 0.
        weighting: "fixed", or "uncertainty" for a learned weight beside each fixed one, see `Loss`.

    Raises:
        ValueError: For a weight that is negative or not finite, when no term on embeddings or tokens has one, or for
            another setting out of range.
    """

    reconstruction: float = 1.0
    cosine: float = 1.0
    similarity: float = 0.0
    contrastive: float = 0.0
    diversity: float = 0.0
    emergence: float = 0.0
    dynamics: float = 0.0
    spatial: float = 0.0
    temporal: float = 0.0
    tokens: float = 0.0
    ponder: float = 0.0
    temperature: float = 0.05
    weighting: Literal["fixed", "uncertainty"] = "fixed"

    def __post_init__(self) -> None:
        """Check the weights."""
        for name in (*EMBEDDING_TERMS, *TRAJECTORY_TERMS, "tokens", "ponder"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"loss.{name} must be 0 or more; got {value}; set it to 0 to leave the term out.")
        if not (self.embeds or self.tokens):
            raise ValueError(
                f"at least one loss weight of {', '.join(EMBEDDING_TERMS)} or tokens must be above 0; all are 0; set "
                "loss.reconstruction to 1."
            )
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"loss.temperature must be above 0; got {self.temperature}; 0.05 is the default.")
        if self.weighting not in WEIGHTINGS:
            raise ValueError(
                f"loss.weighting must be one of {', '.join(WEIGHTINGS)}; got {self.weighting!r}; choose one of them."
            )

    @property
    def embeds(self) -> bool:
        """Whether a term looks at embeddings."""
        return any(getattr(self, name) > 0 for name in EMBEDDING_TERMS)

    @property
    def needs_trajectory(self) -> bool:
        """Whether a term looks at the states of a rollout."""
        return any(getattr(self, name) > 0 for name in TRAJECTORY_TERMS)


class Reconstruction(nn.Module):
    r"""The squared error, summed over dimensions: :math:`\langle \sum_d (\hat e_d - e_d)^2 \rangle_B`.

    In [0, ∞); grows with the square of the scale. The sum, not the mean: for unit vectors of hundreds of dimensions the
    mean is a few thousandths even for a constant answer.

    Shapes:
        - input: prediction [B, D], target [B, D]
        - output: a number
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the term."""
        return self.rows(prediction, target).mean()

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute each row's share: [..., D] -> [...]."""
        return (prediction - target).square().sum(dim=-1)


class Cosine(nn.Module):
    r"""One minus the cosine: :math:`\langle 1 - \cos(\hat e, e) \rangle_B`, in [0, 2], free of scale.

    Shapes:
        - input: prediction [B, D], target [B, D]
        - output: a number
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the term."""
        return self.rows(prediction, target).mean()

    def rows(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute each row's share: [..., D] -> [...]."""
        return 1 - functional.cosine_similarity(prediction, target, dim=-1)


class Similarity(nn.Module):
    r"""How far the batch's structure is from the targets'.

    .. math::
        \langle (\cos(\hat e_i, \hat e_j) - \cos(e_i, e_j))^2 \rangle_{i \neq j}

    In [0, 4], free of scale; 0 for a single row. Tung and Mori (2019) compare such matrices of a teacher and a student.

    Shapes:
        - input: prediction [B, D], target [B, D]
        - output: a number
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the term."""
        mine, theirs = (functional.normalize(e, dim=-1) for e in (prediction, target))
        gap = (mine @ mine.T - theirs @ theirs.T).square()
        rows = len(prediction)
        return (gap.sum() - gap.diagonal().sum()) / max(1, rows * (rows - 1))


class Contrastive(nn.Module):
    r"""InfoNCE (van den Oord et al., 2018): each prediction must find its target among the batch's.

    .. math::
        -\Big\langle \log \frac{\exp(\cos(\hat e_i, e_i) / \tau)}{\sum_j \exp(\cos(\hat e_i, e_j) / \tau)} \Big\rangle_B

    In [0, ∞), about log B for predictions that know nothing; free of scale.

    Args:
        temperature: τ, > 0.

    Shapes:
        - input: prediction [B, D], target [B, D]
        - output: a number
    """

    def __init__(self, temperature: float = 0.05) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compute the term."""
        mine, theirs = (functional.normalize(e, dim=-1) for e in (prediction, target))
        own = torch.arange(len(prediction), device=prediction.device)
        return functional.cross_entropy(mine @ theirs.T / self.temperature, own)


class Diversity(nn.Module):
    r"""How close predictions lie to each other: :math:`\langle \exp(-2 \|u_i - u_j\|^2) \rangle_{i \neq j}`.

    u are the predictions, normalised: the Gaussian potential of Wang and Isola (2020), without its logarithm, so that
    it stays positive. In [e⁻⁸, 1], 1 where all answers are the same (and 0 for a single row); free of scale.

    Shapes:
        - input: prediction [B, D]; the target is not looked at
        - output: a number
    """

    def forward(self, prediction: Tensor, target: Tensor | None = None) -> Tensor:
        """Compute the term."""
        u = functional.normalize(prediction, dim=-1)
        near = torch.exp(4 * (u @ u.T - 1))  # ‖u − v‖² = 2 − 2 u·v
        rows = len(prediction)
        return (near.sum() - near.diagonal().sum()) / max(1, rows * (rows - 1))


class TokenCrossEntropy(nn.Module):
    r"""Weighted cross-entropy of tokens: :math:`-\sum_i w_{y_i} \log p_{y_i} \big/ \sum_i w_{y_i}`, in [0, ∞).

    For a decoder that gives logits.

    Args:
        weight: Of each token of the vocabulary [V], ≥ 0; all 1 by default.
        ignore_index: Token that is no target, such as padding.

    Shapes:
        - input: logits [B, L, V], tokens [B, L]
        - output: a number

    Raises:
        ValueError: For a negative weight, or when no position counts.
    """

    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, ignore_index: int = -100) -> None:
        super().__init__()
        if weight is not None and not bool((weight >= 0).all()):
            raise ValueError(f"token weights must be 0 or more; got {float(weight.min())}; set them to 0 or more.")
        self.register_buffer("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """Compute the term."""
        counts = tokens != self.ignore_index
        if self.weight is not None:
            counts = counts & (self.weight[tokens.where(counts, tokens.new_zeros(()))] > 0)
        if not bool(counts.any()):
            raise ValueError(
                f"cross-entropy needs a token that counts; all {tokens.numel()} are ignored or of weight 0; drop such "
                "batches."
            )
        return functional.cross_entropy(
            logits.flatten(0, 1), tokens.flatten(), self.weight, ignore_index=self.ignore_index
        )


class Loss(nn.Module):
    r"""The weighted terms of a loss; their sum is what is minimised.

    With ``weighting: uncertainty`` every term k has a learned log-variance s (Kendall, Gal and Cipolla, 2018, in the
    form of Liebel and Körner, 2018, without factors of a half), 0 at first:

    .. math::
        L = \sum_k \big( e^{-s_k} w_k L_k + s_k \big)

    A rollout that may halt at several steps (`Pondered`) has the expectation of each term on embeddings over these
    steps, :math:`\langle \sum_k p^k_b L^k_b \rangle_B`, and the term "ponder", the divergence of p from its prior, at
    its fixed weight (Banino, Balaguer & Blundell, 2021).

    Args:
        weights: See `LossWeights`.
        spec: The model's lattice; None for a model without one, for which terms on the trajectory are left out.

    Shapes:
        - input: prediction [B, D] (not looked at beside ``pondered``), target [B, D], trajectory [T + 1, B, N, F]
        - output: numbers by name; with learned weights also "uncertainty", :math:`\sum_k s_k`
    """

    def __init__(self, weights: LossWeights, spec: LatticeSpec | None = None) -> None:
        super().__init__()
        self.weights = weights
        self.on_embeddings = _embedding_terms(weights)
        on_trajectory = {"emergence": Emergence, "dynamics": Dynamics, "spatial": Spatial, "temporal": Temporal}
        self.on_trajectory = nn.ModuleDict()
        if spec is not None:
            for name, term in on_trajectory.items():
                if getattr(weights, name) > 0:
                    self.on_trajectory[name] = term(spec) if term in (Emergence, Spatial) else term()
        count = len(self.on_embeddings) + len(self.on_trajectory)
        self.log_variance: nn.Parameter | None
        learned = weights.weighting == "uncertainty"
        self.register_parameter("log_variance", nn.Parameter(torch.zeros(count)) if learned else None)

    def forward(
        self, prediction: Tensor, target: Tensor, trajectory: Tensor | None = None, pondered: Pondered | None = None
    ) -> dict[str, Tensor]:
        """Compute the weighted terms."""
        if pondered is None:
            terms = {name: term(prediction, target) for name, term in self.on_embeddings.items()}
        else:
            p = pondered.log_p.exp()
            each: dict[str, Any] = dict(self.on_embeddings.items())
            rows = {name: term.rows(pondered.answers, target) for name, term in each.items()}
            terms = {name: (p * values).sum(dim=0).mean() for name, values in rows.items()}
        if self.on_trajectory:
            if trajectory is None:
                raise ValueError(
                    f"the terms {', '.join(self.on_trajectory)} look at a rollout's states; got no trajectory; roll "
                    "out with trajectory=True."
                )
            terms |= {name: term(trajectory) for name, term in self.on_trajectory.items()}
        weighted = {name: getattr(self.weights, name) * value for name, value in terms.items()}
        if self.log_variance is not None:
            pairs = zip(weighted.items(), self.log_variance, strict=True)
            weighted = {name: torch.exp(-s) * value for (name, value), s in pairs}
            weighted["uncertainty"] = self.log_variance.sum()
        if pondered is not None and self.weights.ponder > 0:
            weighted["ponder"] = self.weights.ponder * pondered.divergence
        return weighted


def loss_terms(prediction: Tensor, target: Tensor, weights: LossWeights) -> dict[str, Tensor]:
    """Compute the weighted terms on embeddings, by name, whatever the weighting: what models are compared by."""
    return {name: getattr(weights, name) * term(prediction, target) for name, term in _embedding_terms(weights).items()}


def _embedding_terms(weights: LossWeights) -> nn.ModuleDict:
    made = {
        "reconstruction": Reconstruction(),
        "cosine": Cosine(),
        "similarity": Similarity(),
        "contrastive": Contrastive(weights.temperature),
        "diversity": Diversity(),
    }
    return nn.ModuleDict({name: term for name, term in made.items() if getattr(weights, name) > 0})
