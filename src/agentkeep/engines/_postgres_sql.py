"""The statements of the PostgreSQL engine: texts made of checked names, every key and value bound.

How they keep each other out (READ COMMITTED; the tests take each guard away and see it missed):

- Every commit locks its partition by a transaction-level advisory lock: `transaction` batches exclusively, in a
  statement of their own before they read, so that what they then read in one snapshot is the state that they change.
  The one-statement commits share it, so they meet only each other.
- A one-statement commit decides on the newest version of one row, whose lock it takes: the head of its log (appends,
  edits) or the row it compares (put, delete). PostgreSQL checks the condition again on the newest version after it
  waited for that lock, so an older snapshot makes it find too little, never too much. Whoever finds no row decides
  nothing: the batch goes to a transaction. What else such a statement writes (rows at numbers that the head gave out,
  puts without expectation) compares nothing.
- The unique token fails the whole statement of a batch that was committed before, its head's new number included.
- A statement of several batches takes partitions in sorted order, and holds no row that it did not reach through the
  lock of its partition. Transactions wait for nothing once they have their lock. So no two wait for each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from zlib import crc32

import msgspec

from ..predicates import Compare
from ..waist import Column, KindSpec, Scan
from ._sql import Dialect, Query, Tables, live, safe_text, scan_query, sort_column

_EXACT = 2**53
_JSON = msgspec.json.Encoder()


# --- facets and views --------------------------------------------------------------------------------------------


def representable(value: object) -> bool:
    """Whether JSONB keeps a facet's value, and compares it, exactly as Python does."""
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, float):
        return -_EXACT <= value <= _EXACT and not (value == 0.0 and math.copysign(1, value) < 0)
    return isinstance(value, bool) or (isinstance(value, int) and -_EXACT <= value <= _EXACT)


_PATHS: Mapping[str, str] = {
    "ne": "$[*] ? (@ != $v || (@ == $v) is unknown)",
    "lt": "$[*] ? (@ < $v)",
    "le": "$[*] ? (@ <= $v)",
    "gt": "$[*] ? (@ > $v)",
    "ge": "$[*] ? (@ >= $v)",
}


def _filter(compare: Compare, bind: Callable[[Any], str]) -> str | None:
    path, op, value = compare.path, compare.op, compare.value
    values = value if isinstance(value, tuple) else (value,)
    if not representable(path) or not all(map(representable, values)):
        return None
    if op in ("eq", "in"):
        # Containment wants the shape to match too: a value alone, and one of several.
        ways = [bind(_json({path: one})) for value in values for one in (value, [value])]
        return f"({' OR '.join(f'facets @> {way}::jsonb' for way in ways)})" if ways else "FALSE"
    name = bind(path)
    if op == "exists":
        there = f"COALESCE(facets -> {name}::text <> '[]'::jsonb, FALSE)"
        return there if value else f"NOT {there}"
    return f"jsonb_path_exists(facets -> {name}::text, '{_PATHS[op]}', {bind(_json({'v': value}))}::jsonb)"


def _json(value: object) -> str:
    return _JSON.encode(value).decode()


def _column(table: str, column: Column) -> str:
    """A typed value out of `whole`, the document as JSONB; NULL where it has another type."""
    path = "".join(f", {_literal(part)}" for part in column.path)
    value = f"jsonb_extract_path(whole{path})" if path else "whole"
    text = f"({value} #>> '{{}}')"
    match column.type:
        case "json":
            return value
        case "str":
            return text
        case "bool":
            return f"CASE jsonb_typeof({value}) WHEN 'boolean' THEN {text}::boolean END"
        case "int":
            return f"CASE jsonb_typeof({value}) WHEN 'number' THEN {text}::numeric END"
        case "float":
            small = f"abs({text}::numeric) < 1e300"
            return f"CASE jsonb_typeof({value}) WHEN 'number' THEN CASE WHEN {small} THEN {text}::float8 END END"
        case "time":
            micros = f"CASE WHEN abs({text}::numeric) < 1e17 THEN {text}::numeric::bigint END"
            moment = f"'epoch'::timestamptz + {micros} * interval '1 microsecond'"
            return f"CASE jsonb_typeof({value}) WHEN 'number' THEN {moment} END"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


