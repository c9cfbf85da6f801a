.PHONY: setup demo serve test check bench

PYTHON ?= python3
BIN := .venv/bin

setup: .venv/.done

.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[embedded,cpu,dev]'
	touch $@

demo: setup  ## starts the service, fits on carried photos, prints a table
	$(BIN)/python -m service.demo

serve: setup  ## rmadapter up
	$(BIN)/rmadapter up

test: setup  ## the whole test suite
	$(BIN)/python -m pytest

bench: setup  ## both sides of every speed figure, and benchmark.json
	$(BIN)/python -m tests.benchmarks

check: setup  ## lint, format, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
