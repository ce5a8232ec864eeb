"""How far an output has come: a small file beside it, which a killed run is continued by."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Identity = Mapping[str, Any]
"""What all rows of an output have in common, JSON-ready: the model, what is put out, and so on."""


class Progress(NamedTuple):
    """How far an output has come.

    Args:
        identity: Of its rows.
        lines: Inputs that are done.
        digest: Of these inputs.
        complete: Whether they are all there were.
    """

    identity: Identity
    lines: int = 0
    digest: str = ""
    complete: bool = False


class Ledger:
    """Keeps the `Progress` of an output in ``<its name>.progress.json``, always whole.

    Args:
        output: The output's file.
        identity: Of its rows.
        resume: Go on with what is there. Without an output and its progress, this begins one.

    Attributes:
        before: The progress to go on from; None at a beginning.

    Raises:
        FileNotFoundError: When there is no such folder.
        ValueError: When the output is unfinished and not to be gone on with, or cannot be.
    """

    def __init__(self, output: Path, identity: Identity, resume: bool) -> None:
        if not output.parent.is_dir():
            raise FileNotFoundError(
                f"an output is written into a folder that exists; got {output}; create {output.parent} first."
            )
        self._file = output.with_name(f"{output.name}.progress.json")
        self._progress = Progress(json.loads(json.dumps(identity)))
        found = self._read(output)
        self.before = found if resume else None
        if found is not None and not resume and found.lines and not found.complete:
            raise ValueError(
                f"an unfinished output is not written over; {output} has {found.lines:,} lines of one; go on with "
                f"--resume, or delete {self._file}."
            )
        if self.before is not None:
            self._check(output, self.before)
            self._progress = self.before
            return
        if resume and output.exists():
            raise ValueError(
                f"to go on needs an output of `latticegnn predict` and the file it keeps beside it; {output} has no "
                f"{self._file.name}; write to another file, or leave --resume out."
            )
        self._keep(self._progress)

    def commit(self, lines: int, digest: str) -> None:
        """Say that so many inputs, of this digest, are done: their rows must be in the output before."""
        self._keep(self._progress._replace(lines=lines, digest=digest, complete=False))

    def complete(self) -> None:
        """Say that all inputs are done."""
        self._keep(self._progress._replace(complete=True))

    def _keep(self, progress: Progress) -> None:
        self._progress = progress
        part = self._file.with_name(f".{self._file.name}")
        part.write_text(json.dumps(progress._asdict()), encoding="utf-8")
        os.replace(part, self._file)

    def _read(self, output: Path) -> Progress | None:
        if not self._file.is_file():
            return None
        try:
            found = Progress(**json.loads(self._file.read_text(encoding="utf-8")))
            if not isinstance(found.identity, dict) or not isinstance(found.lines, int) or found.lines < 0:
                raise ValueError(f"{found}")
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{self._file} must say how far {output} has come; it cannot be read ({error}); delete both."
            ) from None
        return found

    def _check(self, output: Path, before: Progress) -> None:
        then, now = before.identity, self._progress.identity
        changed = [key for key in {**then, **now} if then.get(key) != now.get(key)]
        if changed:
            raise ValueError(
                f"an output goes on with what it began with; {output} differs in {', '.join(changed)}: "
                f"{[then.get(key) for key in changed]} then, {[now.get(key) for key in changed]} now; restore that, or "
                "write to another file."
            )
