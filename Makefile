# Esteira: `make help` lists what there is.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKS := requirements.txt requirements-dev.txt

# With it every start of Python would take twice as long.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo up down test test-quick test-slow test-dags test-live test-objects test-year test-compose lint audit format lock bench-parse bench-day bench-scale bench-loop bench-start soak simulate simulate-broken \
	secrets image scan deploy first-day backup restore mails screenshots bench-alternatives bench-web clean

help: ## Show this help
	@echo "Usage: make <target>"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  %-13s %s\n", $$1, $$2 }'
	@echo "Ports: ESTEIRA_WEB_PORT (8080), ESTEIRA_MLFLOW_PORT (5000), ESTEIRA_SMTP_PORT (2525)"

setup: $(READY) ## Create .venv with everything in requirements.txt and requirements-dev.txt (other targets do so by themselves)

# Only files with a hash in the locks are installed, and nothing is built but the project itself, by the setuptools of the lock.
$(READY): $(LOCKS) pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(0 if sys.version_info[:2] == (3, 11) else "Python 3.11 is needed, this is " + sys.version.split()[0] + "; call make PYTHON=/path/to/python3.11")'
	@echo "setting up $(VENV); the first time takes a minute or two"
	@( while sleep 5 >/dev/null 2>&1; do echo "  … setting up $(VENV), $$SECONDS s"; done ) & beat=$$!; trap 'kill $$beat' EXIT; \
	if command -v uv >/dev/null; then \
		uv venv --quiet --allow-existing --python "$(PYTHON)" $(VENV); \
		uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --no-build $(LOCKS:%=-r %); \
		uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	else \
		"$(PYTHON)" -m venv $(VENV); \
		$(PIP) --require-hashes --no-deps --only-binary :all: $(LOCKS:%=-r %); \
		$(PIP) --no-deps --no-build-isolation --editable .; \
	fi
	@touch $(READY)

demo: $(READY) ## Run two simulated models through the whole loop on a real Airflow (2 minutes), and leave it up to look at
	@$(BIN)/python -m ops.demo

up: $(READY) ## Start Airflow, MLflow and a mail catcher on 127.0.0.1
	@$(BIN)/python -m ops.stack up

down: $(READY) ## Stop what `make up` or `make demo` started
	@$(BIN)/python -m ops.stack down

test: test-quick test-live ## Run the tests: unit, DAGs, integration, and a live Airflow (test-slow has the slow ones)

test-live: $(READY) ## Run the tests with a live Airflow and a browser
	@$(BIN)/python -m pytest -m "live and not slow" --durations=15

test-quick: $(READY) ## Run the tests that need no live Airflow and are quick
	@$(BIN)/python -m pytest -m "not live and not slow and not objects" -n 2 --dist worksteal --durations=15

test-slow: $(READY) ## Run the slow tests: the whole corpus by DAG, replays, real data live, every command of the docs
	@$(BIN)/python -m pytest -m "slow and not live and not objects" -n 2 --dist worksteal --durations=15
	@$(BIN)/python -m pytest -m "slow and live and not year" --durations=15

test-year: $(READY) ## Run real data on a live Airflow: a year of bike_demand, a quarter of electricity (7 minutes)
	@$(BIN)/python -m pytest -m year

test-dags: $(READY) ## Run the DAGs' integrity and policy tests
	@$(BIN)/python -m pytest tests/dags/test_integrity.py

test-objects: $(READY) ## Run the whole corpus with its files and its lake in an object store, and all outages of one (10 minutes)
	@$(BIN)/python -m pytest -m "objects or slow or not slow" tests/integration/test_objects.py -n 2 --dist worksteal

test-compose: $(READY) ## Run the stack of docker-compose.yaml, kill its parts, back it up and restore it (an hour; needs Docker)
	@$(BIN)/python -W ignore -m tests.compose $(COMPOSE)

mails: $(READY) ## Show what each mail looks like: pages and pictures in .esteira/mails (needs Chromium for the pictures)
	@$(BIN)/python -m tests.pictures.mails

screenshots: $(READY) ## Take pictures of the plugin's pages and put them into docs/images (needs Chromium; 5 minutes)
	@$(BIN)/python -m tests.pictures.pages