POSTGRES = Dialect(
    text='TEXT COLLATE "C"',
    blob="BYTEA",
    json="JSONB",
    integer="BIGINT",
    table_options="",
    mark="${}".format,
    filter=_filter,
    json_value=_column,
    facet_index=True,
)


# --- committing --------------------------------------------------------------------------------------------------


def lock_of(text: str) -> int:
    """A 32-bit integer for an advisory lock. Two partitions that share one only wait for each other."""
    return crc32(text.encode()) - 0x80000000


def value_columns(kind: KindSpec) -> list[tuple[str, str]]:
    """What a write gives a row beside its place: (column, type)."""
    indexed = [(f"ix_{index.name}", "text") for index in kind.indexes]
    return [("rev", "text"), ("doc", "bytea"), ("facets", "jsonb"), ("odd", "bytea"), ("expires", "bigint"), *indexed]


_TOKEN = [("token", "bytea"), ("digest", "bytea")]

# An edit keeps the id of the batch that appended the row, for its receipt, behind the digest.
_KEPT = (
    "digest = CASE WHEN octet_length(t.digest) <= 16 THEN t.digest || decode(replace(t.rev, '-', ''), 'hex') "
    "ELSE t.digest END"
)


class Statements:
    """The statements of one store, each text made once."""

    def __init__(self, names: Tables, kinds: Mapping[str, KindSpec], namespace: int) -> None:
        self._names = names
        self._kinds = kinds
        self._namespace = namespace
        self._heads = names.of("heads")
        self._commits = names.of("commits")
        # Each text is made once, and found again by its shape.
        for make in (self.append, self.appends, self.single, self.found, self.write, self.one, self.many):
            setattr(self, make.__name__, cache(make))

    def begin(self, lock: int) -> str:
        """Start the transaction of one partition. One round trip; the reads that follow see what the lock protects."""
        return f"BEGIN ISOLATION LEVEL READ COMMITTED; SELECT pg_advisory_xact_lock({self._namespace:d}, {lock:d})"

    def _shared(self, lock: str) -> str:
        """A condition that takes the lock of a partition. As a condition it is cheaper than as a row to join."""
        return f"pg_advisory_xact_lock_shared({self._namespace:d}, {lock}) IS NOT NULL"

    def append(self, name: str, opened: bool) -> str:
        """One row appended: $1 partition, $2 lock, the values, token, digest. Gives its number."""
        kind = self._kinds[name]
        columns = [*value_columns(kind), *_TOKEN]
        marks = ", ".join(f"${number}::{type_}" for number, (_, type_) in enumerate(columns, 3))
        if opened:
            head = (
                f"UPDATE {self._heads} SET seq = seq + 1 WHERE partition = $1 AND kind = '{name}' "
                f"AND {self._shared('$2::int4')} AND sealed = 0 RETURNING seq"
            )
        else:
            head = (
                f"INSERT INTO {self._heads} AS h (partition, kind, seq) "
                f"SELECT $1::text, '{name}', 1 WHERE {self._shared('$2::int4')} "
                "ON CONFLICT (partition, kind) DO UPDATE SET seq = h.seq + 1 WHERE h.sealed = 0 RETURNING seq"
            )
        return (
            f"WITH h AS ({head}) INSERT INTO {self._names.of(name)} (partition, seq, {_listed(columns)}) "
            f"SELECT $1, h.seq, {marks} FROM h RETURNING seq"
        )

    def appends(self, name: str, puts: tuple[str, ...], guard: str | None = None) -> str:
        """Rows appended to the logs of several partitions, with puts that expect nothing in kinds `puts`.

        $1 partitions, sorted; $2 how many rows; $3 locks; $4 whether the log must be open; $5 and $6 the sort key and
        the rev of a row of kind `guard` that must stand, or NULL. Then of each row: the partition, how far it is from
        the last of its partition, the values, token, digest. Then of each row of each kind in `puts`: the partition,
        the sort key, the values. Gives (partition, last number) of those appended to.

        The guard's row is locked, so that its newest version is compared and not that of a snapshot from before the
        lock: it cannot change until this is committed.
        """
        columns = [("p", "text"), ("back", "bigint"), *value_columns(self._kinds[name]), *_TOKEN]
        rows, at = _unnest(columns, 7)
        parts = [
            "l AS MATERIALIZED (SELECT u.p, u.n, u.m, u.s, u.r FROM unnest($1::text[], $2::bigint[], $3::int4[], "
            f"$4::boolean[], $5::text[], $6::text[]) u(p, n, k, m, s, r) WHERE {self._shared('u.k')})",
        ]
        stands = ""
        if guard is not None:
            parts.append(
                f"g AS MATERIALIZED (SELECT t.partition FROM {self._names.of(guard)} t JOIN l ON t.partition = l.p "
                "AND t.sort = l.s WHERE t.rev = l.r AND t.expires IS NULL FOR SHARE OF t)"
            )
            stands = "AND (l.r IS NULL OR l.p IN (SELECT partition FROM g)) "
        parts += [
            f"h AS (INSERT INTO {self._heads} AS h (partition, kind, seq) SELECT l.p, '{name}', l.n FROM l WHERE "
            f"(NOT l.m OR EXISTS (SELECT 1 FROM {self._heads} o WHERE o.partition = l.p AND o.kind = '{name}')) "
            f"{stands}"
            "ON CONFLICT (partition, kind) DO UPDATE SET seq = h.seq + excluded.seq WHERE h.sealed = 0 "
            "RETURNING partition, seq)",
            f"a AS (INSERT INTO {self._names.of(name)} (partition, seq, {_listed(columns[2:])}) "
            f"SELECT u.p, h.seq - u.back, {_listed(columns[2:], 'u.')} FROM {rows} JOIN h ON h.partition = u.p)",
        ]
        for number, put in enumerate(puts):
            kind = self._kinds[put]
            columns = [("p", "text"), ("s", "text"), *value_columns(kind)]
            rows, at = _unnest(columns, at)
            given = f"SELECT u.p, u.s, {_listed(columns[2:], 'u.')} FROM {rows} JOIN h ON h.partition = u.p"
            parts.append(f"p{number} AS ({self._upsert(kind, given)})")
        return f"WITH {', '.join(parts)} SELECT partition, seq FROM h"

    def _upsert(self, kind: KindSpec, given: str, when: str = "") -> str:
        columns = value_columns(kind)
        place = f"partition, {sort_column(kind)}"
        kept = f", {_KEPT}" if kind.log else ""
        return (
            f"INSERT INTO {self._names.of(kind.name)} AS t ({place}, {_listed(columns)}) {given} "
            f"ON CONFLICT ({place}) DO UPDATE SET {_assigned(columns)}{kept}{when}"
        )

    def single(self, name: str, expect: str, delete: bool) -> str:
        """One put or delete: $1 partition, $2 lock, $3 sort or number, $4 now, $5 token, $6 receipt, $7 digest.

        `expect` is "any", "absent", "exists" or "rev"; $8 is then the rev. The values of a put follow. Gives a row
        if the expectation held; else nothing is written.
        """
        kind = self._kinds[name]
        table = self._names.of(name)
        columns = value_columns(kind)
        first = 9 if expect == "rev" else 8
        marks = ", ".join(f"${number}::{type_}" for number, (_, type_) in enumerate(columns, first))
        values = "$5::bytea, $1::text, $6::bytea, $7::bytea, $4::bigint"
        memory = f"INSERT INTO {self._commits} (token, partition, receipt, digest, at) SELECT {values} FROM"
        shared = self._shared("$2::int4")
        here = f"t.partition = $1::text AND t.{sort_column(kind)} = $3::{_sort_type(kind)}"
        if expect in ("any", "absent") and not delete:
            absent = " WHERE t.expires <= $4::bigint" if expect == "absent" else ""
            written = self._upsert(kind, f"SELECT $1::text, $3::text, {marks} WHERE {shared}", absent)
            return f"WITH w AS ({written} RETURNING 1) {memory} w RETURNING 1"
        if expect == "any":
            gone = f"DELETE FROM {table} t USING l WHERE {here}"
            return f"WITH l AS MATERIALIZED (SELECT 1 WHERE {shared}), w AS ({gone}) {memory} l RETURNING 1"
        before = ""
        if kind.log:
            # The head is locked, so that the floor is the newest, not that of a snapshot from before a Trim.
            before = (
                f"l AS MATERIALIZED (SELECT h.floor FROM {self._heads} h WHERE h.partition = $1 "
                f"AND h.kind = '{name}' AND {shared} FOR UPDATE), "
            )
            here = f"{here} AND t.seq > l.floor AND t.doc IS NOT NULL"
        expected = " AND t.rev = $8::text" if expect == "rev" else ""
        where = f"WHERE {here} AND (t.expires IS NULL OR t.expires > $4::bigint){expected}"
        if not kind.log:
            where += f" AND {shared}"
        if not delete:
            values = ", ".join(f"{column} = ${n}::{type_}" for n, (column, type_) in enumerate(columns, first))
            written = f"UPDATE {table} t SET {values}{f', {_KEPT} FROM l' if kind.log else ''} {where}"
        elif kind.log:
            written = f"UPDATE {table} t SET {_emptied(kind, f'${first}::bigint')} FROM l {where}"
        else:
            written = f"DELETE FROM {table} t {where}"
        return f"WITH {before}w AS ({written} RETURNING 1) {memory} w RETURNING 1"

    def found(self, rows: tuple[str, ...], memo: str | None) -> str:
        """What a batch's resolution looks at: $1 partition, $2 kinds of heads; $3 token, if there may be a memo.

        Then, if there are any `rows`, now, and of each of their kinds ordinals and sort keys. Gives (what, text,
        receipt, digest, integer x3): a row by its ordinal with its rev; -1 a head with kind, seq, floor, sealed;
        -2 the memo with rev, receipt, digest, number.
        """
        parts = [
            "SELECT -1, h.kind, NULL::bytea, NULL::bytea, h.seq, h.floor, h.sealed "
            f"FROM {self._heads} h WHERE h.partition = $1::text AND h.kind = ANY ($2::text[])"
        ]
        none = "NULL::bigint, NULL::bigint"
        at = 3
        if memo is not None:
            what = "c.rev, NULL::bytea, c.digest, c.seq" if memo else "NULL::text, c.receipt, c.digest, NULL::bigint"
            table = self._names.of(memo or "commits")
            parts.append(f"SELECT -2, {what}, {none} FROM {table} c WHERE c.token = $3::bytea AND c.partition = $1")
            at += 1
        now = f"${at}::bigint"
        at += 1
        for name in rows:
            kind = self._kinds[name]
            given, at = _unnest([("n", "int4"), ("s", _sort_type(kind))], at)
            place = f"t.partition = $1 AND t.{sort_column(kind)} = u.s"
            parts.append(
                f"SELECT u.n, t.rev, NULL::bytea, NULL::bytea, NULL::bigint, {none} FROM {given}, "
                f"LATERAL (SELECT t.rev FROM {self._names.of(name)} t "
                f"WHERE {place} AND {live(self._names, kind, now)} LIMIT 1) t"
            )
        return " UNION ALL ".join(parts)

    def write(self, shape: Shape) -> str:
        """A whole plan: $1 partition, then arrays, in the order of `Shape`, of what there is:

        of each kind appended to: numbers, values, token, digest; of each kind put: sort keys, values; of each kind
        deleted from: sort keys and, if it is a log, until when the places are kept; of heads: kinds, seqs, floors,
        seals; marks of the logs that were trimmed. Then the memory: token, receipt, digest, now.
        """
        parts: list[str] = []
        at = 2
        for name in shape.appended:
            columns = [("s", "bigint"), *value_columns(self._kinds[name]), *_TOKEN]
            rows, at = _unnest(columns, at)
            into = f"INSERT INTO {self._names.of(name)} (partition, seq, {_listed(columns[1:])})"
            parts.append(f"{into} SELECT $1::text, {_listed(columns, 'u.')} FROM {rows}")
        for name in shape.put:
            kind = self._kinds[name]
            columns = [("s", _sort_type(kind)), *value_columns(kind)]
            rows, at = _unnest(columns, at)
            parts.append(self._upsert(kind, f"SELECT $1::text, {_listed(columns, 'u.')} FROM {rows}"))
        for name in shape.deleted:
            kind, table = self._kinds[name], self._names.of(name)
            rows, at = _unnest([("s", _sort_type(kind))], at)
            where = f"WHERE t.partition = $1::text AND t.{sort_column(kind)} = u.s"
            if kind.log:
                parts.append(f"UPDATE {table} t SET {_emptied(kind, f'${at}::bigint')} FROM {rows} {where}")
                at += 1
            else:
                parts.append(f"DELETE FROM {table} t USING {rows} {where}")
        if shape.heads:
            rows, at = _unnest([("k", "text"), ("seq", "bigint"), ("floor", "bigint"), ("sealed", "bigint")], at)
            changed = "seq = excluded.seq, floor = excluded.floor, sealed = excluded.sealed"
            parts.append(
                f"INSERT INTO {self._heads} (partition, kind, seq, floor, sealed) SELECT $1::text, u.* FROM {rows} "
                f"ON CONFLICT (partition, kind) DO UPDATE SET {changed}"
            )
        if shape.trimmed:
            rows, at = _unnest([("name", "text"), ("value", "text")], at)
            parts.append(
                f"INSERT INTO {self._names.of('meta')} AS t (name, value) SELECT u.* FROM {rows} "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value"
            )
        if shape.memory:
            values = f"${at}::bytea, $1::text, ${at + 1}::bytea, ${at + 2}::bytea, ${at + 3}::bigint"
            parts.append(f"INSERT INTO {self._commits} (token, partition, receipt, digest, at) VALUES ({values})")
        steps = ", ".join(f"w{number} AS ({part} RETURNING 1)" for number, part in enumerate(parts))
        return f"WITH {steps} SELECT 1"

    # --- reading -------------------------------------------------------------------------------------------------

    def one(self, name: str) -> str:
        """One row: $1 partition, $2 sort key or number, $3 now. Gives rev, doc, expires."""
        kind = self._kinds[name]
        place = f"t.partition = $1 AND t.{sort_column(kind)} = $2"
        alive = live(self._names, kind, "$3::bigint")
        return f"SELECT t.rev, t.doc, t.expires FROM {self._names.of(name)} t WHERE {place} AND {alive}"

    def head(self) -> str:
        """One head: $1 partition, $2 kind. Gives seq, floor, sealed."""
        return f"SELECT seq, floor, sealed FROM {self._heads} WHERE partition = $1 AND kind = $2"

    def many(self, rows: tuple[str, ...], heads: bool) -> str:
        """Rows and heads of any kinds: now, if there are rows; of each kind ordinals, partitions, sort keys; of heads.

        Gives (ordinal, rev, doc, expires, NULL, NULL), of a head (ordinal, NULL, NULL, seq, floor, sealed).
        """
        parts: list[str] = []
        at = 2 if rows else 1
        for name in rows:
            kind = self._kinds[name]
            given, at = _unnest([("n", "int4"), ("p", "text"), ("s", _sort_type(kind))], at)
            place = f"t.partition = u.p AND t.{sort_column(kind)} = u.s"
            parts.append(
                f"SELECT u.n, t.rev, t.doc, t.expires, NULL::bigint, NULL::bigint FROM {given}, "
                f"LATERAL (SELECT t.rev, t.doc, t.expires FROM {self._names.of(name)} t "
                f"WHERE {place} AND {live(self._names, kind, '$1::bigint')} LIMIT 1) t"
            )
        if heads:
            given, at = _unnest([("n", "int4"), ("p", "text"), ("k", "text")], at)
            one = f"SELECT * FROM {self._heads} h WHERE h.partition = u.p AND h.kind = u.k LIMIT 1"
            none = "NULL::text, NULL::bytea"
            parts.append(f"SELECT u.n, {none}, h.seq, h.floor, h.sealed FROM {given}, LATERAL ({one}) h")
        return " UNION ALL ".join(parts)

    def heads(self) -> str:
        """The query of all heads: partition, seq, floor, sealed."""
        return f"SELECT h.partition, h.seq, h.floor, h.sealed FROM {self._heads} h"

    def page(self, kind: KindSpec, scan: Scan, now: int) -> Query:
        """A page of a range, in one snapshot. If fewer rows than asked for came, a last one may follow, its rev NULL:

        the place up to which was looked. Its columns are those of `columns(kind, facets=scan.where is not None)`,
        then that of the index.
        """
        (text, args), edge = scan_query(self._names, POSTGRES, kind, scan, now)
        if edge is None:
            return text, args
        indexed = f", e.ix_{scan.index}" if scan.index else ""
        none = "NULL::text, NULL::bytea, NULL::bigint, NULL::jsonb, NULL::bytea"
        last = f"SELECT e.partition, e.{sort_column(kind)}, {none}{indexed} FROM ({edge[0]}) e"
        # The second part is looked at only when the first has not given enough.
        return f"SELECT * FROM ({text}) r UNION ALL {last} LIMIT {scan.limit:d}", args

    # --- housekeeping --------------------------------------------------------------------------------------------

    def alone(self) -> str:
        """Whether this transaction is the one that keeps house. Nothing that follows in it waits for another."""
        return f"SELECT pg_try_advisory_xact_lock({self._namespace ^ 1:d}, 0)"

    def mark(self) -> str:
        """One of the logs $1 that was trimmed: the name of its mark, and the number up to which its rows go."""
        between = "name >= 'trim/' AND name < 'trim0' AND split_part(name, '/', 2) = ANY ($1::text[])"
        return f"SELECT name, value FROM {self._names.of('meta')} WHERE {between} LIMIT 1 FOR UPDATE SKIP LOCKED"

    def unmark(self) -> str:
        """Remove the mark $1."""
        return f"DELETE FROM {self._names.of('meta')} WHERE name = $1"

    def forget(self) -> str:
        """Remove commits from before $1, at most $2 of them."""
        old = f"SELECT token, partition FROM {self._commits} WHERE at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED"
        return f"DELETE FROM {self._commits} c USING ({old}) o WHERE c.token = o.token AND c.partition = o.partition"

    def expire(self, kind: KindSpec) -> list[str]:
        """Remove rows that expired before $1, at most $2 of them.

        Of a log the first statement empties the rows that have a token, which keep their places until $3.
        """
        table, place = self._names.of(kind.name), f"partition, {sort_column(kind)}"
        return self._removals(kind, f"SELECT {place} FROM {table} WHERE expires <= $1", "$2", "$3")

    def sweep(self, kind: KindSpec) -> list[str]:
        """Remove rows of the log of partition $1 numbered up to $2, at most $3; those with a token stay until $4."""
        table = self._names.of(kind.name)
        hidden = f"SELECT partition, seq FROM {table} WHERE partition = $1 AND seq <= $2 AND doc IS NOT NULL"
        return self._removals(kind, hidden, "$3", "$4")

    def _removals(self, kind: KindSpec, chosen: str, limit: str, until: str) -> list[str]:
        table, sort = self._names.of(kind.name), sort_column(kind)
        same = f"t.partition = o.partition AND t.{sort} = o.{sort}"
        limited = f"LIMIT {limit} FOR UPDATE SKIP LOCKED"
        if not kind.log:
            return [f"DELETE FROM {table} t USING ({chosen} {limited}) o WHERE {same}"]
        kept = f"{chosen} AND doc IS NOT NULL AND token IS NOT NULL {limited}"
        gone = f"{chosen} AND (doc IS NULL OR token IS NULL) {limited}"
        return [
            f"UPDATE {table} t SET {_emptied(kind, f'{until}::bigint')} FROM ({kept}) o WHERE {same}",
            f"DELETE FROM {table} t USING ({gone}) o WHERE {same}",
        ]


