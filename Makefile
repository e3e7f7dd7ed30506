# For a fresh machine with Python >= 3.11: `make demo`, `make test` and `make docs`. Each
# fills the environment .venv the first time and when pyproject.toml changes; all but
# `make demo` need PyTorch, several GB.

PYTHON ?= python3
BIN := .venv/bin

# Small matrices: threads of BLAS and OpenMP cost more than they give.
test: export OMP_NUM_THREADS = 1
test: export OPENBLAS_NUM_THREADS = 1
docs: export OMP_NUM_THREADS = 1
docs: export OPENBLAS_NUM_THREADS = 1

.PHONY: demo test format docs clean

demo: .venv/for-demo
	$(BIN)/python examples/demo.py --output demo.png

test: .venv/for-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest --cov --cov-report=term

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
