"""Rows that can be learned from: the same ones whole, in chunks and one by one, in constant memory."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latticegnn.data import check_rows, open_vectors
from latticegnn.data.vectors import sound_rows

ROOT = Path(__file__).parents[2]


def spoilt(rows: int, seed: int) -> np.ndarray:
    """Return rows of few distinct numbers, so that all that can be wrong with them occurs."""
    draw = np.random.default_rng(seed)
    values = draw.choice(
        [0, -0.0, 1, 2, np.nan, np.inf, -np.inf], p=[0.4, 0.1, 0.2, 0.2, 0.04, 0.03, 0.03], size=(rows, 3)
    )
    return values.astype(np.float32)


def plainly(inputs: np.ndarray, targets: np.ndarray) -> tuple[list[int], dict[str, int]]:
    """Check row by row, keeping the rows themselves."""
    seen, sound, dropped = set(), [], {"nan": 0, "inf": 0, "zero": 0, "duplicate": 0}
    for row, pair in enumerate(zip(inputs, targets, strict=True)):
        reasons = []
        for vector in pair:
            reasons += ["nan"] * bool(np.isnan(vector).any()) + ["inf"] * bool(np.isinf(vector).any())
            reasons += ["zero"] * (not vector.any())
        reasons += ["duplicate"] * (inputs[row].tobytes() in seen)
        if reasons:
            dropped[reasons[0]] += 1
        else:
            seen.add(inputs[row].tobytes())
            sound.append(row)
    return sound, dropped


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_chunks_give_what_the_whole_and_the_plain_twin_give(tmp_path, monkeypatch, pairs, seed):
    monkeypatch.setattr("latticegnn.data.vectors.CHUNK_BYTES", 100)
    inputs = spoilt(300, seed)
    targets = spoilt(300, seed + 99) if pairs else inputs
    np.save(tmp_path / "inputs.npy", inputs)
    np.save(tmp_path / "targets.npy", targets)
    expected, counts = plainly(inputs, targets)
    assert len(expected) > 20
    assert min(counts.values()) > 0
    targets_in_file = open_vectors(tmp_path / "targets.npy") if pairs else None
    kept, dropped = check_rows(open_vectors(tmp_path / "inputs.npy"), targets_in_file)
    assert kept.tolist() == expected
    assert kept.dtype == np.int64
    assert dropped == counts
    whole: Counter[str] = Counter(nan=0, inf=0, zero=0, duplicate=0)
    seen: set[bytes] = set()
    parts = [sound_rows(inputs[:120], targets[:120], seen, whole), sound_rows(inputs[120:], targets[120:], seen, whole)]
    assert parts[0] + [120 + row for row in parts[1]] == expected
    assert dict(whole) == counts


def test_targets_of_another_shape(tmp_path, refuses):
    for name, rows in (("a.npy", 4), ("b.npy", 5)):
        np.save(tmp_path / name, np.ones((rows, 6), dtype=np.float32))
    with refuses("must have the same shape", "[5, 6]", "one target a row"):
        check_rows(open_vectors(tmp_path / "a.npy"), open_vectors(tmp_path / "b.npy"))


PROBE = """
import sys
from latticegnn.data import check_rows, open_vectors

def memory(what):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(what))

open_vectors(sys.argv[1])[:9]
before = memory("VmRSS")
kept, dropped = check_rows(open_vectors(sys.argv[1]))
print(len(kept), dropped["duplicate"], (memory("VmHWM") - before) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "a.pt"])
def test_a_file_is_checked_in_a_fraction_of_its_size(tmp_path, name):
    values = np.random.default_rng(0).standard_normal((400_000, 384), dtype=np.float32)  # 586 MiB
    values[-100:] = values[:100]
    if name == "a.npy":
        np.save(tmp_path / name, values)
    elif name == "a.pt":
        torch.save(torch.from_numpy(values), tmp_path / name)
    else:
        save_file({"x": torch.from_numpy(values)}, tmp_path / name)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE, tmp_path / name]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    kept, duplicates, megabytes = map(int, ended.stdout.split())
    assert (kept, duplicates) == (399_900, 100)
    assert megabytes < 60
