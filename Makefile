.PHONY: setup demo serve test soak check bench

PYTHON ?= python3
BIN := .venv/bin

setup: .venv/.done

.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[embedded,dev]'
	touch $@

demo: setup  ## starts the service, fits on carried photos, prints a table
	$(BIN)/python -m service.demo

serve: setup  ## rmadapter up
	$(BIN)/rmadapter up

test: setup  ## the whole test suite
	$(BIN)/python -m pytest

soak: setup  ## kills, isolation and overload for an hour or more: make soak SOAK="--minutes 5 --rounds 10"
	$(BIN)/python -m tests.soak $(SOAK)

check: setup  ## lint, format, types, layering
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
