# Everything runs in the project's own virtual environment, which the first target that needs it makes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
# The versions that the commands of the README were proven with; `make lock` resolves them anew.
LOCK := constraints.txt
EXTRAS := adapt,demo,dev,docs,retrieval
# One thread per test process: several processes with several threads each fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help venv lock upstream test check lint types imports demo docs docs-generate docs-serve bench reproduce train clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make .venv and install tokenry into it (editable)

$(STAMP): pyproject.toml $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenry needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# The build backend is locked, too: what builds in an isolated environment takes the newest.
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) torch hatchling editables
	$(BIN)/python -m pip install --quiet --constraint $(LOCK) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

lock: ## Resolve the newest releases of everything but torch into constraints.txt (then: make upstream test)
	rm -rf .lock
	$(PYTHON) -m venv .lock
	@# torch first, pinned: the resolver would otherwise pick the newest build with its CUDA packages.
	.lock/bin/python -m pip install --quiet torch==2.13.0
	.lock/bin/python -m pip install --quiet hatchling editables
	.lock/bin/python -m pip install --quiet --no-build-isolation --editable '.[$(EXTRAS)]'
	@# Names and versions only: no addresses, no build labels.
	{ echo "# Proven together; made by \`make lock\`, used by \`make venv\`."; \
	  .lock/bin/python -m pip freeze --exclude-editable | sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+)(\+[^ ]+)?$$/\1/p'; } > $(LOCK)
	rm -rf .lock

upstream: $(STAMP) ## Host, decoding, network and main-job tests on the oldest, locked and newest transformers
	$(BIN)/python -m tests.releases --jobs $(JOBS)
	$(BIN)/python -m tokenry.catalog.render

test: check ## make check, the whole test suite, and a few host tests on the oldest transformers
	$(PYTEST) -n $(JOBS) --dist worksteal
	$(BIN)/python -m tests.releases --short --jobs $(JOBS) oldest

check: lint types imports ## Linter, formatter, type checker, import contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

demo: $(STAMP) ## Compare methods on the embedded model (or MODEL=name), print the table, write a report
	$(BIN)/tokenry demo $(MODEL)

docs-generate: $(STAMP) ## Write the pages and tables that come from the catalogue
	$(BIN)/python -m tokenry.catalog.render

docs: docs-generate ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: docs-generate ## Serve the documentation on localhost, rebuilt on every change
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(STAMP) ## Measure speed against the limit (ratios from one run), write docs/results
	$(BIN)/python -m benchmarks

reproduce: $(STAMP) ## Run every reproduction, going on where it was interrupted; FRESH=1 starts over
	$(BIN)/tokenry reproduce --all $(if $(FRESH),--fresh)

train: $(STAMP) ## Train the embedded model again (resumes where it stopped)
	$(BIN)/tokenry train recipes/embedded_vlm.yaml

clean: ## Remove the environment, caches and built pages
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
