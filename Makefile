# `make train` and `make test` set everything up on first use; ARGS go to the program, for instance
#   make train CONFIG=configs/autoencode.yaml ARGS="--seed_everything 1"      make test ARGS="-k lattice"
ARGS ?=
CONFIG ?= configs/default.yaml
PY := .venv/bin/python

.PHONY: help setup train test test-slow check format docs notebooks quickstart peers

help:
	@echo "make train      train $(CONFIG) and print the honest table"
	@echo "make test       the default tests;  make test-slow: those marked slow"
	@echo "make check      ruff and mypy;      make format: let ruff mend what it can"
	@echo "make peers      measure beside Conv3d, CAX, E(n)-GNCA and sentence-transformers; writes docs/peers.md"
	@echo "make notebooks  write notebooks/ anew from the examples;  make quickstart: run docs/quickstart.md, timed"
	@echo "make docs       the documentation site, in docs/_build (formulas need the network: MathJax's CDN)"

setup:
	@bash scripts/setup.sh

train: setup
	$(PY) scripts/train.py --config $(CONFIG) $(ARGS)

test: setup
	$(PY) -m pytest -n auto --maxprocesses 4 $(ARGS)

test-slow: setup
	$(PY) -m pytest -n auto --maxprocesses 4 -m slow $(ARGS)

check: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup
	$(PY) -m sphinx -q -E -W --keep-going docs docs/_build $(ARGS)

format: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

peers: setup
	$(PY) benchmarks/peers/run.py $(ARGS)

notebooks: setup
	$(PY) scripts/notebooks.py

quickstart: setup
	$(PY) scripts/newcomer.py
