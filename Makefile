# Every target makes its own .venv from nothing, with plain `python3 -m venv` and pip; versions come from constraints.txt.
# A stamp file per set of requirements is redone when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
VENV := .venv
LMMS := .venv-lmms
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check --quiet -c constraints.txt

OWLET := runs/owlet

.PHONY: demo owlet test test-all test-lmms lint docs

demo: $(VENV)/.installed-demo
	$(BIN)/owl quickstart

# Owlet from nothing, in about 150 minutes on two CPU cores (docs/owlet.md); stopped and begun again it goes on.
owlet: $(VENV)/.installed-demo
	$(BIN)/python -m open_owl.owlet.grown.train $(OWLET)

# The tests of the server and the rating page in a process of their own: a worker that reads data looks at every object there is when it starts,
# and the libraries of the web bring so many that it takes seconds.
test: $(VENV)/.installed-dev
	$(BIN)/pytest -q -m "not slow" --ignore tests/serve --ignore tests/evaluate
	$(BIN)/pytest -q -m "not slow" tests/serve tests/evaluate

test-all: $(VENV)/.installed-dev $(LMMS)/.installed
	$(BIN)/pytest -q --ignore tests/serve --ignore tests/evaluate
	$(BIN)/pytest -q tests/serve tests/evaluate

test-lmms: $(VENV)/.installed-dev $(LMMS)/.installed
	$(BIN)/pytest -q tests/integrations/test_lmms_eval.py

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
	$(INSTALL) -e '.[train,video,serve,parquet,s3,dev]'
	@touch $@

$(VENV)/.installed-docs: pyproject.toml $(VENV)/.installed-torch
	$(INSTALL) -e '.[docs]'
	@touch $@

# lmms-eval apart, without its requirements: its torchvision does not import beside a CPU build of torch.
$(LMMS)/.installed: pyproject.toml constraints.txt tests/integrations/lmms-eval.txt
	test -x $(LMMS)/bin/pip || $(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/pip install --disable-pip-version-check --quiet -c constraints.txt torch==2.13.0
	$(LMMS)/bin/pip install --disable-pip-version-check --quiet -c constraints.txt -e . -r tests/integrations/lmms-eval.txt
	$(LMMS)/bin/pip install --disable-pip-version-check --quiet --no-deps lmms-eval==0.7.3
	@touch $@
