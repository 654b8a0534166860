# `make help` lists the targets. Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3.11
BIN := .venv/bin
BASE := .venv/.installed
DEV := .venv/.installed-dev
# Two test processes with one thread each: quicker than one with two. A file stays in one process, which starts Ray once.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile
# What `make own` finds in VIDEOS: raw videos (`videos`), or videos already cropped to a face (`clips`).
KIND ?= videos
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo own own-videos test test-fast coverage check lint format browser bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(DEV) ## create .venv with the pinned versions, all extras and the test tools

$(BASE): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found. Install Python 3.11 or set PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv
	$(PIP) -e .
	@touch $@

$(DEV): $(BASE)
	$(PIP) -e '.[app,dev,download,faces,mlflow,wandb]'
	@touch $@

demo: $(BASE) ## everything on a built-in data set; report: runs/demo/report/index.html
	$(BIN)/python -m pipelines.demo --config configs/demo.yaml

own: own-videos install ## everything on your videos: make own VIDEOS=DIR (see docs/own_videos.md)
	$(BIN)/python -m pipelines.preprocess --config configs/own/$(KIND).yaml --set "source.folder=$(VIDEOS)"
	$(BIN)/python -m pipelines.train --config configs/own/pretrain.yaml
	$(BIN)/python -m pipelines.train --config configs/own/train.yaml
	$(BIN)/python -m pipelines.evaluate --config configs/own/evaluate.yaml

own-videos: # before anything is installed
	@test -d "$(VIDEOS)" || { echo "error: VIDEOS=$(VIDEOS) is not a folder. Run: make own VIDEOS=DIR"; exit 2; }

test: install ## all tests, the fast ones first
	$(PYTEST) -m 'not slow and not ray'
	$(PYTEST) -m 'slow or ray'

test-fast: install ## only the fast tests
	$(PYTEST) -m 'not slow and not ray'

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

coverage: install ## line coverage of the fast tests; fails below the floor
	$(PYTEST) -m 'not slow and not ray' --cov=safa --cov=pipelines --cov-report=term-missing:skip-covered --cov-fail-under=91

check: lint test ## what must pass at every commit

format: install ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

browser: install ## report and page in a browser; needs Chromium, and npm for axe-core
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo "skipped: no Chromium on this machine"; exit 0; }; \
	command -v npm >/dev/null || { echo "skipped: no npm, which fetches axe-core"; exit 0; }; \
	$(PIP) -e '.[browser]' && $(BIN)/python -m pytest tests/browser/check_*.py

bench: install ## all benchmarks; each prints ratios measured in one run
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean: ## remove caches (keeps .venv and runs)
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
