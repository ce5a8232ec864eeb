"""The example that answers questions about the standard library, typed by hand into a terminal."""

import os
import pty
import re
import runpy
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import latticegnn as lg
from latticegnn.data import questions_and_answers

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "50_ask_the_standard_library.py"
_NAMES = runpy.run_path(str(EXAMPLE))
found_in_time, plain_questions = _NAMES["found_in_time"], _NAMES["plain_questions"]


def test_a_question_counts_its_first_right_function() -> None:
    titles = ["a.b(x, y=(1, 2))", "a.b.c", "a.d()", *(f"e.f{k}()" for k in range(12))]
    index = lg.AnswerIndex(titles, np.eye(15, dtype=np.float32), titles)
    query = np.exp(-np.arange(15.0))[None]  # the answers in their order
    wanted = [{"a.d", "a.b.c"}, {"a.b"}, {"e.f6"}, {"e.f7"}, {"a"}]
    found = found_in_time(index, np.repeat(query, 5, axis=0), wanted)
    expected = {"mrr@10": [1 / 2, 1, 1 / 10, 0, 0], "recall@1": [0, 1, 0, 0, 0], "recall@10": [1, 1, 1, 0, 0]}
    assert {name: rows[:, 0].tolist() for name, rows in found.items()} == expected
    assert all(bool((rows[:, 1] == 1).all()) for rows in found.values())
    assert all(rows.dtype == torch.float64 for rows in found.values())


@pytest.mark.slow
def test_the_questions_have_answers_in_the_library() -> None:
    corpus = questions_and_answers()
    known = {title.partition("(")[0] for split in corpus.splits.values() for title in split.inputs}
    asked = plain_questions()
    assert len({question for question, _ in asked}) == len(asked) == 40
    assert {question: names - known for question, names in asked if not names <= known} == {}


class Terminal:
    """A program in a terminal."""

    def __init__(self, *words: object, **environment: str) -> None:
        self._end, other = pty.openpty()
        more = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "dumb"} | environment
        command = [sys.executable, *map(str, words)]
        self.running = subprocess.Popen(
            command, stdin=other, stdout=other, stderr=other, env=os.environ | more, start_new_session=True
        )
        os.close(other)
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self._end, keys.encode())

    def wait_for(self, pattern: str, seconds: float = 120) -> str:
        """Read until a pattern is shown, and take what was shown up to its end."""
        until = time.monotonic() + seconds
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < until, self.shown
            if select.select([self._end], [], [], 0.1)[0]:
                self.shown += os.read(self._end, 4096).decode()
        taken, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return taken

    def close(self) -> int:
        status = self.running.wait(timeout=60)
        os.close(self._end)
        return status


@pytest.mark.slow
def test_it_converses_in_a_terminal_until_ctrl_d(saved, predictor, tmp_path) -> None:
    terminal = Terminal(EXAMPLE, saved.folder, "--k", 2, LATTICEGNN_CACHE=str(tmp_path))
    assert "Ask in plain English; Ctrl-D ends." in terminal.wait_for(r"\n\? $")
    for question in ("the cat sits", "a red dog"):
        terminal.type(f"{question}\n")
        scores = re.findall(r"^  (-?\d\.\d\d)  \S", terminal.wait_for(r"\n\? $"), flags=re.MULTILINE)
        assert len(scores) == 2
        assert scores == sorted(scores, reverse=True)
    terminal.type("\n")
    assert "  0." not in terminal.wait_for(r"\n\? $"), "nothing was asked"
    terminal.type("\x04")
    assert terminal.close() == 0
