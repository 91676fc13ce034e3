# Every target makes .venv when it is missing or older than what defines it.
SHELL := /bin/bash

PYTHON ?= python3
BIN := .venv/bin
# Written after every install succeeded: a half-made .venv never counts as complete.
READY := .venv/.complete
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
# One thread in each test worker: two workers with two threads each on two cores mostly wait for each other.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
CODE := llmbole tests setup.py run_benchmark.py docs/hooks.py $(wildcard benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all check check-data docs format lock clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' Makefile | expand -t 20

demo: $(READY)  ## A-LLMRec on MovieLens-100K, from data to table
	@$(BIN)/python run_benchmark.py --model=ALLMRec --dataset=ml-100k

test: $(READY)  ## the fast tests
	@$(PYTEST) -m "not slow"

test-all: $(READY)  ## every test, with the slow proofs
	@$(PYTEST) -m ""

check: $(READY)  ## lint, format, types, docstrings
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy llmbole $(wildcard benchmarks)
	$(BIN)/pydoclint --quiet llmbole

DATA ?= ../shared/data
check-data: $(READY)  ## convert the raw data of DATA=FOLDER and compare counts, and CoLLM's split, with the published
	@$(BIN)/python benchmarks/check_data.py $(DATA)

# The theme's notice of its successor is no warning of this site.
docs: $(READY)  ## the documentation as a site in build/docs; open build/docs/index.html
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

format: $(READY)  ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

# Pins that still fit are kept; delete a line to let it move. CUDA libraries are left to the torch build that needs them.
lock: $(READY)  ## write requirements.lock anew from setup.py
	$(PIP) install uv
	mkdir -p build
	grep -v '^#' requirements.lock > build/requirements.lock
	$(BIN)/uv pip compile setup.py --extra dev --extra serve --universal --python-version 3.10 \
	    --no-header --no-annotate --quiet --output-file build/requirements.lock
	{ grep '^#' requirements.lock; grep -vE '^(cuda-|nvidia-|triton)' build/requirements.lock; } > build/requirements.new
	mv build/requirements.new requirements.lock

clean:  ## remove .venv, builds and caches; results and artifacts stay
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find llmbole tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "llmbole needs Python 3.10 to 3.13; PYTHON=$(PYTHON) is not that. Name one: make demo PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv (once; some minutes) ..."
	@rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(PIP) install --requirement requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@$(BIN)/python -m pip check
	@touch $@
