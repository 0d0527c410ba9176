# Two commands do everything on a fresh machine with Python 3.11 or later:
#   make toy    environment, then the toy study: its table, figures and files
#   make test   environment, then the quick test suite
# and more:
#   make check          lint, format, types
#   make docs           the documentation, build/docs/index.html
#   make notebooks      execute the notebooks that were changed
#   make slow           the tests that take long
#   make bench          the benchmarks, into benchmarks/RESULTS.md
#   make lowest         the tests with the lowest version of each dependency, in an environment apart
#   make results-check  rerun the short studies with few seeds, compare with results/
# TORCH_INDEX chooses another build of torch, for instance the small CPU build:
#   make toy TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
RUN ?= runs/toy
WORKERS ?= 2
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: toy test check docs notebooks bench slow lowest results-check clean

# Tests run side by side, one thread each: small networks are fastest so.
test slow lowest results-check: export OMP_NUM_THREADS = 1

toy: $(VENV)/.installed
	$(BIN)/python -m studies toy --out $(RUN)

test: $(VENV)/.installed
	$(BIN)/pytest -n $(WORKERS)

slow: $(VENV)/.installed
	$(BIN)/pytest -m slow -n $(WORKERS)

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Notebooks that are not in step with their scripts are executed first. A warning is an error, and
# so is a reference within the project that leads nowhere.
docs: notebooks
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --jobs auto --quiet \
		docs build/docs

notebooks: $(VENV)/.installed
	$(BIN)/python docs/pairs.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks --out benchmarks/RESULTS.md

results-check: $(VENV)/.installed
	$(BIN)/python -m studies.core.check_results

# Documentation and notebooks are built with the pinned versions alone; old packages warn of new ones.
lowest: $(VENV)/.installed
	$(PYTHON) -m venv $(LOWEST)
	$(BIN)/python tests/lowest_versions.py > $(LOWEST)/lowest.txt
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "$$(grep '^torch==' $(LOWEST)/lowest.txt)"
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check -c $(LOWEST)/lowest.txt \
		-e '.[studies]' $(shell grep -E '^(pytest|pytest-xdist|hypothesis|polars|PyYAML)==' constraints.txt)
	$(LOWEST)/bin/pytest -n $(WORKERS) -o filterwarnings=default \
		--ignore tests/test_docs.py --ignore tests/test_notebooks.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(LOWEST) runs build *.egg-info docs/api docs/notebooks docs/results docs/_generated
