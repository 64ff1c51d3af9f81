# Everything runs in the project's own virtual environment, which the first target that needs it makes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2
# One thread per test process: several processes with several threads each fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help venv test check lint types imports demo docs docs-generate docs-serve bench reproduce train clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

venv: $(STAMP) ## Make .venv and install tokenry into it (editable)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tokenry needs Python 3.11 or newer; call: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# torch first, pinned: the dependency resolver would otherwise pick the newest build with its CUDA packages.
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --editable '.[adapt,demo,dev,docs,retrieval]'
	@touch $@

test: check ## make check, then the whole test suite
	$(PYTEST) -n $(JOBS) --dist worksteal

check: lint types imports ## Linter, formatter, type checker, import contracts

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

demo: $(STAMP) ## Compare methods on the embedded model, print the table, write a report
	$(BIN)/tokenry demo

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
	$(BIN)/python -m tokenry.learn.vlm recipes/embedded_vlm.yaml

clean: ## Remove the environment, caches and built pages
	rm -rf $(VENV) site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
