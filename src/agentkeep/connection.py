"""A connection: an engine with its layers, opened once, in agreement with the catalog of its database."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import codec, schema
from .blobs import rows as blob_rows
from .errors import Conflict, Invalid
from .ids import Clock, Ids
from .layers.limits import Limits
from .layers.retry import Retry, Sleep
from .layers.scope import tenanted
from .records import Record
from .waist import Batch, Engine, Put, Receipt, Schema


class Connection:
    """What all scopes of a store share."""

    def __init__(
        self, engine: Engine, records: Sequence[Record[Any]], tenants: schema.Tenants, clock: Clock, sleep: Sleep
    ) -> None:
        self.raw = engine
        self.engine: Engine = Limits(Retry(engine, sleep))
        self.tenants: schema.Tenants = tenants
        self.clock = clock
        self.sleep = sleep
        self.ids = Ids(clock)
        kinds = (schema.CATALOG, *blob_rows.KINDS, *(record.spec for record in records))
        names = [kind.name for kind in kinds]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise Invalid(f"two records have the kind {twice[0]!r}", operation="open", hint="Rename one of them.")
        self.schema = Schema(kinds)
        self.records = {record.spec.name: record for record in records}
        self.not_ready: frozenset[tuple[str, str]] = frozenset()
        self.epoch = 0
        """Raised when what others hold for current was ended here: they look again before they rely on it."""
        self.judges: dict[str, Callable[..., bool]] = {}
        """Custom rules of visibility, by name."""
        self.is_open = False

    async def open(self) -> None:
        """Open the engine, then agree with the catalog that is there."""
        wanted = tenanted(self.schema) if self.tenants == "required" else self.schema
        await self.engine.open(wanted)
        try:
            await self._agree(wanted)
        except BaseException:
            await self.engine.close()
            raise
        self.is_open = True

    async def close(self) -> None:
        """Close the engine."""
        self.is_open = False
        await self.engine.close()

    async def change_catalog(self, change: Callable[[schema.Catalog | None], schema.Catalog]) -> schema.Catalog:
        """Compare and set the catalog until it agrees."""
        while True:
            (row,) = await self.engine.get([schema.CATALOG_KEY])
            stored = None if row is None else codec.decode(row.doc, schema.Catalog, row.key)
            merged = change(stored)
            if merged == stored:
                return merged
            put = Put("catalog", "", codec.encode(merged), expect="absent" if row is None else row.rev)
            (answer,) = await self.engine.commit([Batch(schema.CATALOG_KEY.partition, (put,), self.ids())])
            if isinstance(answer, Receipt):
                return merged
            if not isinstance(answer, Conflict):
                raise answer

    async def mark_ready(self, kind: str, index: str) -> schema.Catalog:
        """Let everyone read an index from now on."""
        return await self.change_catalog(lambda stored: schema.mark_ready(stored or schema.Catalog(), kind, index))

    async def _agree(self, wanted: Schema) -> None:
        catalog = await self.change_catalog(lambda stored: schema.merge(stored, wanted, self.tenants))
        ours = {(kind.name, index.name) for kind in wanted.kinds for index in kind.indexes}
        building = ours.intersection(catalog.building())
        for kind, index in sorted(building):
            page = await self.engine.dump(kind, None, 1)
            if not page.rows and page.cursor is None:
                await self.mark_ready(kind, index)
                building.remove((kind, index))
        self.not_ready = frozenset(building)
