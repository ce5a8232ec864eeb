"""This library and its peers on the same work: parity first, then interleaved rounds, each in a process of its own.

``python benchmarks/peers/run.py [--rounds 5] [--markdown docs/peers.md] [--json FILE] [--quick]``
Sets up what is missing (CAX, in an environment of its own below the cache folder) and never touches `.venv`. About a
quarter of an hour on a quiet machine; ``--quick``: small cases, without CAX and sentences, printed alone.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from benchmarks.peers.measure import main

    sys.exit(main())
