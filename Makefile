# One command for each habit. `make help` lists them. Needs Python 3.11 or later and nothing else.

PORT ?= 8000
VENV ?= .venv
PYTHON ?= $(shell for candidate in python3.13 python3.12 python3.11 python3; do \
	if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$candidate; break; fi; done)
BIN := $(VENV)/bin
# Tests in parallel; 0 runs them in one process.
TEST_WORKERS ?= 2
TEST_ARGS ?=
# Of `make drills`: so many seeds.
SEEDS ?=
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install install-test up rush bench bench-growth audit migrate test test-slow test-machine test-cluster test-all drills drills-failpoints mutations check format schema statuses lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed (with its venv module); none was found. Say where: make up PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp is newer than its lock file exactly when that lock is installed.
$(VENV)/run.stamp: requirements/run.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/run.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@touch $@

$(VENV)/test.stamp: requirements/test.txt $(VENV)/run.stamp
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/test.txt
	@touch $@

install: $(VENV)/run.stamp ## the virtual environment with all that the product needs
install-test: $(VENV)/test.stamp

up: install ## everything, on http://127.0.0.1:8000 (PORT=… for another); Ctrl-C stops it
	@exec $(BIN)/rush up --port $(PORT) $(ARGS)

rush: install ## the ticket rush: load, audit, verdict (ARGS="--help" shows what can be set)
	@exec $(BIN)/rush load $(ARGS)

bench: install ## the whole-stack benchmark, Locust included (ARGS="--help" shows what can be set)
	@exec $(BIN)/rush bench $(ARGS)

bench-growth: install-test ## how cost grows with holds, buyers and events: a table, JSON, a plot (ARGS="--help")
	@exec $(BIN)/python -m loadtest.growth $(ARGS)

audit: install ## check a running system: oversold, lost, counted twice?
	@exec $(BIN)/rush audit $(ARGS)

migrate: install ## bring the database of RUSH_DATABASE_URL up to date
	@exec $(BIN)/rush migrate $(ARGS)

test: install-test ## the tests, without the slow ones; needs no servers on this machine
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not slow" $(TEST_ARGS)

test-slow: install-test ## the slow ones
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m slow $(TEST_ARGS)

test-machine: install-test ## all tests on this machine's Redis and Postgres
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --stores machine $(TEST_ARGS)

# What a Redis Cluster may do otherwise than one node.
CLUSTER_TESTS = tests/api $(addprefix tests/integration/test_, cells.py holds.py gateways.py same_key.py)

test-cluster: install-test ## the tests of sales, with a Redis Cluster of three masters in the place of one Redis
	$(BIN)/python -m pytest -n $(TEST_WORKERS) --stores cluster $(CLUSTER_TESTS) $(TEST_ARGS)

test-all: test test-slow test-machine test-cluster ## all of these

drills: install-test ## kill anything, lose nothing: every fault once; SEEDS=200 for hours of it (ARGS="--help")
	@exec $(BIN)/python -m tests.drills $(if $(SEEDS),--seeds $(SEEDS)) $(ARGS)

drills-failpoints: install-test ## die at every fail point, lose nothing: a table of them (ARGS="--help")
	@exec $(BIN)/python -m tests.drills.failpoint_drill $(ARGS)

mutations: install-test ## plant bugs, one after the other: do the drills notice each? (ARGS="--help")
	@exec $(BIN)/python -m tests.drills.mutation_gate $(ARGS)

check: install-test ## format, lint, types, import directions, Lua, compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@if command -v luacheck >/dev/null; then luacheck --quiet lua; else echo "luacheck is not installed: skipped"; fi
	@if command -v docker-compose >/dev/null; then \
		RUSH_JWT_SECRET=x POSTGRES_PASSWORD=x REDIS_PASSWORD=x GRAFANA_PASSWORD=x docker-compose config --quiet \
		&& echo "docker-compose.yml is valid"; \
	else echo "docker-compose is not installed: skipped"; fi

format: install-test ## put the code into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

schema: install-test ## write migrations/schema.sql from the migrations
	$(BIN)/python -m rush.schema

statuses: install ## write the Python enum from lua/lib/status.lua
	$(BIN)/python -m engine.scripts --generate

COMPILE = uv pip compile --quiet --generate-hashes --universal --python-version 3.11 \
	--no-emit-index-url --no-header --no-annotate pyproject.toml
lock: | $(BIN)/python ## choose the newest versions and write requirements/*.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(abspath $(BIN)):$$PATH" $(COMPILE) --upgrade --extra build --extra embedded --extra load --extra bench --extra test -o requirements/test.txt
	PATH="$(abspath $(BIN)):$$PATH" $(COMPILE) --extra build --extra embedded --extra load -c requirements/test.txt -o requirements/run.txt
	PATH="$(abspath $(BIN)):$$PATH" $(COMPILE) --extra build -c requirements/test.txt -o requirements/server.txt

clean: ## remove what was built; the data in .rush/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
