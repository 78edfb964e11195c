# Two commands on a bare machine with Python 3.11 or newer: `make run` and `make test`.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DATA ?= ../shared/data
SEED ?= 0
HOURS ?= 1
OUT ?= runs/affect

.DEFAULT_GOAL := help
.PHONY: help run test lint bench simulate affect clean

help: ## what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Counterpoint needs Python 3.11 or newer on the PATH (or make PYTHON=/path/to/python)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp for each set of packages; made anew when what it depends on changes.
$(VENV)/.engine: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.engine
	$(PIP) install --quiet -c constraints.txt -e '.[dev,trainer]'
	@touch $@

run: $(VENV)/.engine ## set up, then play the recorded demo session through the engine
	$(BIN)/counterpoint demo

test: lint ## format, lint, types, layers and all tests
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## format, lint, types and layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

simulate: $(VENV)/.dev ## the whole engine in simulation, from SEED, for HOURS of simulated time
	$(BIN)/python -m tests.simulation --seed $(SEED) --hours $(HOURS)

bench: $(VENV)/.dev ## figures of this machine: replay at full speed, aligner, emission, drift
	-$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks.replay
	$(BIN)/python -m benchmarks.aligner
	$(BIN)/python -m benchmarks.emission
	$(BIN)/python -m benchmarks.drift

affect: $(VENV)/.dev ## train the default bundle again from DATA into OUT: three hours with AVX-512, or minutes on from START, a bundle
	$(PIP) install --quiet --no-deps -r trainer/requirements-affect.txt
	$(BIN)/counterpoint-trainer fit affect --data $(DATA) --out $(OUT) --seed 0 $(if $(START),--start $(START))

clean: ## remove what make made
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist build
