"""A virtual environment for a peer whose packages must not mix with this library's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAMP = "installed.txt"


def python(name: str) -> Path:
    """Return the interpreter of a peer's environment, made by pip from its pinned requirements where it is missing.

    Environments are kept in ``peers`` below ``LATTICEGNN_CACHE``, or ~/.cache/latticegnn.

    Args:
        name: ``requirements-<name>.txt`` beside this file says what is in it.

    Raises:
        ChildProcessError: When the environment cannot be made.
    """
    cache = Path(os.environ.get("LATTICEGNN_CACHE") or "~/.cache/latticegnn").expanduser()
    place, wanted = cache / "peers" / name, HERE / f"requirements-{name}.txt"
    found, stamp = place / "bin" / "python", place / STAMP
    # The interpreter is a link, whose end may have been removed since.
    if found.exists() and stamp.exists() and stamp.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8"):
        return found
    print(f"setting up {place} from {wanted.name}", flush=True)
    for words in (
        [sys.executable, "-m", "venv", "--clear", str(place)],
        [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(wanted)],
    ):
        ended = subprocess.run(words, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise ChildProcessError(
                f"a peer's environment must install; {' '.join(words)} ended with status {ended.returncode}: "
                f"{' '.join(ended.stderr.split())[-400:]}; see that pip reaches its index, then run this again."
            )
    shutil.copyfile(wanted, stamp)  # last, so that an environment that was broken off is made again
    return found
