"""The limits layer: refuses what is malformed or over the portable floor before the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ..errors import Invalid, Key, StoreError, TooLarge
from ..keys import WIDEST, pack, seq_sort, size
from ..predicates import Facet
from ..resolve import validate
from ..waist import (
    MAX_BATCH,
    MAX_BATCH_OPS,
    MAX_FACET_BYTES,
    MAX_FACETS,
    MAX_INDEX,
    MAX_INDEXES,
    MAX_PARTITION,
    MAX_ROW,
    MAX_SORT,
    Append,
    Batch,
    Engine,
    Facets,
    IndexSpec,
    KindSpec,
    Page,
    Put,
    Receipt,
    Row,
    Scalar,
    ScalarType,
    Scan,
    Schema,
    Trim,
)

MAX_LIMIT = 1_000
MAX_ONCE = 2_048
MAX_BUDGET = 1_000_000

_FACETS_HINT = "Facets are what filters ask, metadata among them: keep large values in the content."
_ANY_SEQ = seq_sort(1)
_TYPES: Mapping[ScalarType, type] = {"str": str, "int": int, "float": float, "bool": bool}


class Limits:
    """Checks everything on its way in. What passes is well-formed on every engine."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self._kinds: dict[str, KindSpec] = {}

    async def open(self, schema: Schema) -> None:
        """Refuse a malformed schema, then open."""
        for kind in schema.kinds:
            if len(kind.indexes) > MAX_INDEXES:
                raise TooLarge(
                    f"kind {kind.name!r}", limit=MAX_INDEXES, size=len(kind.indexes), unit="indexes", operation="open"
                )
        self._kinds = {kind.name: kind for kind in schema.kinds}
        await self.inner.open(schema)

    async def close(self) -> None:
        """Close the engine."""
        await self.inner.close()

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """Keys of known kinds only."""
        for key in keys:
            self._kind(key.kind, "get")
            _fits("a partition", key.partition, MAX_PARTITION, hint="keys.partition() shortens ids.")
            _fits("a sort key", key.sort, MAX_SORT)
        return await self.inner.get(keys) if keys else []

    async def scan(self, scan: Scan) -> Page:
        """Scans of known kinds and indexes, whose values have the index's types."""
        self._check_scan(scan)
        return await self.inner.scan(scan)

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Malformed and too large batches are answered here; the others go on."""
        refused = {n: error for n, batch in enumerate(batches) if (error := self._refuse(batch, restore)) is not None}
        if not refused:
            return await self.inner.commit(batches, restore=restore)
        rest = [batch for number, batch in enumerate(batches) if number not in refused]
        answers = iter(await self.inner.commit(rest, restore=restore) if rest else [])
        return [refused[number] if number in refused else next(answers) for number in range(len(batches))]

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """Known kinds only, and bounds that are text."""
        self._kind(kind, "dump")
        _within("limit", limit, MAX_LIMIT)
        if not all(bound is None or isinstance(bound, str) for bound in (lo, hi)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise Invalid("a dump takes text bounds, which are partitions", operation="dump")
        return await self.inner.dump(kind, after, limit, lo=lo, hi=hi)

    def _kind(self, name: str, operation: str) -> KindSpec:
        kind = self._kinds.get(name)
        if kind is None:
            raise Invalid(f"the schema has no kind {name!r}", operation=operation)
        return kind

    def _refuse(self, batch: Batch, restore: bool) -> StoreError | None:
        try:
            validate(batch, self._kinds, restore=restore)
            self._sizes(batch)
        except (Invalid, TooLarge) as error:
            error.operation = "commit"
            return error
        return None

    def _sizes(self, batch: Batch) -> None:
        if len(batch.ops) > MAX_BATCH_OPS:
            raise TooLarge("a batch", limit=MAX_BATCH_OPS, size=len(batch.ops), unit="ops")
        _fits("a partition", batch.partition, MAX_PARTITION, hint="keys.partition() shortens ids.")
        if batch.once is not None:
            _fits("an idempotency key", batch.once, MAX_ONCE)
        total = 0
        for op in batch.ops:
            if not isinstance(op, (Append, Trim)):
                _fits("a sort key", op.sort, MAX_SORT)
            if isinstance(op, (Put, Append)):
                try:
                    total += self._row_size(batch, op)
                except (Invalid, TooLarge) as error:
                    error.key = Key(op.kind, batch.partition, op.sort if isinstance(op, Put) else _ANY_SEQ)
                    raise
        if total > MAX_BATCH:
            raise TooLarge("a batch", limit=MAX_BATCH, size=total, hint="Commit it as several.")

    def _row_size(self, batch: Batch, op: Put | Append) -> int:
        """The bytes of a row: counted exactly only where they may matter."""
        total = len(op.doc)
        if op.index:
            total += self._index_size(op)
        if op.facets:
            total += facets_size(op.facets)
        if total > MAX_ROW - MAX_PARTITION - MAX_SORT:
            total += size(batch.partition) + size(op.sort if isinstance(op, Put) else _ANY_SEQ)
            if total > MAX_ROW:
                raise TooLarge("a row", limit=MAX_ROW, size=total)
        return total

    def _index_size(self, op: Put | Append) -> int:
        known = {spec.name: spec for spec in self._kinds[op.kind].indexes}
        total = 0
        for name, values in op.index.items():
            spec = known.get(name)
            if spec is None:
                raise Invalid(f"kind {op.kind!r} has no index {name!r}")
            if len(values) != len(spec.fields):
                raise Invalid(f"index {name!r} takes {len(spec.fields)} values, {len(values)} were given")
            _typed(spec, values)
            length = len(pack(values).encode())
            if length > MAX_INDEX:
                raise TooLarge(f"the values of index {name!r}", limit=MAX_INDEX, size=length)
            total += length
        return total

    def _check_scan(self, scan: Scan) -> None:
        kind = self._kind(scan.kind, "scan")
        _within("limit", scan.limit, MAX_LIMIT)
        _within("budget", scan.budget, MAX_BUDGET)
        bounds = tuple(bound for bound in (scan.lo, scan.hi) if bound is not None)
        if scan.index is None:
            if len(scan.prefix) > 1 or not all(isinstance(value, str) for value in (*scan.prefix, *bounds)):
                raise Invalid("a scan without an index takes at most a partition, and text bounds", operation="scan")
            return
        spec = next((spec for spec in kind.indexes if spec.name == scan.index), None)
        if spec is None:
            raise Invalid(f"kind {scan.kind!r} has no index {scan.index!r}", operation="scan")
        if not 1 <= len(scan.prefix) <= len(spec.fields) - bool(bounds):
            raise Invalid(
                f"a scan of index {spec.name!r} fixes its first field at least, and ranges over the one after",
                operation="scan",
            )
        _typed(spec, scan.prefix)
        for bound in bounds:
            _typed(spec, (*scan.prefix, bound))


def _typed(spec: IndexSpec, values: Sequence[Scalar]) -> None:
    for field, wanted, value in zip(spec.fields, spec.types, values, strict=False):
        if type(value) is not _TYPES[wanted]:
            raise Invalid(f"index {spec.name!r}: {field!r} is {wanted}, not {type(value).__name__}")


def _fits(what: str, text: str, limit: int, hint: str = "") -> None:
    """Raises TooLarge. Most texts are so short that they need no counting."""
    if len(text) * WIDEST > limit and (length := size(text)) > limit:
        raise TooLarge(what, limit=limit, size=length, hint=hint)


def facets_size(facets: Facets) -> int:
    """The bytes of facets. Raises TooLarge, and Invalid for a number that is not finite."""
    if len(facets) > MAX_FACETS:
        raise TooLarge("the facets", limit=MAX_FACETS, size=len(facets), unit="paths", hint=_FACETS_HINT)
    rough = 0
    for path, value in facets.items():
        rough += len(path) + (
            len(value) if type(value) is str else 8 if type(value) is int else _value_size(path, value, len)
        )
    if rough * WIDEST <= MAX_FACET_BYTES:
        return rough
    total = sum(size(path) + _value_size(path, value, size) for path, value in facets.items())
    if total > MAX_FACET_BYTES:
        raise TooLarge("the facets", limit=MAX_FACET_BYTES, size=total, hint=_FACETS_HINT)
    return total


def _value_size(path: str, value: Facet, measure: Callable[[str], int]) -> int:
    total = 0
    for one in value if isinstance(value, tuple) else (value,):
        if type(one) is float and not one - one == 0:
            raise Invalid(f"the facet {path!r} must be finite")
        total += measure(one) if isinstance(one, str) else 8
    return total


def _within(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise Invalid(f"{name}={value} must lie between 1 and {most:,}", operation="scan")
