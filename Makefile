# Each target sets itself up from a fresh clone. `make check` is what continuous integration runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN := $(VENV)/.run-ready
DEV := $(VENV)/.dev-ready
DEMO := runs/demo

# The demo and the tests work on small tensors, for which several threads would only wait for each other.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types docs results clean

help:
	@echo "make demo      train a small network on digits, reduce it within 1 point, show the table"
	@echo "make test      run the tests"
	@echo "make check     format, lint, types, docs and tests, in that order"
	@echo "make docs      build the documentation into site/"
	@echo "make results   rewrite the tables of README.md and docs/ from benchmarks/results/"
	@echo "make clean     remove what these targets made"

# What running needs, and what developing needs on top of it; each is installed once.
$(RUN): pyproject.toml constraints.txt
	@echo "setting up $(VENV) (once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e .
	@touch $@

$(DEV): $(RUN)
	@echo "installing the development tools into $(VENV) (once)"
	@$(PIP) -e '.[dev,docs]'
	@touch $@

demo: $(RUN)
	@rm -rf $(DEMO)
	$(BIN)/secateur train digits-net --data digits --out $(DEMO)/base
	$(BIN)/secateur reduce $(DEMO)/base/model.safetensors --data digits --max-drop 1 --out $(DEMO)/small

check: format lint types docs test

format: $(DEV)
	$(BIN)/ruff format --check .

lint: $(DEV)
	$(BIN)/ruff check .

types: $(DEV)
	$(BIN)/pyright

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: $(DEV)
	$(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 4 --dist worksteal --doctest-modules src tests

results: $(RUN)
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) $(DEMO) site build dist .pytest_cache .ruff_cache .hypothesis .coverage
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
