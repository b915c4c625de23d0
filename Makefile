# `make up` runs Slipway with a demo; `make test` proves it. Both need Python 3.11 or newer, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VENV   := .venv
PY     := $(VENV)/bin/python
STAMPS := $(VENV)/.stamps
PYTEST ?= -n 2
# Tests that start processes or a browser: minutes that `make test-fast` saves.
SLOW   := faults browser live bench agent platform
# Slipway itself, from where it lies: its command `slipway-agent`, and nothing fetched.
INSTALL_SELF = $(PY) -m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-build-isolation --no-index --editable .

.DEFAULT_GOAL := help
.PHONY: help up demo-reset test test-fast torture lint bench clean components check-python

help:
	@echo "make up          run Slipway here, with a demo of a rolling update; Ctrl-C stops it"
	@echo "make demo-reset  forget the demo's data and start over"
	@echo "make test        everything: lint, types, import contracts, all tests"
	@echo "make test-fast   the same without the tests that start many processes"
	@echo "make lint        style, types, import contracts"
	@echo "make torture     N=1000 rollouts while everything is killed, stopped and cut off"
	@echo "make bench       measure, and compare with other tools"
	@echo "make clean       remove what the commands above made"

up: $(STAMPS)/run
	@exec $(PY) -m portal.local.up

demo-reset: $(STAMPS)/run
	@$(PY) -m portal.local.reset
	@exec $(PY) -m portal.local.up

test: $(STAMPS)/dev components lint
	$(PY) -m pytest $(PYTEST)

test-fast: $(STAMPS)/dev lint
	$(PY) -m pytest $(PYTEST) --hypothesis-profile=fast $(SLOW:%=--ignore=tests/%)

# SEED=7 makes the decisions of that run again, POINTS= leaves out the deaths at each commit point by turn.
POINTS ?= yes
torture: $(STAMPS)/dev
	@$(PY) -m tests.faults.torture --rollouts $(or $(N),100) $(SEED:%=--seed %) $(if $(POINTS),--points)

lint: $(STAMPS)/dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# BENCH="--only queue" measures one section, BENCH=--full scales nothing up.
bench: $(STAMPS)/dev $(STAMPS)/bench
	@$(PY) -m bench.run $(BENCH)

# The tools that we are compared with; they stay out of our own environment.
$(STAMPS)/bench: requirements-bench.lock $(STAMPS)/venv
	@echo "Installing what the measurements compare with (once) ..."
	@$(PYTHON) -m venv --clear .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements-bench.lock
	@touch $@

clean:
	@if [ -x $(PY) ]; then $(PY) -m portal.local.reset; fi
	rm -rf $(VENV) .venv-bench .slipway .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# The browser that tests/browser drives. Root on Debian gets it installed; everybody else is told.
components: $(STAMPS)/dev
	@$(PY) -m portal.local.components

check-python:
	@test -n "$(PYTHON)" && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Slipway needs Python 3.11 or newer. Install it, or say where it is: make PYTHON=/path/to/python3.11 ..." >&2; \
	  exit 1; }

# One environment for both: `up` needs less than `test`, which installs the rest on top. A stamp that is
# older than its lock file means that the lock has changed.
$(STAMPS)/venv: | check-python
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS)
	@touch $@

$(STAMPS)/run: requirements.lock $(STAMPS)/venv
	@echo "Installing what Slipway stands on (once) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements.lock
	@$(INSTALL_SELF)
	@touch $@

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/venv
	@echo "Installing what Slipway and its tests stand on (once) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-input --require-hashes -r requirements-dev.lock
	@$(INSTALL_SELF)
	@touch $@ $(STAMPS)/run
