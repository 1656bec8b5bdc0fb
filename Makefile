# make demo         train both stages on the sample photographs and use them (DATA=folder: your own photographs)
# make test         lint, types and tests
# make check        the same without the installation, in the current environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUTPUT ?= runs/demo

.PHONY: demo test check install clean

$(BIN)/ctsr-installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(BIN)/ctsr-installed

demo: install
	$(BIN)/ctsr demo --output '$(OUTPUT)' $(if $(DATA),--data '$(DATA)')

test: install
	$(MAKE) check BIN='$(abspath $(BIN))'

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
