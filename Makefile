# Everything runs in .venv; the stamp says which dependencies it holds.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# How often `make torture` kills.
KILLS ?= 20

.PHONY: demo test lint types check bench bench-peers torture clean

demo: $(STAMP)
	$(VENV)/bin/swapyard run capitals

test: $(STAMP)
	$(VENV)/bin/pytest

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
