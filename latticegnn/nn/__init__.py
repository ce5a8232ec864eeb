"""Layers: each does one step or one map; they know tensors and a graph, never files or configurations."""

from latticegnn.nn.cell import EXPERTS as EXPERTS
from latticegnn.nn.cell import LatticeCell as LatticeCell
from latticegnn.nn.dynamics import Diffusion as Diffusion
from latticegnn.nn.dynamics import Directional as Directional
from latticegnn.nn.dynamics import Dynamics as Dynamics
from latticegnn.nn.dynamics import Plain as Plain
from latticegnn.nn.embedding import EmbeddingToLatticeMapper as EmbeddingToLatticeMapper
from latticegnn.nn.embedding import EmbeddingTransformer as EmbeddingTransformer
from latticegnn.nn.embedding import Interior as Interior
from latticegnn.nn.embedding import LatticeToEmbeddingExtractor as LatticeToEmbeddingExtractor
from latticegnn.nn.embedding import Readout as Readout
from latticegnn.nn.embedding import VolumeStateInitializer as VolumeStateInitializer
from latticegnn.nn.execution import Execution as Execution
from latticegnn.nn.execution import bind_step as bind_step
from latticegnn.nn.execution import check_execution as check_execution
from latticegnn.nn.experts import AttentionExpert as AttentionExpert
from latticegnn.nn.experts import EdgeExpert as EdgeExpert
from latticegnn.nn.experts import Expert as Expert
from latticegnn.nn.experts import GatedExpert as GatedExpert
from latticegnn.nn.experts import MeanFieldExpert as MeanFieldExpert
from latticegnn.nn.experts import MLPExpert as MLPExpert
from latticegnn.nn.firing import Stochastic as Stochastic
from latticegnn.nn.firing import Synchronous as Synchronous
from latticegnn.nn.fused import FusedStep as FusedStep
from latticegnn.nn.tokens import TokenToLatticeMapper as TokenToLatticeMapper
from latticegnn.nn.wave import Wave as Wave
