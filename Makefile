# Every target sets up .venv by itself; `make setup` does only that.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test test-all check bench bench-full gpu

setup: .venv/.complete

.venv/.complete: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

demo: setup
	$(BIN)/ddpmseg sweep experiment=sweep/demo

# One process per core, with a thread each: many small tensors gain nothing from more.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 8 --dist worksteal

test: setup
	$(PYTEST) -m "not slow"

test-all: setup
	$(PYTEST) --check-all-types

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# Rows are appended to benchmarks/results.csv, tables and figures to docs/; see docs/performance.md.
bench: setup
	$(BIN)/python -m benchmarks run extraction head memory grid scaling shares
	$(BIN)/python -m benchmarks draw

bench-full: setup
	$(BIN)/python -m benchmarks run extraction head memory shares --full
	$(BIN)/python -m benchmarks draw

# Four minutes on a card: its tests, then rows for benchmarks/results.csv, which are worth a commit.
gpu: setup
	$(BIN)/python -m benchmarks gpu
