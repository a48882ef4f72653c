# Self-documenting: the text after ## is what `make` prints.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(shell command -v $(name) >/dev/null 2>&1 && $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
LOCK := requirements/dev.txt
WORKERS ?= 5
# Containers often set it. Then each worker would compile every test, and each daemon all of gizmopy: 1.4 s, not 0.4.
export PYTHONDONTWRITEBYTECODE =
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10
UV := $(VENV)-lock/bin/uv
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run test peers check bench endurance docs lock audit clean

help:  ## Print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: $(RUN)  ## Start the example daemon on 127.0.0.1:8080 (HTTP_PORT=9000 make run)
	@cd examples/3-both && GIZMO_DEBUG=$${GIZMO_DEBUG:-true} exec $(abspath $(BIN))/gizmopy run cats:Cats

# Most tests wait for a broker, a process or a timer: more workers than cores. Each file stays with one worker, so
# that its fixtures, such as a Kafka cluster, are made once. tests/conftest.py puts the long files first.
test: $(DEV)  ## Run the tests side by side (ARGS='-k drain -x'; WORKERS=0: one after the other)
	$(PYTEST) -m 'not peers' $(ARGS)

peers: $(DEV)  ## Run the long tests with foreign programs, which do not depend on the Python
	$(PYTEST) -m peers $(ARGS)

check: $(DEV)  ## Lint; check formatting, types, import contracts, sizes and language
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_shape.py

bench: $(DEV)  ## Measure the cost of a request and of a message
	$(BIN)/python -m benchmarks

endurance: $(DEV)  ## Prove with real daemons and brokers, for hours, that nothing is lost, and fuzz what reads input
	$(BIN)/python -m tests.endurance.http
	$(BIN)/python -m tests.endurance.memory.soak
	$(BIN)/python -m tests.endurance.kafka
	$(BIN)/python -m tests.endurance.fuzz.parsers
	$(BIN)/python -m tests.endurance.fuzz.http

# A warning is an error: a link to a page or a heading that does not exist, a docstring that Sphinx cannot read.
docs: $(DEV)  ## Write docs/settings.md and build the site in docs/_build/html
	$(BIN)/gizmopy config --markdown > docs/settings.md
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build/html

# A pin that its range allows stays, unless ARGS=--upgrade.
lock: $(UV)  ## Pin the development dependencies by hash (ARGS=--upgrade: to newer ones)
	$(UV) pip compile setup.cfg --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --custom-compile-command 'make lock' --quiet --output-file $(LOCK) $(ARGS)

# Without --strict, pip-audit passes if it could look nothing up.
audit: $(DEV)  ## Search the pinned dependencies for known vulnerabilities (needs PyPI's own service)
	@$(BIN)/pip-audit --strict --progress-spinner off --require-hashes --disable-pip --requirement $(LOCK) $(ARGS) || { \
		echo 'make audit: FAILED: a package is vulnerable, or could not be looked up: see above' >&2; exit 1; }

clean:  ## Remove the virtual environment and every cache
	rm -rf $(VENV) $(VENV)-lock build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "gizmopy needs Python 3.11 or newer on PATH (or: make PYTHON=/path/to/python3)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(UV):
	@test -n "$(PYTHON)" || { echo "gizmopy needs Python 3.11 or newer on PATH (or: make PYTHON=/path/to/python3)"; exit 1; }
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5,<1'

$(RUN): $(BIN)/python setup.cfg pyproject.toml
	$(PIP) --editable '.[kafka]'
	@touch $@

# Every package comes from the lock, the build backend too: build isolation would download another one.
# The build backend warns of every editable install.
$(DEV): $(BIN)/python setup.cfg pyproject.toml $(LOCK)
	$(PIP) --require-hashes --requirement $(LOCK)
	@PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation --editable .
	@touch $(RUN) $@
