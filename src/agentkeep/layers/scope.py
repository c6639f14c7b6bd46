"""The scope layer: confines everything to one tenant, whose name is part of every key and every index value."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..errors import Invalid, Key, StoreError, TooLarge
from ..keys import escape, size, unescape
from ..waist import Append, Batch, Engine, IndexSpec, Op, Page, Put, Receipt, Row, Scalar, Scan, Schema

MAX_TENANT = 128
_END = "\x01"
_ABOVE = "\x02"
"""The character after _END: no escaped tenant has _END in it, so all between the two is one tenant's."""


def tenanted(schema: Schema) -> Schema:
    """The schema an engine gets under scopes: each index starts with the tenant."""

    def widen(index: IndexSpec) -> IndexSpec:
        return IndexSpec(index.name, ("tenant", *index.fields), ("str", *index.types))

    return Schema(
        tuple(
            msgspec.structs.replace(kind, indexes=tuple(widen(index) for index in kind.indexes))
            for kind in schema.kinds
        )
    )


def checked_tenant(tenant: object) -> str:
    """A tenant's name. Raises Invalid for an empty one or what is no text, TooLarge over MAX_TENANT bytes."""
    if not isinstance(tenant, str) or not tenant:
        raise Invalid("a tenant is a non-empty string", operation="scope")
    if (length := size(escape(tenant))) > MAX_TENANT:
        raise TooLarge("a tenant", limit=MAX_TENANT, size=length, operation="scope")
    return tenant


def split(partition: str) -> tuple[str, str]:
    """The tenant and the partition within it of a partition as the engine under a scope knows it."""
    tenant, _, rest = partition.partition(_END)
    return unescape(tenant), rest


class Scope:
    """One tenant of an engine that was opened on a `tenanted` schema. Other tenants' rows do not exist in it."""

    def __init__(self, inner: Engine, tenant: str) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self.tenant = checked_tenant(tenant)
        self._prefix = escape(self.tenant) + _END
        self._above = escape(self.tenant) + _ABOVE

    async def open(self, schema: Schema) -> None:
        """Open the engine under it."""
        await self.inner.open(tenanted(schema))

    async def close(self) -> None:
        """Nothing: the engine belongs to the store that made the scope."""

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """The tenant's rows."""
        rows = await self.inner.get([self._in(key) for key in keys])
        return [None if row is None else self._out(row) for row in rows]

    async def scan(self, scan: Scan) -> Page:
        """The tenant's part of a partition, of an index, or of a kind."""
        page = await self.inner.scan(self._narrow(scan))
        return Page([self._out(row) for row in page.rows], page.cursor)

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Batches on the tenant's partitions."""
        answers = await self.inner.commit([self._batch(batch) for batch in batches], restore=restore)
        for answer in answers:
            if isinstance(answer, StoreError):
                self._clean(answer)
        return answers

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """The tenant's rows and heads."""
        first, end = self._partitions(lo, hi)
        page = await self.inner.dump(kind, after, limit, lo=first, hi=end)
        return Page([self._out(row) for row in page.rows], page.cursor)

    def _in(self, key: Key) -> Key:
        return Key(key.kind, self._prefix + key.partition, key.sort)

    def _out(self, row: Row) -> Row:
        key = Key(row.key.kind, row.key.partition[len(self._prefix) :], row.key.sort)
        index = {name: values[1:] for name, values in row.index.items()} if row.index else row.index
        return Row(key, row.rev, row.doc, index, row.facets, row.expires)

    def _narrow(self, scan: Scan) -> Scan:
        if scan.index is not None:
            return msgspec.structs.replace(scan, prefix=(self.tenant, *scan.prefix))
        if scan.prefix:
            return msgspec.structs.replace(scan, prefix=(f"{self._prefix}{scan.prefix[0]}",))
        lo, hi = self._partitions(scan.lo, scan.hi)
        return msgspec.structs.replace(scan, lo=lo, hi=hi)

    def _partitions(self, lo: Scalar | None, hi: Scalar | None) -> tuple[str, str]:
        """A range of the tenant's partitions; without bounds, all of them and no other tenant's."""
        return f"{self._prefix}{lo or ''}", self._above if hi is None else f"{self._prefix}{hi}"

    def _batch(self, batch: Batch) -> Batch:
        return Batch(
            self._prefix + batch.partition,
            tuple([self._op(op) for op in batch.ops]),
            batch.id,
            batch.once,
            batch.digest,
        )

    def _op(self, op: Op) -> Op:
        if isinstance(op, (Put, Append)) and op.index:
            return msgspec.structs.replace(
                op, index={name: (self.tenant, *values) for name, values in op.index.items()}
            )
        return op

    def _clean(self, error: StoreError) -> None:
        if error.key is not None and error.key.partition.startswith(self._prefix):
            error.key = Key(error.key.kind, error.key.partition[len(self._prefix) :], error.key.sort)
