"""latticegnn: graph neural networks on 3D cellular lattices.

Public names are imported when they are first used, so that ``latticegnn --help`` need not wait for torch and PyG.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latticegnn import aggregate as aggregate
    from latticegnn.answers import AnswerIndex as AnswerIndex
    from latticegnn.correction import Correction as Correction
    from latticegnn.data import EmbeddingData as EmbeddingData
    from latticegnn.data import Teacher as Teacher
    from latticegnn.exporting import export_model as export_model
    from latticegnn.lattice import LatticeSpec as LatticeSpec
    from latticegnn.lattice import LightConeError as LightConeError
    from latticegnn.lattice import Ports as Ports
    from latticegnn.lattice import Tier as Tier
    from latticegnn.lattice import build_graph as build_graph
    from latticegnn.lattice import from_networkx as from_networkx
    from latticegnn.lattice import read_graphml as read_graphml
    from latticegnn.lattice import read_network as read_network
    from latticegnn.lattice import steps_needed as steps_needed
    from latticegnn.lattice import to_networkx as to_networkx
    from latticegnn.lattice import write_graphml as write_graphml
    from latticegnn.lattice import write_network as write_network
    from latticegnn.model import LatticeModel as LatticeModel
    from latticegnn.model import LatticeOutput as LatticeOutput
    from latticegnn.nn import Expert as Expert
    from latticegnn.nn import Generation as Generation
    from latticegnn.nn import LatticeCell as LatticeCell
    from latticegnn.nn import TextDecoder as TextDecoder
    from latticegnn.predictor import Predictor as Predictor
    from latticegnn.text_model import TextModel as TextModel

__version__ = "0.1.0"

_HOMES = {
    "latticegnn.answers": ("AnswerIndex",),
    "latticegnn.correction": ("Correction",),
    "latticegnn.data": ("EmbeddingData", "Teacher"),
    "latticegnn.exporting": ("export_model",),
    "latticegnn.lattice": (
        "LatticeSpec", "LightConeError", "Ports", "Tier", "build_graph", "from_networkx", "read_graphml",
        "read_network", "steps_needed", "to_networkx", "write_graphml", "write_network",
    ),
    "latticegnn.model": ("LatticeModel", "LatticeOutput"),
    "latticegnn.nn": ("Expert", "Generation", "LatticeCell", "TextDecoder"),
    "latticegnn.predictor": ("Predictor",),
    "latticegnn.text_model": ("TextModel",),
}  # fmt: skip
__all__ = ["aggregate", *(name for names in _HOMES.values() for name in names)]


def __getattr__(name: str) -> Any:
    if name == "aggregate":
        return importlib.import_module("latticegnn.aggregate")
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(home), name)
    raise AttributeError(f"module 'latticegnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
