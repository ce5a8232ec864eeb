"""What it costs to export the default lattice, and what the programs cost to run: prints a table.

``python benchmarks/export.py [--steps 8 32] [--endings .pt2 .onnx .aoti.pt2] [--rounds 15]``
One thread and process CPU time throughout, but for the compiler, which is another process: its export is wall time.
"""

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import latticegnn as lg
from latticegnn.benchmarks.measure import cpu_milliseconds, one_thread
from latticegnn.exporting import export_model

BATCHES = (1, 64)


def load(file: Path) -> Callable[[Tensor], object]:
    """Load a program as its user does."""
    if file.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        return lambda e: session.run(None, {"embedding": e.numpy()})
    if file.name.endswith(".aoti.pt2"):
        return torch._inductor.aoti_load_package(str(file))
    return torch.export.load(file).module()


def main() -> None:
    """Export models of the numbers of steps that are asked for, and time every program against the model."""
    parser = argparse.ArgumentParser(description="Measure exported programs against the model.")
    parser.add_argument("--steps", nargs="+", type=int, default=[8, 32], help="T of the models.")
    parser.add_argument("--endings", nargs="+", default=[".pt2", ".onnx"], help="Formats, by a file's ending.")
    parser.add_argument("--rounds", type=int, default=15, help="Timed rounds.")
    given = parser.parse_args()
    columns = ["T", "", "export, s", "file, kB", "worst difference", *(f"ms, batch {b}" for b in BATCHES)]
    print(" | ".join(columns))
    for steps in given.steps:
        model = lg.LatticeModel(steps=steps).eval()
        runs: dict[str, Callable[[Tensor], object]] = {"model": model}
        told = {"model": ["–"] * 3}
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            for ending in given.endings:
                file = Path(folder) / f"model{ending}"
                clock = time.perf_counter if ending == ".aoti.pt2" else time.process_time
                with one_thread():
                    start = clock()
                    worst = export_model(model, file)["check"]["worst_difference"]
                    told[ending] = [f"{clock() - start:.1f}", f"{file.stat().st_size / 1e3:,.0f}", f"{worst:.1e}"]
                runs[ending] = load(file)
            times = {}
            for batch in BATCHES:
                e = torch.randn(batch, model.embedding_dim)
                calls = {name: functools.partial(run, e) for name, run in runs.items()}
                times[batch] = cpu_milliseconds(calls, given.rounds)
        for name in runs:
            print(
                " | ".join([str(steps), name, *told[name], *(f"{times[batch][name]:.1f}" for batch in BATCHES)]),
                flush=True,
            )


if __name__ == "__main__":
    main()