class Shape(NamedTuple):
    """What a plan writes: kinds appended to, put, deleted from; then whether heads change, are trimmed; the memory."""

    appended: tuple[str, ...]
    put: tuple[str, ...]
    deleted: tuple[str, ...]
    heads: bool
    trimmed: bool
    memory: bool


def _sort_type(kind: KindSpec) -> str:
    return "bigint" if kind.log else "text"


def _listed(columns: Sequence[tuple[str, str]], alias: str = "") -> str:
    return ", ".join(f"{alias}{column}" for column, _ in columns)


def _assigned(columns: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{column} = excluded.{column}" for column, _ in columns)


def _emptied(kind: KindSpec, until: str) -> str:
    """A deleted log row: it keeps its number, rev and token until housekeeping removes it."""
    nulls = ", ".join(f"{column} = NULL" for column, _ in value_columns(kind) if column not in ("rev", "expires"))
    return f"{nulls}, expires = {until}"


def _unnest(columns: Sequence[tuple[str, str]], at: int) -> tuple[str, int]:
    """Arrays as rows: parameters from `at` on, one for each column; the first parameter after them."""
    arrays = ", ".join(f"${number}::{type_}[]" for number, (_, type_) in enumerate(columns, at))
    return f"unnest({arrays}) u({_listed(columns)})", at + len(columns)
