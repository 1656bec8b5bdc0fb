# make demo         train both stages from the package's teachers on sample photographs (DATA=folder: on your own)
# make nano         train the small model from nothing at full length, pack and measure it (DATA, VAL, TEST: folders of photographs; EXPERT: a file)
# make claims       repeat the paper's claims in small: docs/claims.md (DATA, TEST, CHAIN: folders)
# make methods      train CTSR, OFTSR, AddSR and CCSR for the same time and measure them side by side (DATA, TEST, CHAIN, EXPERT, ONLY, MINUTES)
# make lowlight     train CTSR at scale 1 on LOL v1 and make a table as the paper's Table 5 (DATA: its folder; CHAIN)
# make test         lint, types and tests
# make check        the same without the installation, in the current environment
# make quick        of its tests those that are quick, which leaves recipes and other processes out
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
JOBS ?= 2
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: demo nano claims methods lowlight test check quick lint types tests install clean

$(BIN)/ctsr-installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

install: $(BIN)/ctsr-installed

demo: install
	$(BIN)/python -m recipes demo --output '$(or $(OUTPUT),runs/demo)' $(if $(DATA),--photos '$(DATA)')

nano: install
	$(BIN)/python -m recipes nano --output '$(or $(OUTPUT),runs/nano)' $(if $(DATA),--photos '$(DATA)') $(if $(VAL),--val '$(VAL)') \
	  $(if $(TEST),--test '$(TEST)') $(if $(EXPERT),--expert '$(EXPERT)')

claims: install
	$(BIN)/python -m recipes claims --output '$(or $(OUTPUT),docs/claims.md)' $(if $(DATA),--photos '$(DATA)') \
	  $(if $(TEST),--test '$(TEST)') $(if $(CHAIN),--chain '$(CHAIN)')

methods: install
	$(BIN)/python -m recipes methods --output '$(or $(OUTPUT),runs/methods)' $(if $(DATA),--photos '$(DATA)') \
	  $(if $(TEST),--test '$(TEST)') $(if $(CHAIN),--chain '$(CHAIN)') $(if $(EXPERT),--expert '$(EXPERT)') \
	  $(if $(ONLY),--only '$(ONLY)') $(if $(MINUTES),--minutes '$(MINUTES)')

lowlight: install
	$(BIN)/python -m recipes lowlight --output '$(or $(OUTPUT),runs/lowlight)' $(if $(DATA),--data '$(DATA)') $(if $(CHAIN),--chain '$(CHAIN)')

test: install
	$(MAKE) -j2 check BIN='$(abspath $(BIN))'

check: lint types tests

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/mypy

tests:
	$(PYTEST)

quick:
	$(PYTEST) -m 'not slow and not recipes and not processes'

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
