# make demo        set everything up and do the main job
# make test        set everything up and pass the tests, on all cores: some minutes
# make test-quick  the tests without browser, demo, Triton and real signals, while you work: about a minute
# make lint        formatting, types and the direction of imports
# make check       lint and test: what a change must pass
#
# TORCH_INDEX=URL  take PyTorch from another package index (README: "A machine without a GPU")
# PYTHON=python3.12  make the environment with another Python, 3.11 to 3.13

PYTHON ?= python3
TORCH_INDEX ?=
BIN := .venv/bin
# Slow tests first, and the tests of one file in one process, because they share what takes long to make. Each process
# has a core, so PyTorch gets one thread; and keeps compiled tests, which take 3 s of each start to compile again.
PYTEST := env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist loadgroup --no-loadscope-reorder
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: setup demo test test-quick lint check bench bench-curves bench-peers bench-gpu screenshots clean

setup: .venv/.demo

# One environment grows: the demo's packages first, then what tests and lint add to them.
.venv/.python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
		|| { echo "SeeSAE needs Python 3.11 to 3.13; this is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	touch $@

.venv/.torch: .venv/.python constraints.txt
	$(if $(TORCH_INDEX),$(PIP) torch --index-url $(TORCH_INDEX))
	touch $@

.venv/.demo: .venv/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

.venv/.check: .venv/.demo
	$(PIP) --editable '.[test,lint]'
	touch $@

demo: setup
	$(BIN)/seesae demo

test: .venv/.check
	$(PYTEST)

test-quick: .venv/.check
	$(PYTEST) -m "not slow"

lint: .venv/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry app sae_core migrations tests docs

check: lint test

# Ends with every target beside its figure; benchmarks/README.md explains them. BENCH="--only web --strict" passes options.
bench: setup
	$(BIN)/seesae bench all $(BENCH)

bench-peers: setup
	$(BIN)/python benchmarks/peers.py $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))

bench-curves: setup
	$(PIP) --editable '.[plots]'
	$(BIN)/python benchmarks/curves.py

bench-gpu: setup
	$(BIN)/python benchmarks/gpu.py

# The pictures of README and docs/tour.md, from a demo at two widths; it takes some minutes where there is none yet.
screenshots: .venv/.check
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf .venv build dist *.egg-info
