# Two commands do everything on a fresh machine with Python 3.11 or later:
#   make toy    environment, then the toy study: its table, figures and files
#   make test   environment, then the quick test suite
# and more:
#   make docs       the documentation site, build/site/index.html
#   make notebooks  execute the notebooks that were changed
# TORCH_INDEX chooses another build of torch, for instance the small CPU build:
#   make toy TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
RUN ?= runs/toy
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: toy test check docs notebooks bench slow clean

toy: $(VENV)/.installed
	$(BIN)/gbi-pyro toy --out $(RUN)

test: $(VENV)/.installed
	$(BIN)/pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Notebooks that are not in step with their scripts are executed first. A warning is an error, and
# so is a reference within the project that leads nowhere.
docs: notebooks
	$(BIN)/sphinx-build --fail-on-warning --keep-going --nitpicky --jobs auto --quiet \
		site build/site

notebooks: $(VENV)/.installed
	$(BIN)/python site/pairs.py

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

slow: $(VENV)/.installed
	$(BIN)/pytest -m slow

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs build *.egg-info site/api site/docs site/notebooks
