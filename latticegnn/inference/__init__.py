"""Prediction as a stream: inputs from a file or a pipe, a batch at a time, and outputs that outlive a kill."""

from latticegnn.inference.inputs import Inputs as Inputs
from latticegnn.inference.inputs import Item as Item
from latticegnn.inference.outputs import Output as Output
from latticegnn.inference.outputs import open_output as open_output
from latticegnn.inference.progress import Identity as Identity
from latticegnn.inference.progress import Ledger as Ledger
from latticegnn.inference.progress import Progress as Progress
from latticegnn.inference.stream import Summary as Summary
from latticegnn.inference.stream import Wanted as Wanted
from latticegnn.inference.stream import stream as stream
