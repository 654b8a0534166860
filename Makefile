# `make help` lists the targets. Everything lives in .venv; nothing is installed outside it.
# The newest Python that fits. A name may be there and not run (pyenv), so each is tried.
VERSIONS := 3.13 3.12 3.11
FITS := import sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,$(VERSIONS:%=python%) python3 python,$(shell $(name) -c '$(FITS)' 2>/dev/null && echo $(name))))
BIN := .venv/bin
BASE := .venv/.installed
DEV := .venv/.installed-dev
# Two test processes with one thread each: quicker than one with two. A file stays in one process, which starts Ray once.
# tests/conftest.py names the files that begin, so that none of them ends alone.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
# What `make own` finds in VIDEOS: raw videos (`videos`), or videos already cropped to a face (`clips`).
KIND ?= videos
PRESET ?= demo
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# pip compiles on one core; here all share it. Some packages have templates in it that are no Python.
COMPILE := $(BIN)/python -m compileall -qq -j 0 .venv/lib >/dev/null 2>&1 || true

.DEFAULT_GOAL := help
.PHONY: help install demo own own-videos test test-fast soak audit coverage check lint format pythons browser bench clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(DEV) ## create .venv with the pinned versions, all extras and the test tools

$(BASE): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" && $(PYTHON) -c '$(FITS)' 2>/dev/null || \
	{ echo "error: $(or $(PYTHON),no Python here) is not Python 3.11, 3.12 or 3.13. Install one, or set PYTHON=FILE"; exit 2; }
	$(PYTHON) -m venv .venv
	$(if $(TORCH_INDEX),$(PIP) --index-url "$(TORCH_INDEX)" torch)
	@$(PIP) -e '.[dlib,imagenet]' || { echo "note: dlib cannot be installed here: no face detector (see docs/cli.md)"; $(PIP) -e '.[imagenet]'; }
	@$(COMPILE)
	@touch $@

$(DEV): $(BASE)
	$(PIP) -e '.[app,dev,download,faces,mlflow,onnx,wandb]'
	@$(COMPILE)
	@touch $@

demo: $(BASE) ## everything on a built-in data set; report: runs/demo/report/index.html
	$(BIN)/python -m pipelines.demo --config configs/demo.yaml

own: own-videos install ## everything on your videos: make own VIDEOS=DIR [PRESET=small] (see docs/own_videos.md)
	$(BIN)/python -m pipelines.demo --config configs/own_videos.yaml --set "videos=$(VIDEOS)" --set "preset=$(PRESET)" \
	  $(if $(filter clips,$(KIND)),--set 'preprocess.source={kind: clips, split: auto}')

own-videos: # before anything is installed
	@test -d "$(VIDEOS)" || { echo "error: VIDEOS=$(VIDEOS) is not a folder. Run: make own VIDEOS=DIR"; exit 2; }

test: install ## all tests, the fast ones first
	$(PYTEST) -m 'not slow and not ray and not soak'
	$(PYTEST) -m '(slow or ray) and not soak'

test-fast: install ## only the fast tests
	$(PYTEST) -m 'not slow and not ray and not soak'

soak: install ## the long tests: every fault of docs/reliability.md on several raylets, a million hostile pickles, other hostile files
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak
	$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) -e '.[fuzz]' || echo "note: no atheris here: random changes"
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/pickle_target.py --runs 1000000
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/reader_target.py --runs 20000

audit: install ## known holes in the pinned versions, by pip-audit; needs a network
	@$(PIP) pip-audit 2>/dev/null || { echo "skipped: pip-audit cannot be installed here"; exit 0; }; \
	$(BIN)/python -m pip_audit --progress-spinner off --strict --requirement constraints.txt --no-deps --disable-pip \
	  2> .venv/audit.log || { grep -qiE 'connection|resolve|unreachable|timed out|proxy|not found on PyPI' .venv/audit.log && \
	  { echo "skipped: no network to the package index, so nothing is known of the pinned versions"; exit 0; }; cat .venv/audit.log; exit 1; }

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What the tests that need no torch (and no Ray) import.
WITHOUT_TORCH := pytest pytest-timeout hypothesis numpy scipy pillow pyarrow pydantic pyyaml jinja2 av imageio-ffmpeg ffmpeg-python
NEED_TORCH := help cluster_doc cluster_file kuberay_files layering graphs job_package
NEED_NO_TORCH := $(filter-out $(NEED_TORCH:%=tests/contract/test_%.py),$(wildcard tests/contract/test_*.py)) \
  $(filter-out %/test_demo.py,$(wildcard tests/unit/config/test_*.py)) tests/unit/report/test_titles.py tests/unit/data/test_face_tracks.py

pythons: install ## lint, types and the tests that need no torch, on each Python from 3.11 to 3.13
	@set -e; for version in $(VERSIONS); do \
	  python=$$(for each in python$$version $(HOME)/.pyenv/versions/$$version.*/bin/python; do \
	    $$each -c '$(FITS)' 2>/dev/null && echo $$each && break; done); \
	  test -n "$$python" || { echo "== Python $$version: not here, skipped"; continue; }; \
	  echo "== Python $$version"; \
	  $(BIN)/ruff check --quiet --ignore UP --target-version py$$(echo $$version | tr -d .) .; \
	  $(BIN)/mypy --python-version $$version; \
	  $$python -m venv .venv-$$version; \
	  .venv-$$version/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt $(WITHOUT_TORCH); \
	  PYTHONPATH=. .venv-$$version/bin/python -m pytest --noconftest $(NEED_NO_TORCH); \
	done

coverage: install ## line coverage of the fast tests; fails below the floor
	$(PYTEST) -m 'not slow and not ray and not soak' --cov=safa --cov=pipelines --cov-report=term-missing:skip-covered --cov-fail-under=91

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
	rm -rf .venv-3.* .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
