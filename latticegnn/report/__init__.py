"""Pictures of a lattice and of a run: every function returns a matplotlib Figure, `save` writes it."""

from latticegnn.report.damage import lesion_bars as lesion_bars
from latticegnn.report.damage import percolation_curve as percolation_curve
from latticegnn.report.damage import recovery_curves as recovery_curves
from latticegnn.report.damage import wall_curve as wall_curve
from latticegnn.report.experiment import ablation_table as ablation_table
from latticegnn.report.experiment import seed_curves as seed_curves
from latticegnn.report.gates import gate_maps as gate_maps
from latticegnn.report.lattice import lattice_3d as lattice_3d
from latticegnn.report.lattice import signal_crossing as signal_crossing
from latticegnn.report.lattice import tier_degrees as tier_degrees
from latticegnn.report.plots import gate_usage as gate_usage
from latticegnn.report.plots import honest_table as honest_table
from latticegnn.report.plots import loss_curves as loss_curves
from latticegnn.report.plots import retention_curve as retention_curve
from latticegnn.report.plots import save as save
from latticegnn.report.portrait import attractor_portrait as attractor_portrait
from latticegnn.report.surface import surface_map as surface_map
from latticegnn.report.sweep import sweep as sweep
