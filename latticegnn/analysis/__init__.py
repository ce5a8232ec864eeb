"""What a model can do and how it does it: honest figures with intervals, and the baselines they must beat."""

from latticegnn.analysis.metrics import Interval as Interval
from latticegnn.analysis.metrics import cosine as cosine
from latticegnn.analysis.metrics import evaluate as evaluate
from latticegnn.analysis.metrics import fvu as fvu
from latticegnn.analysis.metrics import neighbour_recall as neighbour_recall
from latticegnn.analysis.metrics import paired_difference as paired_difference
from latticegnn.analysis.metrics import reciprocal_rank as reciprocal_rank
from latticegnn.analysis.metrics import row_statistics as row_statistics
from latticegnn.analysis.metrics import target_rank as target_rank
