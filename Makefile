PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check faults faults-short clean

# The stamp makes setup idempotent: it runs again only when the metadata changed.
.venv/.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,train,scanner,dev]'
	touch $@

setup: .venv/.installed

# Three workers for two cores, as each waits for sockets and processes a third of the
# time: a thread for each, and what a file sets up made once.
test check: export OMP_NUM_THREADS = 1
# Tests start hundreds of processes: none should compile our modules again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadfile

demo: setup
	$(BIN)/neuroflow demo --out out/demo

test: setup
	$(PYTEST)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q -m 'not slow'

faults-short: setup
	$(BIN)/python -m tests.faults all --short
	$(BIN)/python -m tests.faults all --short --sabotage

faults: setup
	rm -f docs/faults.json
	$(BIN)/python -m tests.faults all --full --out docs/faults.json

clean:
	rm -rf .venv out
