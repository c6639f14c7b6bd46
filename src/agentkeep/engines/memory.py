"""The memory engine: the reference that every other engine is compared with, and the double of the tests."""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import merge

import msgspec

from ..errors import Closed, StoreError
from ..ids import Clock, system_clock
from ..keys import ABOVE, cursor, pack, position, seq_of
from ..predicates import OPERATORS, evaluate
from ..resolve import Found, Memo, head_row, lane, reads, resolve, token
from ..urls import Url
from ..waist import (
    HEAD,
    REMEMBERED,
    Batch,
    Capabilities,
    Head,
    Key,
    Page,
    Receipt,
    Row,
    Scan,
    Schema,
)


class Options(msgspec.Struct, frozen=True):
    """A memory URL has no options."""


def from_url(url: Url, options: Options, clock: Clock, inline: bool) -> Memory:
    """`memory://`: a new, empty database each time."""
    return Memory(clock)


Entry = tuple[str, ...]
"""The place of a row in an order: (partition, sort) or (packed index values, partition, sort)."""


class Memory:
    """Everything in this process's memory; gone when it ends."""

    capabilities = Capabilities(
        name="memory",
        atomic="database",
        filters=OPERATORS,
        facet_index=False,
        durable=False,
        power_loss=False,
        shared=False,
        inline=True,
    )

    def __init__(self, clock: Clock = system_clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._open = False
        self._logs: frozenset[str] = frozenset()
        self._rows: dict[Key, Row] = {}
        self._heads: dict[tuple[str, str], Head] = {}
        self._headed: dict[str, list[Entry]] = defaultdict(list)
        self._orders: dict[tuple[str, str | None], list[Entry]] = defaultdict(list)
        self._memos: dict[tuple[str, str, bytes], tuple[Memo, int]] = {}

    async def open(self, schema: Schema) -> None:
        """Learn the kinds. What was stored before stays, as it would in a database."""
        self._logs = frozenset(kind.name for kind in schema.kinds if kind.log)
        self._open = True

    async def close(self) -> None:
        """Refuse further calls until it is opened again."""
        self._open = False

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """One answer per key, in order."""
        with self._lock:
            self._usable("get")
            return [None if (row := self._read(key)) is None else _bare(row) for key in keys]

    async def scan(self, scan: Scan) -> Page:
        """A page of a range."""
        with self._lock:
            self._usable("scan")
            rows: list[Row] = []
            for looked, entry in enumerate(self._range(scan, self._orders[scan.kind, scan.index]), 1):
                row = self._live(Key(scan.kind, entry[-2], entry[-1]))
                if row is not None and evaluate(scan.where, row.facets):
                    rows.append(_bare(row, scan.where is not None))
                if len(rows) == scan.limit or looked == scan.budget:
                    return Page(rows, cursor(scan, entry))
            return Page(rows, None)

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit each batch in turn under one lock."""
        with self._lock:
            self._usable("commit")
            return [self._commit(batch, restore) for batch in batches]

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """Rows and heads in order of (partition, sort)."""
        scan = Scan(kind, lo=lo, hi=hi, limit=limit, after=after)
        with self._lock:
            self._usable("dump")
            rows: list[Row] = []
            for entry in merge(self._range(scan, self._headed[kind]), self._range(scan, self._orders[kind, None])):
                row = self._read(Key(kind, *entry))
                if row is not None:
                    rows.append(row)
                if len(rows) == limit:
                    return Page(rows, cursor(scan, entry))
            return Page(rows, None)

    def _usable(self, operation: str) -> None:
        if not self._open:
            raise Closed("the engine is not open", engine="memory", operation=operation)

    def _read(self, key: Key) -> Row | None:
        if key.kind in self._logs and key.sort == HEAD:
            head = self._heads.get((key.kind, key.partition))
            return None if head is None else head_row(key.kind, key.partition, head)
        return self._live(key)

    def _live(self, key: Key) -> Row | None:
        row = self._rows.get(key)
        if row is None or (row.expires is not None and row.expires <= self._clock()):
            return None
        if key.kind in self._logs and seq_of(key.sort) <= self._heads[key.kind, key.partition].floor:
            return None
        return row

    def _range(self, scan: Scan, order: list[Entry]) -> Iterator[Entry]:
        lo, hi = _bounds(scan)
        start = bisect_left(order, lo)
        stop = len(order) if hi is None else bisect_left(order, hi)
        after = position(scan)
        if after is not None and scan.reverse:
            stop = min(stop, bisect_left(order, after))
        elif after is not None:
            start = max(start, bisect_right(order, after))
        places = range(stop - 1, start - 1, -1) if scan.reverse else range(start, stop)
        return map(order.__getitem__, places)

    def _commit(self, batch: Batch, restore: bool) -> Receipt | StoreError:
        logs = self._logs if restore else frozenset[str]()
        wanted = reads(batch, logs)
        found = Found(
            {key: self._live(key) for key in wanted.keys},
            {kind: self._heads.get((kind, batch.partition)) for kind in wanted.heads},
            None if restore else self._memo(batch),
        )
        try:
            plan = resolve(batch, found, logs)
        except StoreError as error:
            error.engine = "memory"
            return error
        if isinstance(plan, Receipt):
            return plan
        for kind, head in plan.heads.items():
            if (kind, batch.partition) not in self._heads:
                insort(self._headed[kind], (batch.partition, HEAD))
            self._heads[kind, batch.partition] = head
        for key in plan.deletes:
            self._remove(key)
        for row in plan.puts:
            self._remove(row.key)
            self._insert(row)
        if not restore:
            memo = Memo(plan.receipt, batch.digest)
            self._memos[batch.partition, lane(batch), token(batch)] = memo, self._clock() + REMEMBERED
            self._forget()
        return plan.receipt

    def _memo(self, batch: Batch) -> Memo | None:
        memo, _ = self._memos.get((batch.partition, lane(batch), token(batch)), (None, 0))
        return memo

    def _forget(self) -> None:
        """Drop the oldest memory once it is older than promised: the dict is in order of time."""
        name, (_, until) = next(iter(self._memos.items()))
        if until <= self._clock():
            del self._memos[name]

    def _insert(self, row: Row) -> None:
        self._rows[row.key] = row
        place = row.key.partition, row.key.sort
        insort(self._orders[row.key.kind, None], place)
        for name, values in row.index.items():
            insort(self._orders[row.key.kind, name], (pack(values), *place))

    def _remove(self, key: Key) -> None:
        row = self._rows.pop(key, None)
        if row is None:
            return
        place = key.partition, key.sort
        _drop(self._orders[key.kind, None], place)
        for name, values in row.index.items():
            _drop(self._orders[key.kind, name], (pack(values), *place))


def _bare(row: Row, facets: bool = False) -> Row:
    return Row(row.key, row.rev, row.doc, {}, row.facets if facets else {}, row.expires)


def _bounds(scan: Scan) -> tuple[Entry, Entry | None]:
    """The half-open range of entries a scan goes over. U+0000 after a string is the next string there is."""
    if scan.index is None:
        if not scan.prefix:
            return ("" if scan.lo is None else str(scan.lo),), None if scan.hi is None else (str(scan.hi),)
        partition = str(scan.prefix[0])
        lo = (partition, str(scan.lo)) if scan.lo is not None else (partition,)
        hi = (partition, str(scan.hi)) if scan.hi is not None else (partition + "\x00",)
        return lo, hi
    base = pack(scan.prefix)
    lo = base if scan.lo is None else pack((*scan.prefix, scan.lo))
    hi = base + ABOVE if scan.hi is None else pack((*scan.prefix, scan.hi))
    return (lo,), (hi,)


def _drop(order: list[Entry], entry: Entry) -> None:
    del order[bisect_left(order, entry)]
