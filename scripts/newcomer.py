"""Walk the newcomer's path: run the commands of docs/quickstart.md in a fresh clone, in their order, and time each."""

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path("docs") / "quickstart.md"
LIMIT = 600.0
"""Seconds that the whole path may take after set-up."""
LENT = ("bin", "lib", "lib64", "include", "share", "pyvenv.cfg")


def steps(page: str) -> list[tuple[str, str]]:
    """Return the page's commands after set-up, each with its section's title: the bash blocks of numbered sections."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        if re.match(r"\d+\. ", title):
            found += [(title, block.strip()) for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.M)]
    return found


def lend(environment: Path, clone: Path) -> None:
    """Give a clone an environment that is set up elsewhere: links to its parts, and a stamp of its own.

    The stamp is what setup.sh itself would write, so that ``make`` in the clone finds everything done.

    Raises:
        FileNotFoundError: When nothing is set up there.
    """
    if not (environment / "bin" / "python").exists():
        raise FileNotFoundError(
            f"the environment that is lent must be set up; {environment} has no bin/python; run `make setup`, or name "
            "another by --environment."
        )
    own = clone / ".venv"
    own.mkdir()
    for name in LENT:
        if (environment / name).exists():
            (own / name).symlink_to(environment / name)
    stamp = 'eval "$(grep ^want= scripts/setup.sh)"; echo "$want" >.venv/.latticegnn-setup'
    subprocess.run(["bash", "-euc", stamp], cwd=clone, check=True)


def walk(clone: Path, folder: Path) -> list[tuple[str, str, float, float]]:
    """Run the steps in a clone; return title, command, wall and CPU seconds of each.

    Args:
        clone: Where they run.
        folder: For what a newcomer has not yet: embeddings and compiled kernels.

    Raises:
        RuntimeError: When a command fails.
    """
    environment = os.environ | {
        "PATH": f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(clone),  # the environment that is lent has another folder's package
        "LATTICEGNN_CACHE": str(folder / "embeddings"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    rows = []
    for title, command in steps((clone / PAGE).read_text(encoding="utf-8")):
        begun, spent = time.perf_counter(), _children()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command], cwd=clone, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        )  # fmt: skip
        rows.append((title, command, time.perf_counter() - begun, _children() - spent))
        print(f"{rows[-1][2]:7.1f} s  {title}: {command.splitlines()[0]}", flush=True)
        (folder / f"{len(rows):02}.txt").write_text(f"$ {command}\n{done.stdout}", encoding="utf-8")
        if done.returncode:
            raise RuntimeError(
                f"every command of {PAGE} must succeed; {command!r} ended with {done.returncode}; mend it or the "
                f"page:\n{done.stdout}"
            )
    return rows


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(arguments: list[str] | None = None) -> int:
    """Clone, walk, print the table; the exit status is 1 where the path takes longer than its limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environment", type=Path, default=ROOT / ".venv", help="set up already; lent to the clone")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds that the path may take")
    parser.add_argument("--output", type=Path, help="folder that keeps what each command printed")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.output or Path(scratch) / "output"
        folder.mkdir(parents=True, exist_ok=True)
        clone = Path(scratch) / "latticegnn"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        lend(given.environment.absolute(), clone)
        rows = walk(clone, folder.absolute())
    wall, cpu = sum(row[2] for row in rows), sum(row[3] for row in rows)
    print(f"\n{'section':<28} {'command':<58} {'wall, s':>8} {'CPU, s':>8}")
    for title, command, *times in [*rows, ("together", "", wall, cpu)]:
        first = command.partition("\n")[0]
        print(f"{title:<28} {first[:57]:<58} " + " ".join(f"{seconds:8.1f}" for seconds in times))
    print(f"limit {given.limit:.0f} s: {'kept' if wall <= given.limit else 'broken'}")
    return int(wall > given.limit)


if __name__ == "__main__":
    sys.exit(main())
