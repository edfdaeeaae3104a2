# To begin: `make demo` and `make test`. Everything they need is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test lint lint-python lint-template unit integration faults coverage bench load calls lock down clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready ## install what development needs, from the lock file, into .venv

# pip installs only uv (with its pin and hashes from the lock), and uv the rest: in seconds, not minutes.
.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "stepflake needs Python 3.11 or newer; set PYTHON=python3.11")'
	@echo "Setting up .venv (once) ..."
	@$(PYTHON) -m venv .venv
	@awk '/^uv==/{p=1} p{print} p&&!/\\$$/{exit}' requirements.lock > .venv/uv.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.txt
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: .venv/.ready ## answer a SQL query with Lambdas that a state machine orchestrates, on this machine
	@$(BIN)/stepflake demo

test: lint unit integration faults ## everything that must pass: lint, types, unit, states, integration, conformance
	@echo "Coverage of lines and branches: $$($(BIN)/coverage report --format=total) % (make coverage lists what is not covered)"

# The two halves take about as long as each other, and each uses one processor.
lint: .venv/.ready ## ruff, mypy, cfn-lint, sam validate, and stepflake lint
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint-python lint-template

lint-python: .venv/.ready
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy stepflake lambdas tests benchmarks

lint-template: .venv/.ready
	@$(BIN)/cfn-lint template.yaml
	@$(BIN)/sam validate --lint --template template.yaml
	@$(BIN)/stepflake lint

unit: .venv/.ready ## the tests that need no stack, with coverage
	@$(BIN)/pytest -q -n auto --cov --cov-report= tests/unit

integration: .venv/.ready ## the tests on a real local stack, started once and shared by two processes
	@$(BIN)/pytest -q -n 2 --dist loadfile tests/states tests/integration tests/conformance

# The same faults each time: --fault seed=N gives others.
faults: .venv/.ready ## the main tests of every workflow once more, while calls are throttled, lost and late and Lambdas die
	@$(BIN)/pytest -q -n 2 --dist loadfile -m faults --fault throttle=0.05 --fault lost=0.03 --fault kill=0.01 --fault delay=0.05:0.5 --fault seed=7 tests/integration

coverage: .venv/.ready ## list what the last `make unit` did not cover
	@$(BIN)/coverage report

bench: .venv/.ready ## compare the stack with the pattern that people copy today
	@$(BIN)/python -m benchmarks

load: .venv/.ready ## an XL warehouse's batches against AWS's quotas, load and quotas scaled down alike
	@$(BIN)/python -m benchmarks.load

calls: .venv/.ready ## queries that call Comprehend within its quota, results that are reused; about an hour
	@$(BIN)/python -m benchmarks.calls

lock: .venv/.ready ## pin the newest versions that pyproject.toml and lambdas/requirements.in allow
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml --all-extras -o requirements.lock
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header lambdas/requirements.in -c requirements.lock -o lambdas/requirements.txt

down: ## stop the local stack
	@$(BIN)/stepflake down

clean: ## remove everything that was built or installed
	-@if [ -x $(BIN)/stepflake ]; then $(BIN)/stepflake down --all; fi
	rm -rf .coverage .venv .aws-sam .stepflake .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
