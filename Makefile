# For a fresh machine with Python >= 3.11: `make demo`, `make quick` (after each edit),
# `make test` (everything) and `make docs`. Each fills the environment .venv the first
# time and when pyproject.toml changes; all but `make demo` need PyTorch, several GB.

PYTHON ?= python3
BIN := .venv/bin

# Processes for the tests: one that cannot be interrupted ends only one of them.
WORKERS := --numprocesses 2

# Small matrices: threads of BLAS and OpenMP cost more than they give.
quick test docs matrix: export OMP_NUM_THREADS = 1
quick test docs matrix: export OPENBLAS_NUM_THREADS = 1

# The oldest and the newest versions of all that skcce needs, PYTHON:RESOLUTION.
VERSIONS ?= 3.11:lowest-direct 3.11:highest 3.12:highest 3.13:highest 3.14:highest
UV := $(BIN)/uv run --isolated --no-project --no-python-downloads

.PHONY: demo quick test lint format docs dist matrix clean

demo: .venv/for-plot
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
	@echo "Pages that load something from the network, so not to be read without one:"
	! grep -rlE '<(script|link|img)[^>]+(src|href)="?(https?:)?//' docs/_build/html --include=*.html

# Beside the wheel there is nothing but what it needs.
dist: .venv/for-release
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(UV) --python $(BIN)/python --with dist/*.whl python tests/smoke.py

# All tests of the wheel, on each Python that is here.
matrix: dist
	@for version in $(VERSIONS); do \
	    python=$${version%:*}; \
	    if ! $(BIN)/uv python find --no-python-downloads $$python 2> /dev/null; then \
	        echo "No Python $$python here: skipped"; continue; \
	    fi; \
	    $(BIN)/uv pip compile --quiet --upgrade --python $$python \
	        --resolution $${version#*:} --extra test --output-file .venv/matrix.txt pyproject.toml && \
	    $(UV) --python $$python --with-requirements .venv/matrix.txt \
	        --with dist/*.whl pytest $(WORKERS) tests || exit; \
	done

# With an extra of pyproject.toml.
.venv/for-%: pyproject.toml | .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[$*]"
	touch $@

.venv:
	$(PYTHON) -c 'import sys; sys.exit("skcce needs Python >= 3.11, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv

clean:
	rm -rf .venv docs/_build docs/gallery dist .pytest_cache .ruff_cache .coverage demo.png
