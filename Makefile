# Two commands do everything on a fresh machine with Python 3.11 or later:
#   make toy    environment, then the toy study: its table, figures and files
#   make test   environment, then the quick test suite
# TORCH_INDEX chooses another build of torch, for instance the small CPU build:
#   make toy TORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
RUN ?= runs/toy
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)

.PHONY: toy test check bench slow clean

toy: $(VENV)/.installed
	$(BIN)/gbi-pyro toy --out $(RUN)

test: $(VENV)/.installed
	$(BIN)/pytest

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

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
	rm -rf $(VENV) runs build *.egg-info
