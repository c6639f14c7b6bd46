"""The schema of the conformance suite: indexes of every type, two logs, and a kind without anything."""

from __future__ import annotations

from ..waist import Column, IndexSpec, KindSpec, Schema

NOTE = KindSpec(
    "note",
    indexes=(
        IndexSpec("by_text", ("text",), ("str",)),
        IndexSpec("by_pair", ("queue", "due"), ("str", "int")),
        IndexSpec("by_real", ("queue", "weight"), ("str", "float")),
        IndexSpec("by_all", ("queue", "flag", "rank", "name"), ("str", "bool", "int", "str")),
    ),
    listed=True,
    columns=(Column("title", ("title",), "str"), Column("due", ("due",), "int"), Column("meta", ("meta",), "json")),
)
EVENT = KindSpec("event", log=True, indexes=(IndexSpec("by_agent", ("agent", "turn"), ("str", "int")),))
TURN = KindSpec("turn", log=True)
STATE = KindSpec("state")

SCHEMA = Schema((NOTE, EVENT, TURN, STATE))
