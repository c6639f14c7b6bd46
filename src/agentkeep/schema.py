"""The catalog: what a database holds, compared with what a store wants, on every engine alike.

It is one row of the kind `catalog`. New kinds and new indexes are added; nothing is dropped, what a store does not
know stays as it is. An index that is added
to a kind which already has rows is `building` until `Store.reindex()` has gone over them, and is not read before.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import Key, SchemaMismatch
from .waist import IndexSpec, KindSpec, Schema

FORMAT = 1
"""The version of the documents and of this catalog. A database with a greater one is refused."""

CATALOG = KindSpec("catalog")
CATALOG_KEY = Key("catalog", "catalog", "")

Tenants = Literal["off", "required"]


class IndexState(msgspec.Struct, frozen=True):
    """An index of a stored kind."""

    fields: tuple[str, ...]
    types: tuple[str, ...]
    state: Literal["ready", "building"] = "ready"


class KindState(msgspec.Struct, frozen=True):
    """A stored kind."""

    log: bool = False
    indexes: dict[str, IndexState] = {}


class Catalog(msgspec.Struct, frozen=True):
    """What a database holds."""

    format: int = FORMAT
    tenants: Tenants = "off"
    kinds: dict[str, KindState] = {}

    def building(self) -> list[tuple[str, str]]:
        """The (kind, index) pairs that are not ready."""
        return [
            (kind, name)
            for kind, state in self.kinds.items()
            for name, index in state.indexes.items()
            if index.state == "building"
        ]


def merge(stored: Catalog | None, wanted: Schema, tenants: Tenants) -> Catalog:
    """The catalog after opening a database with a schema. Raises SchemaMismatch where they cannot agree."""
    if stored is None:
        return Catalog(FORMAT, tenants, {kind.name: _new(kind, "ready") for kind in wanted.kinds})
    if stored.format > FORMAT:
        raise SchemaMismatch(
            f"the database has format {stored.format}, this agentkeep knows {FORMAT}", hint="Upgrade agentkeep."
        )
    if stored.tenants != tenants:
        raise SchemaMismatch(
            f"the database was made with tenants={stored.tenants!r}, and is opened with tenants={tenants!r}",
            hint=f"Open it with tenants={stored.tenants!r}.",
        )
    kinds = dict(stored.kinds)
    for kind in wanted.kinds:
        known = kinds.get(kind.name)
        kinds[kind.name] = _new(kind, "ready") if known is None else _grow(known, kind)
    return Catalog(FORMAT, tenants, kinds)


def mark_ready(catalog: Catalog, kind: str, index: str) -> Catalog:
    """The catalog with one index ready."""
    known = catalog.kinds[kind]
    ready = msgspec.structs.replace(known.indexes[index], state="ready")
    kinds = {**catalog.kinds, kind: KindState(known.log, {**known.indexes, index: ready})}
    return msgspec.structs.replace(catalog, kinds=kinds)


def _new(kind: KindSpec, state: Literal["ready", "building"]) -> KindState:
    return KindState(kind.log, {index.name: _state(index, state) for index in kind.indexes})


def _state(index: IndexSpec, state: Literal["ready", "building"]) -> IndexState:
    return IndexState(index.fields, index.types, state)


def _grow(known: KindState, kind: KindSpec) -> KindState:
    if known.log != kind.log:
        raise SchemaMismatch(f"the kind {kind.name!r} is {'a log' if known.log else 'no log'} in the database")
    indexes = dict(known.indexes)
    for index in kind.indexes:
        there = indexes.get(index.name)
        if there is None:
            indexes[index.name] = _state(index, "building")
        elif (there.fields, there.types) != (index.fields, index.types):
            raise SchemaMismatch(
                f"the index {index.name!r} of {kind.name!r} is over {', '.join(there.fields)} in the database, "
                f"and over {', '.join(index.fields)} here",
                hint="Give the new index a new name.",
            )
    return KindState(known.log, indexes)
