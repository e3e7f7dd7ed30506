# For a fresh machine with Python >= 3.11: `make demo`, `make quick` (after each edit),
# `make test` (everything) and `make docs`. Each fills the environment .venv the first
# time and when pyproject.toml changes; all but `make demo` need PyTorch, several GB.

PYTHON ?= python3
BIN := .venv/bin

# Processes for the tests: one that cannot be interrupted ends only one of them.
WORKERS := --numprocesses 2

# Small matrices: threads of BLAS and OpenMP cost more than they give.
quick test docs: export OMP_NUM_THREADS = 1
quick test docs: export OPENBLAS_NUM_THREADS = 1

.PHONY: demo quick test lint format docs clean

demo: .venv/for-demo
	$(BIN)/python examples/demo.py --output demo.png

quick: lint
	$(BIN)/python -m pytest $(WORKERS) --quiet -m "not slow" --one-case

# Coverage takes as long as the tests: the slow ones do without, and come first, as they
# compile the kernels, which would take twice as long as well.
test: lint
	$(BIN)/python -m pytest $(WORKERS) -m slow
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" --cov --cov-report=term

lint: .venv/for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/for-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/for-docs
	$(BIN)/sphinx-build -W -b html docs docs/_build/html

.venv/for-demo: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[plot]"
	touch $@

.venv/for-test: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[test]"
	touch $@

.venv/for-docs: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[docs]"
	touch $@

.venv:
	$(PYTHON) -c 'import sys; sys.exit("skcce needs Python >= 3.11, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv docs/_build docs/gallery dist .pytest_cache .ruff_cache .coverage demo.png
