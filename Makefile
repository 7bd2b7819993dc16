# Everything runs in .venv; the stamp says which dependencies it holds.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# How often `make torture` kills.
KILLS ?= 20

# The bundled studies that train, which take minutes each.
TRAININGS := digit-sum digit-sum-part digit-sum-gpt hierarchical-equality

.PHONY: demo studies test lint types check bench bench-peers gpu torture clean

demo: $(STAMP)
	$(VENV)/bin/swapyard run capitals

studies: $(STAMP)
	set -e; for study in $(TRAININGS); do $(VENV)/bin/swapyard run $$study; done
	$(VENV)/bin/swapyard query trained
	$(VENV)/bin/swapyard query "FROM results SELECT study, layer, fit_rank, avg(iia) \
	    WHERE subspace = 'das' GROUP BY ALL ORDER BY ALL" --study hierarchical-equality

test: $(STAMP)
	$(VENV)/bin/pytest -m "not alone" -n auto --maxprocesses 4 --dist loadfile
	$(VENV)/bin/pytest -m alone

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

types: $(STAMP)
	$(VENV)/bin/mypy

check: lint types test

bench: $(STAMP)
	$(VENV)/bin/python -m benchmarks.plan
	$(VENV)/bin/python -m benchmarks.store
	$(VENV)/bin/python -m benchmarks.count
	$(VENV)/bin/python -m benchmarks.growth
	$(VENV)/bin/python -m benchmarks.start

bench-peers: $(STAMP) .peers/bin/pip
	$(VENV)/bin/python -m benchmarks.peers

# On a machine with a GPU: everything that has to be seen there, within eight minutes, into gpu-results/.
gpu: $(STAMP)
	$(VENV)/bin/python -m benchmarks.gpu

.peers/bin/pip: benchmarks/peers.txt
	PYTHON=$(PYTHON) sh benchmarks/peers.sh
	touch $@

torture: $(STAMP)
	$(VENV)/bin/python -m tests.torture --kills $(KILLS)

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) .peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
