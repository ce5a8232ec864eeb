"""The command line. A command's module is imported when it is called, so that ``--help`` is quick."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

USAGE = """usage: latticegnn COMMAND [options]      latticegnn COMMAND --help

  fit         train a lattice and hold it against its baselines
  describe    tiers, degrees, light cone and size of a lattice
  doctor      say whether a configuration is ready to run
  experiment  train variants of a configuration over several seeds, or search a space of settings
  analyse     look closer at a run that is done
  report      write the interactive page of a run, or of two side by side
  predict     answers, texts or embeddings of a trained lattice, from a file, a pipe or the command line
  index       embed answers that a trained lattice chooses from
  export      write a lattice as a graph (GraphML, GEXF, JSON), or a trained one as a program (PyTorch archive, ONNX)
  serve       answer requests over HTTP by a trained model
  cache       list, verify or prune the embeddings that are kept on disk
  bench       measure speed and memory, and hold them against what is claimed
"""

COMMANDS = {
    "fit": "runs",
    "describe": "lattices",
    "doctor": "runs",
    "experiment": "runs",
    "analyse": "runs",
    "report": "runs",
    "predict": "inference",
    "index": "inference",
    "export": "lattices",
    "serve": "inference",
    "cache": "upkeep",
    "bench": "upkeep",
}
"""Command to the module of `latticegnn.commands` that holds the function of its name."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake prints one line and gives exit status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        from latticegnn import __version__

        print(f"latticegnn {__version__}")
        return 0
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"Did you mean '{near[0]}'?" if near else "See latticegnn --help."
        print(f"latticegnn: unknown command {words[0]!r}; there are {', '.join(COMMANDS)}. {hint}", file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(f"latticegnn.commands.{COMMANDS[words[0]]}")
        return getattr(module, words[0])(words[1:])
    except (ValueError, OSError, FloatingPointError, ModuleNotFoundError) as error:
        print(f"latticegnn: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("latticegnn: interrupted; what was saved stays in the run folder.", file=sys.stderr)
        return 130
