# Everything runs in .venv; the stamp says which dependencies it holds.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# Python compiles what it imports, a small part of all this, and keeps it, whatever the shell says: to compile torch
# anew costs each process two seconds.
export PYTHONDONTWRITEBYTECODE :=
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt
ABREAST := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# How often `make torture` kills.
KILLS ?= 20

# The bundled studies that train, which take minutes each.
TRAININGS := digit-sum digit-sum-part digit-sum-gpt hierarchical-equality

.PHONY: demo studies test lint types check overlays versions legs night lock bench bench-peers gpu torture clean

demo: $(STAMP)
	$(VENV)/bin/swapyard run capitals

studies: $(STAMP)
	set -e; for study in $(TRAININGS); do $(VENV)/bin/swapyard run $$study; done
	$(VENV)/bin/swapyard query trained
	$(VENV)/bin/swapyard query "FROM results SELECT study, layer, fit_rank, avg(iia) \
	    WHERE subspace = 'das' GROUP BY ALL ORDER BY ALL" --study hierarchical-equality

test: $(STAMP)
	$(VENV)/bin/pytest -m "not kills" $(ABREAST)
	$(VENV)/bin/pytest -m "kills" $(ABREAST)

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(STAMP)
	$(VENV)/bin/mypy

check: lint types test

# The oldest and the newest allowed versions of what moves under us, over the torch of .venv: the newest is today's.
overlays: $(STAMP)
	$(VENV)/bin/python -m tests.overlays

versions: overlays
	$(VENV)/bin/python -m tests.versions

legs: overlays
	.overlays/oldest/bin/python -m pytest -m versions $(ABREAST)
	if $(VENV)/bin/python -m tests.overlays differs; then .overlays/newest/bin/python -m pytest -m versions $(ABREAST); fi

# The versions that .venv gets, the newest allowed on every Python that swapyard supports.
lock: .lock/bin/uv
	UV_CUSTOM_COMPILE_COMMAND="make lock" .lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	    --extra dev --no-annotate --output-file constraints.txt pyproject.toml

.lock/bin/uv:
	$(PYTHON) -m venv .lock
	.lock/bin/pip install --quiet --disable-pip-version-check 'uv>=0.9,<1'

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.plan
	$(VENV)/bin/python -m benchmarks.store
	$(VENV)/bin/python -m benchmarks.store log
	$(VENV)/bin/python -m benchmarks.store read
	$(VENV)/bin/python -m benchmarks.count
	$(VENV)/bin/python -m benchmarks.growth
	$(VENV)/bin/python -m benchmarks.start
	$(VENV)/bin/python -m benchmarks.eta

bench-peers: $(STAMP) .peers/bin/pip
	$(VENV)/bin/python -m benchmarks.peers

# On a machine with a GPU: everything that has to be seen there, within eight minutes, into gpu-results/.
gpu: $(STAMP)
	$(VENV)/bin/python -m benchmarks.gpu

.peers/bin/pip: benchmarks/peers.txt
	PYTHON=$(PYTHON) sh benchmarks/peers.sh
	touch $@

# What takes too long for every day.
night: $(STAMP) torture
	$(VENV)/bin/pytest -m night $(ABREAST)

torture: $(STAMP)
	$(VENV)/bin/python -m tests.torture --kills $(KILLS)

# The build back-end is locked like the rest, so that it is installed first and not taken from elsewhere.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) setuptools
	$(INSTALL) --no-build-isolation -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .overlays .lock .peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
