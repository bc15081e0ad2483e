# make run    set-up, then derive, emit and sample: the table of the README
# make test   set-up, then all the tests
# make docs   measure every module and write docs/orders.md, docs/which.md and docs/audit.md (docs/make)
# make site   the documentation as web pages, into site/
# make fuzz   random diffusions and samplers, certified and their orders measured; goes on where benchmarks/fuzz.jsonl stopped
# make mutants  small faults planted in derive, templates and runtime, which the tests must see; goes on likewise
# The build of torch is a variable: `make run TORCH=torch` takes the one with CUDA where pip finds it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export OMP_NUM_THREADS ?= 1
unexport PYTHONDONTWRITEBYTECODE  # or every process of the tests compiles stepsmith anew

# $(call watched,what,command): a line when the command begins, and one every four seconds while it runs.
define watched
@echo "$(1)"; (while sleep 4 && kill -0 $$$$ 2> /dev/null; do echo "  still at it: $(1)"; done) & $(2)
endef

.PHONY: run test lint build docs site site-check fuzz mutants clean

run: $(VENV)/.installed
	$(BIN)/python examples/first_run.py

test: $(VENV)/.tested
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell README.md CHANGELOG.md CONTRIBUTING.md docs derive templates runtime measure src examples benchmarks tests

build: $(VENV)/.installed
	$(BIN)/stepsmith build

# torch first and alone: left to the resolver, pip may take a build of several gigabytes.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("stepsmith needs Python 3.11 or later, this is %d.%d: make PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(call watched,make a virtual environment in $(VENV),$(PYTHON) -m venv $(VENV))
	$(call watched,install $(TORCH),$(PIP) $(TORCH))
	$(call watched,install stepsmith and what it needs,$(PIP) -e '.[report]')
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(call watched,install what the tests need,$(PIP) -e '.[dev]')
	touch $@

docs: $(VENV)/.installed
	$(BIN)/python docs/make

# The notices of the theme and of a plugin about tools of the future are not about these pages.
site: $(VENV)/.installed
	$(call watched,install mkdocs,$(PIP) -e '.[docs]')
	$(call watched,build the site,NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build -q)

# Outside CI: five pages in a real browser at two widths. It needs Debian's chromium.
site-check: site
	$(PIP) playwright
	$(BIN)/python docs/make/browser.py site out/site-check

CASES ?= 2000
fuzz: $(VENV)/.installed
	$(BIN)/python benchmarks/fuzz.py benchmarks/fuzz.jsonl --count $(CASES) --slopes

mutants: $(VENV)/.tested
	$(BIN)/python benchmarks/mutants.py benchmarks/mutants.jsonl

clean:
	rm -rf $(VENV) out build site
