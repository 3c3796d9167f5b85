# Every target makes its own .venv from nothing, with plain `python3 -m venv` and pip; versions come from constraints.txt.
# A stamp file per set of requirements is redone when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt

.PHONY: demo test test-all lint docs

demo: $(VENV)/.installed-demo
	$(BIN)/owl quickstart

test: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m "not slow"

test-all: $(VENV)/.installed-dev
	$(BIN)/pytest -q

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# torch first and by name: constraints.txt holds its exact version, and pip then keeps whichever build (CPU, CUDA) it found.
$(VENV)/.installed-torch: constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==2.13.0
	@touch $@

$(VENV)/.installed-demo: pyproject.toml $(VENV)/.installed-torch
	$(INSTALL) -e '.[train]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(VENV)/.installed-torch
	$(INSTALL) -e '.[train,video,parquet,s3,dev]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed-torch
	$(INSTALL) -e '.[docs]'
	@touch $@
