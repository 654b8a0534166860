# `make help` lists the targets. Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3.11
BIN := .venv/bin
BASE := .venv/.installed
DEV := .venv/.installed-dev
# Two test processes with one thread each: quicker than one with two. A file stays in one process, which starts Ray once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo real test test-fast check lint format bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(DEV) ## create .venv with the pinned versions, every extra and the tools for tests

$(BASE): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found. Install Python 3.11 or set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

$(DEV): $(BASE)
	$(PIP) -e '.[app,dev,download,faces]'
	@touch $@

demo: $(BASE) ## the whole job on a built-in data set; writes runs/demo/report/index.html
	$(BIN)/python -m pipelines.demo --config configs/demo.yaml

real: install ## the whole job on the real clips of ../shared/real; writes runs/real/report/index.html
	$(BIN)/python -m pipelines.preprocess --config configs/real/preprocess.yaml
	$(BIN)/python -m pipelines.preprocess --config configs/real/clips.yaml
	$(BIN)/python -m pipelines.train --config configs/real/pretrain.yaml
	$(BIN)/python -m pipelines.train --config configs/real/train.yaml
	$(BIN)/python -m pipelines.evaluate --config configs/real/evaluate.yaml

test: install ## every test, the fast ones first
	$(PYTEST) -m 'not slow and not ray'
	$(PYTEST) -m 'slow or ray'

test-fast: install ## only the fast tests
	$(PYTEST) -m 'not slow and not ray'

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test ## what must be green at every commit

format: install ## let ruff fix what it can; bring the README's file list up to date
	$(BIN)/python docs/file_list.py
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install ## every benchmark; each prints a ratio measured in one run
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## remove caches (keeps .venv and runs)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
