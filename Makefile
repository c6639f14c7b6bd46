# agentkeep: two commands do all the set-up.
#   make demo    the main job on the embedded default, SQLite
#   make test    installs and starts what the tests need, runs every test, stops it
# Others: make check (style, types, architecture), make bench (one table), make clean.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ARGS   ?=

.PHONY: demo test check bench clean

demo: $(VENV)/.cli
	@$(BIN)/agentkeep demo $(ARGS)

test: $(VENV)/.dev
	tools/engines install postgres pgbouncer
	tools/engines run postgres pgbouncer -- $(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python tools/gen_sync.py --check
	$(BIN)/python tools/gen_matrix.py --check
	$(BIN)/python tools/check_imports.py
	$(BIN)/python tools/check_docs.py

clean:
	rm -rf $(VENV) .venv-* .engines build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.cli: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cli]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@ $(VENV)/.cli

# The peers need Python 3.12 or newer and an environment of their own.
PEERS_PYTHON ?= python3.12

bench: $(VENV)/.dev .venv-peers/.done
	tools/engines install postgres
	tools/engines run postgres --fsync on -- sh -c \
		'AGENTKEEP_BENCH_POSTGRES=$$AGENTKEEP_TEST_POSTGRES $(BIN)/python -m bench $(ARGS)'

.venv-peers/.done: bench/peers/requirements.txt
	$(PEERS_PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@
