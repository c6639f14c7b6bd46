"""Benchmarks: agentkeep beside the raw drivers and beside its peers, every ratio taken within one run."""
