"""latticegnn: graph neural networks on 3D cellular lattices."""

from latticegnn import aggregate as aggregate
from latticegnn.data import EmbeddingData as EmbeddingData
from latticegnn.data import Teacher as Teacher
from latticegnn.lattice import LatticeSpec as LatticeSpec
from latticegnn.lattice import LightConeError as LightConeError
from latticegnn.lattice import Ports as Ports
from latticegnn.lattice import Tier as Tier
from latticegnn.lattice import build_graph as build_graph
from latticegnn.lattice import from_networkx as from_networkx
from latticegnn.lattice import read_graphml as read_graphml
from latticegnn.lattice import steps_needed as steps_needed
from latticegnn.lattice import to_networkx as to_networkx
from latticegnn.lattice import write_graphml as write_graphml
from latticegnn.model import LatticeModel as LatticeModel
from latticegnn.model import LatticeOutput as LatticeOutput
from latticegnn.nn import Expert as Expert
from latticegnn.nn import LatticeCell as LatticeCell

__version__ = "0.1.0"