lint: $(READY) ## Check style, types, import layers, every model.yaml, the image's, the stack's and the pipelines' files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/esteira validate
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker-compose.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.azure-pipelines --data-transform azure-pipelines --regex-variant python azure-pipelines.yml .azure/*.yml
	@$(BIN)/zizmor --offline --quiet --no-progress .github
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/shellcheck .ci/run
	@if command -v actionlint >/dev/null; then actionlint; else echo "actionlint is not on this machine: left out here, run by .github/workflows/ci.yml"; fi

# docker-compose.yaml; these need Docker, but no .venv.

secrets: ## Write .env, with random secrets for docker-compose.yaml, if it is not there
	@"$(PYTHON)" -m ops.containers secrets

image: ## Build the image of docker-compose.yaml (ESTEIRA_IMAGE names it)
	@ESTEIRA_COMMIT="$$(git describe --always --abbrev=40 --dirty=+ '--exclude=*' 2>/dev/null || true)" docker compose build

first-day: ## In the running stack train a model and score a day: MODEL=toll_traffic DAY=2026-02-01
	@"$(PYTHON)" -m ops.containers first-day "$${MODEL:-toll_traffic}" "$${DAY:-2026-02-01}"

backup: ## Write a backup of the stack to a new folder: TO=folder
	@"$(PYTHON)" -m ops.containers backup "$${TO:?esteira: name a new folder, make backup TO=folder}"

restore: ## Bring a backup into a stack without volumes, and start it: FROM=folder
	@"$(PYTHON)" -m ops.containers restore "$${FROM:?esteira: name the folder of a backup, make restore FROM=folder}"

deploy: ## Start the image ESTEIRA_IMAGE on DEPLOY_HOST (user@host, or local); docs/production.md has the rest
	@"$(PYTHON)" -m ops.containers deploy

scan: ## Look for known holes in the image ESTEIRA_IMAGE (needs the network); .trivyignore names those that are borne, and why
	@mkdir -p .esteira && docker save --output .esteira/image.tar "$${ESTEIRA_IMAGE:-esteira:local}"
	@docker run --rm --volume "$$PWD/.esteira/image.tar:/image.tar:ro" --volume "$$PWD/.trivyignore:/.trivyignore:ro" aquasec/trivy:0.74.0 \
		image --input /image.tar --quiet --scanners vuln --timeout 20m --ignorefile /.trivyignore --ignore-unfixed \
		--severity HIGH,CRITICAL --exit-code 1
	@rm .esteira/image.tar

audit: $(READY) ## Look for known holes in the packages of requirements.txt (needs the network)
	@$(BIN)/pip-audit --requirement requirements.txt --require-hashes --disable-pip --strict

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

lock: ## Make the requirements*.txt, with hashes, from their .in files; pins that still fit stay (needs uv)
	@for name in requirements requirements-dev requirements-uv; do \
		uv pip compile --quiet $$name.in --output-file $$name.txt --python-version 3.11 --universal \
			--generate-hashes --no-annotate --custom-compile-command 'make lock' $(LOCKFLAGS); \
	done

bench-parse: $(READY) ## Print how long Airflow takes to parse the DAGs of 1, 100 and 1,000 models, beside the same DAGs from literals (10 minutes)
	@$(BIN)/python -m benchmarks.parse $(PARSE)

bench-day: $(READY) ## Print how long a day of a small model takes: in one process, beside a bare script, live, in a replay
	@$(BIN)/python -W ignore -m benchmarks.day $(DAY)

bench-scale: $(READY) ## Print how long a day of any size takes, and its memory, beside a bare stream; in shards, with texts, a year of days (an hour)
	@$(BIN)/python -W ignore -m benchmarks.scale $(SCALE)

bench-loop: $(READY) ## Print how the loop fares on real drift (ESTEIRA_DATA) and on simulated streams (two or three hours)
	@$(BIN)/python -m benchmarks.loop

bench-start: $(READY) ## Print how long N first starts take on a busy machine, and how many calls fail under writers (N=10: 15 minutes)
	@$(BIN)/python -m benchmarks.start --rounds "$${N:-10}" $(BENCH)

bench-alternatives: $(READY) ## Time a day, small and large, beside a bare script, Kedro, Metaflow, Dagster and a plain DAG (20 minutes; needs uv and the package index)
	@$(BIN)/python -W ignore -m benchmarks.alternatives

bench-web: $(READY) ## Measure how long the pages' answers take with 200 models and a year of checks each, and what they read (10 minutes)
	@$(BIN)/python -m benchmarks.web

soak: $(READY) ## Kill, race and break the steps hundreds of times, and print what was lost, doubled or differs (90 minutes; needs cc)
	@$(BIN)/python -W ignore -m tests.soak $(SOAK)

simulate: $(READY) ## Check 100,000 random histories of the life cycle, and 1,000 over the real steps with tasks that die and meet (15 minutes)
	@$(BIN)/python -m tests.simulation.lifecycle $(N)
	@$(BIN)/python -W ignore -m tests.simulation.steps $(STEPS)

simulate-broken: $(READY) ## Break each rule of the simulation on purpose, and search by random histories until one finds it (30 minutes)
	@$(BIN)/python -W ignore -m tests.simulation.broken $(STEPS)

clean: ## Stop everything and remove .venv, .esteira and caches
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m ops.stack clean; \
	elif [ -n "$${ESTEIRA_HOME:-}" ]; then echo "esteira: to clean $$ESTEIRA_HOME .venv is needed: make setup clean"; exit 1; fi
	@rm -rf $(VENV) .esteira .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis include/esteira.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
