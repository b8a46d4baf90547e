# Only Python 3.9+ and make are assumed; everything else goes into a virtual environment in this folder.
PYTHON ?= python3
PADDLE ?= 3.3.1
VENV ?= .venv-$(PADDLE)
BIN = $(VENV)/bin
READY = $(VENV)/.installed
TESTS ?= tests
# In another order every time; the first lines of a run tell its number, and SEED=number repeats it.
SEED ?= default
DIST ?= worksteal
PYTEST = $(BIN)/python -m pytest -n 2 --dist $(DIST) --randomly-seed=$(SEED) --randomly-dont-reset-seed
# Rules of the house, folders of which a test takes milliseconds, and the loop itself.
QUICKEST = tests/test_layers.py tests/test_house.py tests/config tests/clustering tests/docs tests/optim \
    tests/weights/layouts tests/methods/test_losses.py tests/engine/test_trainer.py
# numpy 2 came after Paddle 2.6.2 was built
NUMPY = $(if $(filter 2.%,$(PADDLE)),numpy<2,numpy)

# The tests start a hundred processes, each of which would compile the same files anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help install quickstart screenshots test-page check test test-fast test-ranks test-slow test-machines test-power test-install format \
	lint types clean

help:
	@echo "make quickstart            pretrain SwAV on this machine in a few minutes and see what it learnt"
	@echo "make screenshots           the pictures of the report page in the documents; after make quickstart"
	@echo "make check                 before every commit: lint, types, layers and the quickest tests, under a minute"
	@echo "make test [PADDLE=2.6.2]   the tests, several minutes on two cores, on one Paddle version"
	@echo "make test-fast             without the long ones and those of several ranks"
	@echo "make test-ranks            of the long ones those with several processes: n ranks = 1, lost ranks, kills, two nodes"
	@echo "make test-page             the report page in a real browser, with axe-core from npm"
	@echo "make test-slow             the long ones: full-size networks, kills, big fuzzing, two nodes"
	@echo "make test-machines         numeric tests as other processors, threads and roundings would run them"
	@echo "make test-power            faults made by hand that the tests must notice; FAULTS=word for some of them"
	@echo "make test-install          a normal installation has its commands"
	@echo "make format                the one layout of the whole tree (autopep8), imports in order (ruff)"
	@echo "make lint                  ruff, and whether everything is formatted"
	@echo "make types                 mypy on passl/, without errors"
	@echo "make install               only the virtual environment ($(VENV))"

install: $(READY)

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "paddlepaddle==$(PADDLE)" "$(NUMPY)" -e ".[dev]"
	@touch $(READY)

quickstart: $(READY)
	$(BIN)/python tools/quickstart/run.py

# After make quickstart, with Chromium installed.
screenshots: $(READY)
	$(BIN)/python tools/screenshots.py

# axe-core comes from npm; without it, or without a browser, those tests are skipped and say so.
test-page: $(READY)
	npm install --silent --no-save --prefix build axe-core
	$(BIN)/python -m pytest tests/report

check: lint types
	$(PYTEST) -m "not slow and not dist" $(QUICKEST)

test: $(READY)
	$(PYTEST) -m "not slow" $(TESTS)

test-ranks: $(READY)
	$(PYTEST) -m "slow and dist" $(TESTS)

test-slow: $(READY)
	$(PYTEST) -m slow $(TESTS)

test-fast: $(READY)
	$(PYTEST) -m "not slow and not dist" $(TESTS)

test-machines: $(READY)
	$(BIN)/python -m tests.machines $(CELLS)

test-power: $(READY)
	$(BIN)/python -m tests.power $(FAULTS)

# A normal installation, not the editable one: the wheel holds the package and its table of releases, and the commands
# work outside the checkout.
test-install: $(READY)
	rm -rf build/installed && mkdir -p build/installed
	$(BIN)/python -m pip install --quiet --no-deps --target build/installed .
	cd build && PYTHONPATH=$(CURDIR)/build/installed installed/bin/passl-train --version
	cd build && PYTHONPATH=$(CURDIR)/build/installed installed/bin/passl-list-models > /dev/null
	cd build && PYTHONPATH=$(CURDIR)/build/installed ../$(BIN)/python -c "import passl, sys; sys.exit('installed' not in passl.__file__)"

format: $(READY)
	$(BIN)/python -m ruff check --quiet --fix-only .
	git ls-files '*.py' | xargs $(BIN)/python -m autopep8 --in-place --jobs 2

lint: $(READY)
	$(BIN)/python -m ruff check .
	git ls-files '*.py' | xargs $(BIN)/python -m autopep8 --diff --exit-code --jobs 2

types: $(READY)
	$(BIN)/python -m mypy

clean:
	rm -rf .venv-* build *.egg-info quickstart
