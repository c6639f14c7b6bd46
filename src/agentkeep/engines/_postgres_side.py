"""All that the PostgreSQL engine has in one event loop: connections, a writer, a housekeeper, and the reads."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ..errors import Invalid, Key
from ..ids import Clock
from ..keys import cursor, escape, position, seq_of, seq_sort, unescape
from ..resolve import head_row
from ..waist import HEAD, Head, KindSpec, Page, Row, Scan
from ._postgres_commit import Writer
from ._postgres_keep import Keeper
from ._postgres_pool import Record, Source, fetch
from ._postgres_sql import POSTGRES, Statements
from ._sql import Tables, dump_query, heads_query, row_of, row_with_facets, whole_row


class Side:
    """One loop's share of the engine."""

    def __init__(
        self, source: Source, statements: Statements, names: Tables, kinds: Mapping[str, KindSpec], clock: Clock
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.source = source
        self.keeper = Keeper(source, statements, kinds, clock)
        self.commit = Writer(source, statements, kinds, clock, self.keeper.nudge).commit
        self._statements = statements
        self._names = names
        self._kinds = kinds
        self._clock = clock

    async def close(self) -> None:
        """End housekeeping and the connections."""
        await self.keeper.stop()
        await self.source.close()

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """One answer per key, in one round trip."""
        if len(keys) == 1:
            return [await self._one(keys[0])]
        wanted: dict[str, list[tuple[int, str, Any]]] = defaultdict(list)
        heads: list[tuple[int, str, str]] = []
        for number, key in enumerate(keys):
            kind = self._kinds[key.kind]
            if kind.log and key.sort == HEAD:
                heads.append((number, escape(key.partition), key.kind))
            else:
                wanted[key.kind].append((number, escape(key.partition), _place(kind, key.sort)))
        kinds = tuple(sorted(wanted))
        args: list[Any] = [self._clock()] if kinds else []
        for group in (*(wanted[name] for name in kinds), *([heads] if heads else [])):
            args += map(list, zip(*group, strict=True))
        answers: list[Row | None] = [None] * len(keys)
        query = self._statements.many(kinds, bool(heads))
        for number, rev, doc, a, b, c in await self._fetch("get", query, args) if args else []:
            key = keys[int(number)]
            if rev is None:
                answers[int(number)] = head_row(key.kind, key.partition, Head(a, b, bool(c)))
            else:
                answers[int(number)] = Row(key, rev, doc, {}, {}, a)
        return answers

    async def _one(self, key: Key) -> Row | None:
        kind = self._kinds[key.kind]
        partition = escape(key.partition)
        if kind.log and key.sort == HEAD:
            heads = await self._fetch("get", self._statements.head(), [partition, key.kind])
            seq, floor, sealed = heads[0] if heads else (None, 0, 0)
            return None if seq is None else head_row(key.kind, key.partition, Head(seq, floor, bool(sealed)))
        args = [partition, _place(kind, key.sort), self._clock()]
        rows = await self._fetch("get", self._statements.one(key.kind), args)
        return Row(key, rows[0][0], rows[0][1], {}, {}, rows[0][2]) if rows else None

    async def scan(self, scan: Scan) -> Page:
        """A page of a range, in one round trip."""
        kind = self._kinds[scan.kind]
        query, args = self._statements.page(kind, scan, self._clock())
        got = await self._fetch("scan", query, args)
        edge = got.pop() if got and got[-1][2] is None else None
        if edge is None and len(got) >= min(scan.limit, scan.budget):
            edge = got[-1]
        make = row_of if scan.where is None else row_with_facets
        return Page([make(kind, row) for row in got], None if edge is None else _cursor(kind, scan, edge))

    async def dump(self, scan: Scan) -> Page:
        """Heads in order of partition, then rows in order of the primary key."""
        kind = self._kinds[scan.kind]
        rows: list[Row] = []
        after = position(scan)
        if kind.log and (after is None or after[1] == HEAD):
            query, args = heads_query(POSTGRES, self._statements.heads(), kind, scan)
            for partition, seq, floor, sealed in await self._fetch("dump", query, args):
                rows.append(head_row(kind.name, unescape(partition), Head(seq, floor, bool(sealed))))
            scan = msgspec.structs.replace(scan, limit=scan.limit - len(rows), after=None)
        if scan.limit:
            query, args = dump_query(self._names, POSTGRES, kind, scan, self._clock())
            got = await self._fetch("dump", query, args)
            rows += [whole_row(kind, row) for row in got]
            if len(got) < scan.limit:
                return Page(rows, None)
        return Page(rows, cursor(scan, rows[-1].key[1:]))

    async def _fetch(self, operation: str, query: str, args: Sequence[Any]) -> list[Record]:
        return await fetch(self.source, operation, query, args)


def _place(kind: KindSpec, sort: str) -> str | int:
    """The sort key or the number of a row; -1, which no row has, for what cannot be a log row's key."""
    if not kind.log:
        return escape(sort)
    try:
        return seq_of(sort)
    except Invalid:
        return -1


def _cursor(kind: KindSpec, scan: Scan, edge: Record) -> str:
    place = (unescape(edge[0]), seq_sort(edge[1]) if kind.log else unescape(edge[1]))
    return cursor(scan, place if scan.index is None else (edge[-1], *place))
