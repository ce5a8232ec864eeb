"""`latticegnn predict` as a program: killed at random moments, and fed more lines than it could hold."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = ["the", "a", "cat", "dog", "bird", "mat", "rug", "sits", "sings"]


def program(*words: object, **more: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "latticegnn", *map(str, words)]
    return subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, **more)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "kills"), [(".jsonl", 2), (".npy", 1)])
def test_killed_at_random_moments(suffix, kills, tmp_path, monkeypatch, saved, predictor) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [" ".join(WORDS[row // 9**k % 9] for k in range(4)) for row in range(2000)]
    Path("in.txt").write_text("\n".join(lines))
    output, wait = Path(f"out{suffix}"), np.random.default_rng(0)
    beside = Path(f"out{suffix}.progress.json")
    words = ("--input", "in.txt", "--output", output, "--batch_size", 5, "--as", "embedding", "--resume")
    for _ in range(kills):
        running = program("predict", "--model", saved.folder, *words)
        before = json.loads(beside.read_text())["lines"] if beside.exists() else 0
        while running.poll() is None and (not beside.exists() or json.loads(beside.read_text())["lines"] <= before):
            time.sleep(0.005)
        time.sleep(wait.uniform(0, 0.4))
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    assert program("predict", "--model", saved.folder, *words).wait() == 0
    if suffix == ".npy":
        found = np.load(output)
    else:
        rows = [json.loads(line) for line in output.read_bytes().splitlines()]
        assert [row["line"] for row in rows] == list(range(1, len(lines) + 1))
        found = np.array([row["embedding"] for row in rows])
    expected = predictor.predict(lines)
    np.testing.assert_allclose(found, [row["embedding"] for row in expected], rtol=0, atol=1e-6)


PEAK = """
import re, sys
from latticegnn.cli import main
status = main(sys.argv[1:])
# Not getrusage, whose peak starts from that of the process that started this one.
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1], file=sys.stderr)
sys.exit(status)
"""


@pytest.mark.slow
def test_a_stream_takes_no_more_memory_than_a_line(saved) -> None:
    peaks = []
    command = [sys.executable, "-c", PEAK, "predict", "--model", str(saved.folder), "--k", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for count in (2_000, 30_000):
        with subprocess.Popen(["seq", str(count)], stdout=subprocess.PIPE) as numbers:
            done = subprocess.run(command, stdin=numbers.stdout, capture_output=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == count
        peaks.append(int(done.stderr.split()[-1]) / 1e6)
    assert peaks[1] < 1
    assert peaks[1] - peaks[0] < 0.03, peaks
