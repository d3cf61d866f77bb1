# launch and test need Python 3.11+ with venv, make and git; they build .venv themselves.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: launch test test-all check bench

launch: .venv/installed
	$(BIN)/sweeper launch --study lr-wd-batch --workers 1

test: .venv/installed-dev
	$(BIN)/python -m pytest -n 3 --dist worksteal

test-all: .venv/installed-dev
	$(BIN)/python -m pytest -m ""

check: .venv/installed-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: .venv/installed-dev
	for name in trainer service dashboard scaling; do $(BIN)/python -m benchmarks.$$name || exit 1; done

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -e . && touch $@

.venv/installed-dev: pyproject.toml
	$(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet -e ".[dev]" && touch $@ .venv/installed
