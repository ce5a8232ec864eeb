"""A run that starts from a lattice trained before."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from latticegnn.model import LatticeModel
from latticegnn.training.checkpoints import differences

FREE = ("seed", "backend", "execution", "gradient", "stopping", "initialisation", "gain", "require_light_cone")
"""Settings that may differ: they say how a model is computed or started, not what its weights mean."""


def start_weights(model: LatticeModel, folder: Path) -> dict[str, Tensor]:
    """Read the weights of a saved lattice for a model of the same settings.

    Args:
        model: The run's.
        folder: Of the saved one, a run's folder ``model``.

    Raises:
        FileNotFoundError: When a file is missing.
        ValueError: When a file is damaged, or settings differ, but for `FREE` ones.
    """
    # The run's own configuration names the same code, or else the settings differ.
    saved = LatticeModel.from_pretrained(folder, trust_code=True)
    now, before = ({k: v for k, v in m.settings.items() if k not in FREE} for m in (model, saved))
    found = list(differences(before, now))
    if found:
        raise ValueError(
            f"model_from must be a lattice of the run's own settings; {folder} has others: {'; '.join(found[:3])}"
            f"{' …' if len(found) > 3 else ''}; take them over under model:, or start from another lattice."
        )
    return saved.state_dict()
