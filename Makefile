# make demo | test | lint | format | benchmarks | clean: each sets up what it needs, once.

VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint format benchmarks clean

help:
	@echo 'make demo        camera, classifier and a competing process; plots in demo_output/'
	@echo 'make test        lint, types, tests'
	@echo 'make lint        ruff and mypy only'
	@echo 'make format      let ruff format the code'
	@echo 'make benchmarks  engines, switching and node; results in benchmarks/results/ (10 minutes)'
	@echo 'make clean       remove the virtual environment and caches'

$(READY): constraints.txt setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo 'Python 3.10 or later is needed; name it with: make PYTHON=python3.x'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	  { echo 'Python has no venv module; install it with: apt install python3-venv'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt setuptools torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
	  --no-build-isolation -e '.[dev]'
	@touch $@

demo: $(READY)
	$(BIN)/dynamic-ofa demo

test: lint
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmarks: $(READY)
	for name in engines switching node; do $(BIN)/python -m benchmarks.$$name || exit 1; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
