# Nothing needs to be installed beforehand but Python 3.11-3.15 (with venv) and make.

PYTHONS ?= python3 python3.13 python3.12 python3.14 python3.11 python3.15
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
UV_COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links
ARGS ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test soak lint format bench lock clean

help:  ## this list
	@echo "make TARGET [ARGS='...']"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' Makefile

install: $(READY)  ## make the virtual environment .venv from the lock file

demo: $(READY)  ## a year of New York flights through a real Kafka, in under 3 minutes
	$(BIN)/streamsample demo $(ARGS)

test: $(READY)  ## all tests, those against a real Kafka included
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

soak: $(READY)  ## 210 random kills over 1 M predictions, each end compared with the oracle; about an hour
	STREAMSAMPLE_KILLS=210 STREAMSAMPLE_PREDICTIONS=1000000 $(BIN)/python -m pytest tests/faults/test_crashes.py -k at_random --timeout 7200 $(ARGS)

lint: $(READY)  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff put imports and layout right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## every benchmark beside its reference; writes benchmarks/results.json
	$(BIN)/python -m benchmarks $(ARGS)

lock: $(BIN)/python  ## choose the newest dependencies that pyproject.toml allows
	$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) --upgrade --all-extras pyproject.toml --output-file requirements.lock
	$(UV_COMPILE) --upgrade --constraints requirements.lock --extra build pyproject.toml \
		--output-file requirements-image.lock

clean:  ## remove the virtual environment and everything that can be made again
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build benchmarks/results.json
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml | $(BIN)/python
	@echo "Installing the packages of requirements.lock into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-compile \
		-r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(BIN)/python:
	@for python in $(PYTHONS); do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 16))' 2>/dev/null; \
		then echo "Making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; \
	done; \
	echo "No Python 3.11-3.15 with the venv module among: $(PYTHONS)." >&2; \
	echo "Install one (on Debian and Ubuntu: apt install python3 python3-venv), or name it: make PYTHONS=/path/to/python" >&2; \
	exit 1
