# make run    builds the environment, runs the demo experiments, writes the report
# make test   builds the environment, passes the tests
# make gpu    passes the tests that need a CUDA device, prints its speed beside the CPU's
# make faults tries what machines, disks, networks and people do to a run, and prints what was lost
# make env    only builds the environment (.venv)
# make clean  removes the environment and everything computed
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.built-from-lock
# Two processes of tests, also where there are more cores: many of the tests start two of their own. Those of a file stay
# together, as they share what they make.
SIDE_BY_SIDE := -n 2 --dist loadfile --no-loadscope-reorder
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: run test quick faults gpu env clean

run: $(STAMP)
	snakemake --cores all
	@echo "The report: $(CURDIR)/results/report/demo.html"

test: $(STAMP)
	python -m pytest $(SIDE_BY_SIDE)

quick: $(STAMP)
	python -m pytest $(SIDE_BY_SIDE) -m "not slow"

gpu: $(STAMP)
	python -m pytest -m gpu tests/gpu -rs
	python benchmarks/gpu.py
	python benchmarks/seeds.py

faults: $(STAMP)
	python -m pytest --campaign

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "dlpipe needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Say which to use: make run PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

clean:
	rm -rf $(VENV) .snakemake data/raw data/prepared results/*/ results/.checkpoints results/.running results/.locks data/.locks
