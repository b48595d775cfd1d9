# make run: set up and write a story.  make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?= Once upon a time
SEED ?= 3
# Tests run beside each other, on up to four cores.
BESIDE := -n auto --maxprocesses 4 --dist worksteal
# What is compiled when edgedec is installed: after a change it is installed again.
NATIVE := setup.py $(wildcard runtimes/native/*.[ch] edgedec/_tree/csrc/*.[ch]) \
	$(shell sed -n 's/^    "\(.*\.py\)",$$/\1/p' pyproject.toml)

.PHONY: run test test-full exactness lint clean

run: $(VENV)/.run
	$(BIN)/edgedec generate "$(PROMPT)" --temperature 0.6 --seed $(SEED) --max-new-tokens 200

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -m "not full" $(BESIDE)

test-full: $(VENV)/.full .typing/edgedec
	$(BIN)/mypy
	$(BIN)/python -m pytest -m full

# Every strategy on every runtime, 200 texts of 200 tokens each: some minutes.
exactness: $(VENV)/.dev
	$(BIN)/python bench/exactness.py

lint: $(VENV)/.dev .typing/edgedec
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/mypy --exclude '/(training|reference)/'

# What needs torch is type-checked by test-full, where torch is installed.
# The folders export/, models/ and runtimes/ are packages of edgedec; mypy needs to see them there.
.typing/edgedec: $(wildcard edgedec/*)
	mkdir -p $@ && ln -sfn ../../export ../../models ../../runtimes $(addprefix ../../,$(wildcard edgedec/*)) $@/ && touch $@

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@ $(VENV)/.run

$(VENV)/.full: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable ".[full]"
	touch $@

clean:
	rm -rf $(VENV) .typing build dist *.egg-info
	find edgedec runtimes -name '*.so' -delete
