# make fit    train conf/timeseries_ett.yaml, or: make fit CONFIG=conf/x.yaml ARGS="--trainer.max_epochs 3"
# make test   lint and tests
# make lint   style, format and types
# make docs   build the documentation site in site/pages; a warning fails it
# make bench  run a benchmark and make its page, or: make bench BENCH=recall ARGS="--workers 4"
# make clean  remove the virtual environment
# Each creates .venv first if need be. A machine that has everything installed: make fit NO_VENV=1 PYTHON=python3

VENV   ?= .venv
CONFIG ?= conf/timeseries_ett.yaml
BENCH  ?= genomics_speed
# every Python is run, not just looked up: a shim may exist and not work
PYTHON ?= $(firstword $(foreach p,python3.11 python3.12 python3.13 python3,$(shell $(p) -c 'import sys, venv, ensurepip; sys.exit(not (3,11) <= sys.version_info[:2] < (3,14))' 2>/dev/null && echo $(p))))

ifdef NO_VENV
  RUN   := $(PYTHON)
else
  RUN   := $(VENV)/bin/python
  # named after what it was made from, so that a change of it installs again
  STAMP := $(VENV)/.stamp-$(shell cat pyproject.toml constraints.txt Makefile | cksum | cut -d' ' -f1)
endif
# without an NVIDIA driver take the CPU wheel; where that index is out of reach pip goes on with its own
TORCH_INDEX ?= $(if $(shell command -v nvidia-smi),,--extra-index-url https://download.pytorch.org/whl/cpu)
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Python keeps what it compiled, also where it was told not to: pytest rewrites every assert of the suite, in each worker
unexport PYTHONDONTWRITEBYTECODE

.PHONY: fit test lint docs bench clean
fit: $(STAMP)
	$(RUN) -m app fit --config $(CONFIG) $(ARGS)

test: lint
	$(RUN) -m pytest -q -n 3 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check --quiet .
	$(RUN) -m tests.typecheck

docs: $(STAMP)
	$(RUN) -c 'import zensical' 2>/dev/null || $(PIP) --editable '.[docs]'
	$(RUN) -m docs.site
	$(RUN) -m zensical build --strict

bench: $(STAMP)
	$(RUN) -m benchmarks.$(BENCH) $(ARGS)
	$(RUN) -m benchmarks.pages

clean:
	rm -rf $(VENV)

# torch first and alone: an index out of reach costs seconds for every package looked up in it
$(VENV)/.stamp-%: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 with venv found; give PYTHON=/path/to/python3"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch $(TORCH_INDEX)
	$(PIP) --editable '.[dev]'
	rm -f $(VENV)/.stamp-* && touch $@
