# Every target makes its own environment first. PYTHON chooses the interpreter, VENV the place.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
# Tests sync thousands of small files. Where memory has room for them, they do not wait for a disk.
SCRATCH := $(shell df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 && $$4 > 8000000 { print "TMPDIR=/dev/shm" }')
# They start hundreds of processes, too, which read modules that are compiled.
unexport PYTHONDONTWRITEBYTECODE
# A third of their time goes by while they wait for processes, browsers and servers, so one more runs than CI has cores.
PYTEST := $(SCRATCH) $(BIN)/python -m pytest -n 3 --dist loadgroup

.PHONY: demo test test-fast test-slow lint audit schemas clean

demo: $(READY)  ## the main job on an embedded volume
	$(BIN)/volumetool demo demo

test: $(READY)  ## everything that CI checks, side by side: types are checked on one core, and tests wait for one another
	$(MAKE) --no-print-directory --jobs 2 lint test-fast

test-fast: $(READY)  ## the tests that are not slow; those with a browser, SLURM (slurm-wlm, munge) or namespaces skip without
	$(PYTEST) -m "not slow and not gpu"

test-slow: $(READY)  ## the long proofs
	$(BIN)/python -m pytest -m "slow and not gpu" --timeout 3600

# mypy and import-linter look at the installed package: there cli/ and schemas/ stand where users find them.
INSTALLED := build/installed

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build
	$(BIN)/python -m pip install --quiet --no-deps --target $(INSTALLED) .
	cd $(INSTALLED) && $(abspath $(BIN))/mypy --cache-dir $(CURDIR)/.mypy_cache --config-file $(CURDIR)/pyproject.toml
	cd $(INSTALLED) && $(abspath $(BIN))/lint-imports --config $(CURDIR)/pyproject.toml

audit: $(READY)  ## known holes in what is pinned; needs the network
	$(PYTHON) -m venv build/audit
	build/audit/bin/python -m pip install --quiet pip-audit
	build/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

schemas: $(READY)  ## write schemas/*.json anew from the models
	$(BIN)/python -m volumetool.schemas

$(READY):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $(READY)

clean:
	rm -rf $(VENV) demo build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
