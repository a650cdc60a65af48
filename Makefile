# Everything a person or a machine does with this repository. `make` alone explains itself.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
SERVICES := ingest greeks gateway orders control simulator fleet
# Arguments for the programs behind `run`, `test` and `bench`: make test ARGS="-k lease"
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test check lint types imports contracts deploy-check isolation chaos bench schema images lock clean

help:  ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  \033[1m%-13s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The machine's own certificates count, as they do for pip: many companies have a proxy.
export UV_SYSTEM_CERTS := 1

# uv installs the locked set in seconds; where it cannot be had or fails, pip does the same slowly.
$(STAMP): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "tickfleet needs Python 3.11 or newer: make PYTHON=python3.12 setup"; exit 1; }
	@echo "Installing the locked dependencies into $(VENV) …"
	@{ $(PIP) install uv 2>/dev/null && \
	   $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	   $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -e . ; } || \
	 { $(PIP) install --require-hashes -r requirements.lock && $(PIP) install --no-deps -e . ; }
	@touch $(STAMP)

setup: $(STAMP)  ## Make the virtual environment and install everything, hashes checked

run: $(STAMP)  ## Run the whole fleet on this machine and print the dashboard's address
	@$(BIN)/tickfleet up $(ARGS)

# Whole fleets have the machine to themselves; the other tests mostly wait for their own servers, so
# two files run at a time. With ARGS everything runs in one process, as a debugger wants it.
test: $(STAMP)  ## Run all tests on real servers and real processes
ifeq ($(strip $(ARGS)),)
	@$(BIN)/python -m pytest tests/fleet tests/browser
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/contract tests/integration tests/unit
else
	@$(BIN)/python -m pytest $(ARGS)
endif

check: lint types imports contracts deploy-check  ## Lint, types, import rules, contracts, deployment files

lint: $(STAMP)  ## Ruff, all rules, and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	@$(BIN)/mypy

imports: $(STAMP)  ## Who may import whom
	@$(BIN)/lint-imports

contracts: $(STAMP)  ## asyncapi.json is current and breaks nobody
	@$(BIN)/python -m libs.common.contracts.asyncapi --check

deploy-check: $(STAMP)  ## Dockerfile and compose file, without an engine
	@$(BIN)/hadolint deploy/Dockerfile
	@$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml
	@NATS_PASSWORD=x POSTGRES_PASSWORD=x ACCOUNT_ENCRYPTION_KEY=x JWT_SECRET=x API_KEY=x \
	  $(BIN)/docker-compose --file deploy/compose.yaml config --quiet
	@$(BIN)/yamllint --strict deploy .pre-commit-config.yaml

isolation: $(STAMP)  ## Install each service with nothing but its own extra and import all of it
	@for service in $(SERVICES); do $(BIN)/python tests/isolation.py $$service || exit 1; done

chaos: $(STAMP)  ## Send 10 000 orders through faults and kills; ARGS="--orders 2000 --seed 3"
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: $(STAMP)  ## Run the benchmarks, each against its baseline in the same run
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python -m benchmarks.$$(basename $$file .py) $(ARGS) || exit 1; done

schema: $(STAMP)  ## Generate asyncapi.json anew from the message structs
	@$(BIN)/python -m libs.common.contracts.asyncapi --write

images: $(STAMP)  ## Build one image per service (needs a container engine)
	@for service in $(SERVICES); do \
	  docker build --file deploy/Dockerfile --build-arg SERVICE=$$service --tag tickfleet-$$service:dev . || exit 1; done

lock: $(STAMP)  ## Refresh requirements.lock: every platform, with hashes, no host names
	@$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	  --no-header --no-emit-index-url --no-emit-find-links --all-extras --group dev --upgrade \
	  -o requirements.lock > /dev/null
	@$(BIN)/python tests/lock_names_no_host.py

clean:  ## Remove the virtual environment, caches and the embedded fleet's data
	@rm -rf $(VENV) .data .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache test-results
