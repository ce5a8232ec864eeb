"""Print what stopping does for a trained lattice: steps used against quality on the test rows, as a Markdown table."""

import argparse
import sys
import tempfile
from pathlib import Path

from latticegnn.analysis.stopping import Rule, steps_against_quality
from latticegnn.data.split import SAMPLE
from latticegnn.model import LatticeModel
from latticegnn.nn import Halting, Stopping
from latticegnn.report.tables import format_stopping
from latticegnn.training.configuration import RunCLI


def main(arguments: list[str] | None = None) -> int:
    """Roll out the test rows by fixed numbers of steps, by a criterion at several tolerances, and by a halting head."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/latest")
    parser.add_argument("--steps", type=int, nargs="*", default=[8, 12, 16, 24], help="fixed numbers of steps")
    parser.add_argument("--criterion", default="relative", help="see latticegnn.nn.stopping.CRITERIA")
    parser.add_argument("--tolerances", type=float, nargs="*", default=[0.3, 0.1, 0.03, 0.01])
    parser.add_argument("--adaptive", action="store_true", help="tolerances count in a sample's largest change")
    parser.add_argument("--max_steps", type=int, default=24, help="steps that no sample exceeds")
    given = parser.parse_args(arguments)
    try:
        print(table(given))
    except (ValueError, OSError) as error:
        print(f"stopping: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def table(given: argparse.Namespace) -> str:
    """Measure all rules on the run's test rows."""
    model = LatticeModel.from_pretrained(given.run / "model")
    rules: dict[str, Rule] = {f"{steps} steps": steps for steps in given.steps}
    for tolerance in given.tolerances:
        settings = {"tolerance": tolerance, "adaptive": given.adaptive}
        name = f"{given.criterion} ≤ {tolerance:g}{' × its largest' if given.adaptive else ''}"
        rules[name] = {given.criterion: settings, "max_steps": given.max_steps}
    own = model.stopping
    if own is not None and isinstance(own.criterion, Halting):
        rules["halting head"] = Stopping(own.criterion, own.min_steps, given.max_steps)
    with tempfile.TemporaryDirectory() as scratch:
        config = ["--config", str(given.run / "config.yaml"), "--log_level", "warning"]
        data = RunCLI(config, Path(scratch)).datamodule.content
        data.prepare()
    inputs, targets = data.splits["test"].tensors()
    mean = data.splits["train"].tensors(SAMPLE)[1].mean(dim=0)
    return format_stopping(steps_against_quality(model, inputs, targets, mean, data.pairs, rules))


if __name__ == "__main__":
    sys.exit(main())
