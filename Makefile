# Esteira: `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# With it every start of Python would take twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up down test test-quick lint audit format lock bench-parse bench-loop soak clean

help: ## Show this help
	@echo "Usage: make <target>"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo "Ports: ESTEIRA_WEB_PORT (8080), ESTEIRA_MLFLOW_PORT (5000), ESTEIRA_SMTP_PORT (2525)"

setup: $(READY) ## Create .venv with everything in requirements.txt (every other target does so by itself)

$(READY): requirements.txt pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed, this is " + sys.version.split()[0] + "; call make PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV); the first time takes a minute or two"
	@if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
		uv pip install --quiet --python $(BIN)/python --compile-bytecode -r requirements.txt; \
		uv pip install --quiet --python $(BIN)/python --no-deps --editable .; \
	else \
		"$(PYTHON)" -m venv $(VENV); \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
	fi
	@touch $(READY)

demo: $(READY) ## Run two simulated models through the whole loop on a real Airflow (2 minutes), and leave it up to look at
	@$(BIN)/python -m local.demo

up: $(READY) ## Start Airflow, MLflow and a mail catcher on 127.0.0.1
	@$(BIN)/python -m local.stack up

down: $(READY) ## Stop what `make up` or `make demo` started
	@$(BIN)/python -m local.stack down
	@ESTEIRA_HOME="$${ESTEIRA_HOME:-.esteira}/demo" $(BIN)/python -m local.stack down

test: test-quick ## Run all tests: unit, DAGs, integration, and a live Airflow
	@$(BIN)/python -m pytest -m live

test-quick: $(READY) ## Run the tests that need no live Airflow
	@$(BIN)/python -m pytest -m "not live" -n 2

lint: $(READY) ## Check style, types, import layers and every model.yaml
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/esteira validate

audit: ## Look for known holes in the packages of requirements.txt (needs the network and uv)
	@uvx pip-audit --requirement requirements.txt --no-deps --disable-pip --strict

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: ## Make requirements.txt from requirements.in; pins that still fit stay (needs uv)
	@uv pip compile --quiet requirements.in --output-file requirements.txt --python-version 3.11 --universal \
		--no-annotate --custom-compile-command 'make lock' $(LOCKFLAGS)

bench-parse: $(READY) ## Print how long Airflow takes to parse the DAGs of 1 and of 100 models
	@$(BIN)/python -m benchmarks.parse

bench-loop: $(READY) ## Print how the loop fares on real drift (ESTEIRA_DATA) and on simulated streams (two hours)
	@$(BIN)/python -m benchmarks.loop

soak: $(READY) ## Kill, race and break the steps hundreds of times, and print what was lost, doubled or differs (an hour; needs cc)
	@$(BIN)/python -W ignore -m tests.soak $(SOAK)

clean: ## Stop everything and remove .venv, .esteira and caches
	@if [ -x $(BIN)/python ]; then $(MAKE) --no-print-directory down; fi
	@rm -rf $(VENV) .esteira .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis include/esteira.egg-info
