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

demo: setup
	$(BIN)/neuroflow demo --out out/demo

test: setup
	$(BIN)/python -m pytest -n 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -m 'not slow' -n 2

faults-short: setup
	$(BIN)/python -m tests.faults all --short
	$(BIN)/python -m tests.faults all --short --sabotage

faults: setup
	rm -f docs/faults.json
	$(BIN)/python -m tests.faults all --full --out docs/faults.json

clean:
	rm -rf .venv out
