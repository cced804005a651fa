# The two commands are `make demo` and `make test`; each sets up what it needs from a fresh checkout.
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench up down lock docs snapshots

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready node_modules/.ready

help: ## What can be made
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST)

setup: $(READY) ## Install into .venv and node_modules of this checkout

demo: setup ## A simulated fleet through the whole deployed pipeline, and the balance that proves nothing is missing
	@$(BIN)/fleet demo $(ARGS)

test: setup ## The whole suite (ARGS="tests/unit -k name" for a part)
	@$(BIN)/python -m pytest $(ARGS)

lint: setup ## ruff, mypy --strict, lock files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup ## The benchmarks
	@$(BIN)/fleet bench $(or $(ARGS),loader)

up: setup ## Start the local environment
	@$(BIN)/fleet up

down: setup ## Stop it
	@$(BIN)/fleet down

docs: setup ## Write the generated parts of docs/ and dashboards/ again
	@$(BIN)/python -m ops.documents
	@$(BIN)/python -m dashboards.build

snapshots: setup ## Record prod's templates again, to look at what changed with git diff
	@$(BIN)/python -m tests.infra.snapshots

lock: setup ## Resolve the locks again from requirements/*.in
	@./requirements/lock.sh $(BIN)/uv

# What a machine must bring is checked once, before anything is installed.
$(VENV)/.ready: requirements/dev.lock pyproject.toml requirements/check-machine.sh
	@sh requirements/check-machine.sh $(PYTHON)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "setup: Python packages (about a minute the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

node_modules/.ready: package-lock.json requirements/check-machine.sh
	@sh requirements/check-machine.sh $(PYTHON)
	@echo "setup: the CDK command line"
	@npm ci --silent --no-audit --no-fund
	@touch $@
