# The targets of the benchmarks, for the project's Makefile to include.
# `make bench` needs the package with its postgres extra in .venv, and AGENTKEEP_BENCH_POSTGRES.

PEERS_PYTHON ?= python3.12
BENCH_OPTIONS ?=

.venv-peers: bench/peers/requirements.txt
	$(PEERS_PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet -r $<
	touch $@

.PHONY: bench
bench: .venv-peers
	.venv/bin/python -m bench $(BENCH_OPTIONS)
