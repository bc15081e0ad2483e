# make run    set-up, then derive, emit and sample: the table of the README
# make test   set-up, then all the tests
# make docs   measure every order and write docs/orders.md and the pages of `stepsmith report`
# The build of torch is a variable: `make run TORCH=torch` takes the one with CUDA where pip finds it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS ?= 1

.PHONY: run test lint build docs clean

run: $(VENV)/.installed
	$(BIN)/python examples/first_run.py

test: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n auto --dist loadfile

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/mypy

build: $(VENV)/.installed
	$(BIN)/stepsmith build

# torch first and alone: left to the resolver, pip may take a build of several gigabytes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("stepsmith needs Python 3.11 or later, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

docs: $(VENV)/.installed
	$(BIN)/stepsmith verify --all --table docs/orders.md
	$(BIN)/stepsmith report

clean:
	rm -rf $(VENV) out build
