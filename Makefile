# make demo | test | check; PYTHON chooses the interpreter the environment is made from.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check lint clean

demo: .venv/installed
	$(BIN)/penultimate demo

test: .venv/installed
	$(BIN)/python -m pytest

check: lint test

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[demo,test]'
	touch $@

clean:
	rm -rf .venv demo build dist
