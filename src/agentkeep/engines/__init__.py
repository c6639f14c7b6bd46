"""Engines: one file a database. `agentkeep.urls` finds them by the scheme of a URL."""
