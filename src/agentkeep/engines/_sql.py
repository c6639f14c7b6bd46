"""What SQL engines share: the layout of tables, and reading as pure functions from values to (statement, arguments).

    {prefix}{kind}      (partition, sort), rev, doc, facets, odd, expires, ix_{index} ...
    {prefix}{log}       (partition, seq), the same, and token, digest
    {prefix}heads       (partition, kind), seq, floor, sealed
    {prefix}commits     (token, partition), receipt, digest, at
    {prefix}meta        (name), value: the version of this layout

In brackets the primary keys.
Text columns hold `keys.escape`d text and compare by bytes. `ix_{index}` holds `keys.pack`ed values, NULL where the row
is not in the index. `token` stands on the first row a batch appends: its unique index is the memory of the batch.
A deleted log row that must still be remembered keeps its place with doc NULL. `odd` holds facets that the database's
JSON cannot represent, exactly; `facets` then has the key "", and every filter lets the row through for core to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, cast

import msgspec

from ..codec import decode, encode
from ..errors import Invalid
from ..keys import ABOVE, escape, pack, position, seq_bound, seq_of, seq_sort, unescape, unpack
from ..predicates import All, Compare, Facets, Not, Predicate, split
from ..waist import Column, IndexSpec, Key, KindSpec, Row, Scan

FORMAT = 1
"""The version of the layout above; a database with a greater one is refused."""

Args = list[Any]
Query = tuple[str, Args]

_NAME = re.compile("[a-z][a-z0-9_]{0,39}")


class Dialect(NamedTuple):
    """What differs between SQL databases when tables are made and read."""

    text: str
    blob: str
    json: str
    integer: str
    table_options: str
    mark: Callable[[int], str]
    """The marker of parameter n, counted from 1."""
    filter: Callable[[Compare, Callable[[Any], str]], str | None]
    """A comparison on the column `facets` as SQL, its values bound by the function given; None: core does it."""
    json_value: Callable[[str, Column], str]
    """A column of a kind's view as an SQL expression over the table named."""


class Tables(NamedTuple):
    """Quoted names of the tables of one store."""

    schema: str
    prefix: str

    def of(self, name: str) -> str:
        """The table of a kind, or one of heads, commits, meta."""
        table = f'"{self.prefix}{name}"'
        return f'"{self.schema}".{table}' if self.schema else table

    def index_of(self, kind: str, name: str) -> str:
        """The name of an index. The dot keeps it apart from every table and from the indexes of other kinds."""
        return f'"{self.prefix}{kind}.{name}"'


def tables(schema: str, prefix: str) -> Tables:
    """Names for a schema and a prefix. Raises Invalid for what is not a plain identifier (must-pass S3)."""
    for option, value in (("schema", schema), ("prefix", prefix)):
        if value and not _NAME.fullmatch(value):
            raise Invalid(f"{option}={value!r} is not an identifier", hint="Use a-z, 0-9 and _, 40 characters at most.")
    return Tables(schema, prefix)


def checked(kinds: Iterable[KindSpec]) -> None:
    """Refuse kinds and indexes whose names are not plain identifiers, or are taken. Raises Invalid."""
    for kind in kinds:
        for name in (kind.name, *(index.name for index in kind.indexes)):
            if not _NAME.fullmatch(name) or name in ("heads", "commits", "meta"):
                raise Invalid(f"{name!r} cannot name a kind or an index", hint="Use a-z, 0-9 and _.")


# --- tables ------------------------------------------------------------------------------------------------------


def system_ddl(names: Tables, d: Dialect) -> list[str]:
    """The tables that every store has."""
    return [
        f"CREATE TABLE IF NOT EXISTS {names.of('meta')} (name {d.text} PRIMARY KEY, value {d.text} NOT NULL)",
        f"CREATE TABLE IF NOT EXISTS {names.of('heads')} (partition {d.text} NOT NULL, kind {d.text} NOT NULL, "
        f"seq {d.integer} NOT NULL, floor {d.integer} NOT NULL DEFAULT 0, sealed {d.integer} NOT NULL DEFAULT 0, "
        f"PRIMARY KEY (partition, kind)){d.table_options}",
        f"CREATE TABLE IF NOT EXISTS {names.of('commits')} (token {d.blob} NOT NULL, partition {d.text} NOT NULL, "
        f"receipt {d.blob} NOT NULL, digest {d.blob}, at {d.integer} NOT NULL, "
        f"PRIMARY KEY (token, partition)){d.table_options}",
        f"CREATE INDEX IF NOT EXISTS {names.index_of('commits', 'at')} ON {names.of('commits')} (at)",
    ]


def kind_ddl(names: Tables, d: Dialect, kind: KindSpec) -> list[str]:
    """The table of a kind with its indexes."""
    table = names.of(kind.name)
    place = f"seq {d.integer}" if kind.log else f"sort {d.text}"
    memory = f", token {d.blob}, digest {d.blob}" if kind.log else ""
    indexed = "".join(f", ix_{index.name} {d.text}" for index in kind.indexes)
    made = [
        f"CREATE TABLE IF NOT EXISTS {table} (partition {d.text} NOT NULL, {place} NOT NULL, rev {d.text} NOT NULL, "
        f"doc {d.blob}, facets {d.json}, odd {d.blob}, expires {d.integer}{memory}{indexed}, "
        f"PRIMARY KEY (partition, {sort_column(kind)})){d.table_options}"
    ]
    if kind.log:
        unique = f"CREATE UNIQUE INDEX IF NOT EXISTS {names.index_of(kind.name, 'token')} ON {table} (token, partition)"
        made.append(f"{unique} WHERE token IS NOT NULL")
    made += [index_ddl(names, kind, index) for index in kind.indexes]
    expiry = f"CREATE INDEX IF NOT EXISTS {names.index_of(kind.name, 'expires')} ON {table} (expires)"
    made.append(f"{expiry} WHERE expires IS NOT NULL")
    return made


def index_ddl(names: Tables, kind: KindSpec, index: IndexSpec) -> str:
    """One B-tree for one index, without the rows that are not in it."""
    column = f"ix_{index.name}"
    return (
        f"CREATE INDEX IF NOT EXISTS {names.index_of(kind.name, column)} ON {names.of(kind.name)} "
        f"({column}, partition, {sort_column(kind)}) WHERE {column} IS NOT NULL"
    )


def view_select(names: Tables, d: Dialect, kind: KindSpec) -> str:
    """The query of a kind's view for people and BI tools: real, typed columns and the document as JSON."""
    table = names.of(kind.name)
    columns = "".join(f', {d.json_value("t", column)} AS "{column.name}"' for column in kind.columns)
    whole = d.json_value("t", Column("document", (), "json"))
    return (
        f"SELECT t.partition, t.{sort_column(kind)}, t.rev{columns}, {whole} AS document FROM {table} t "
        f"WHERE t.doc IS NOT NULL{_hidden(names, kind, 't')}"
    )


def sort_column(kind: KindSpec) -> str:
    """The column that orders a partition."""
    return "seq" if kind.log else "sort"


# --- reading -----------------------------------------------------------------------------------------------------


class Reading(NamedTuple):
    """A scan as SQL. `edge` finds where the window ended when fewer rows came back than asked for."""

    rows: Query
    edge: Query | None


def columns(kind: KindSpec, *, facets: bool = False, index: bool = False) -> str:
    """What is read of a row: facets and index values only when they are asked for."""
    asked = ["partition", sort_column(kind), "rev", "doc", "expires"]
    if facets:
        asked += ["facets", "odd"]
    if index:
        asked += [f"ix_{spec.name}" for spec in kind.indexes]
    return ", ".join(asked)


def scan_query(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Reading:
    """A page of a range: at most `limit` rows that pass the pushed part of `where`, out of `budget` looked at."""
    where, args = _range(names, d, kind, scan, now)
    order = _order(kind, scan)
    extra = f", ix_{scan.index}" if scan.index else ""
    wanted = columns(kind, facets=scan.where is not None) + extra
    base = f"FROM {names.of(kind.name)} t WHERE {where} ORDER BY {order}"
    ranged = list(args)
    pushed = filter_sql(d, scan.where, args)
    if pushed is None:
        args.append(min(scan.limit, scan.budget))
        return Reading((f"SELECT {wanted} {base} LIMIT {d.mark(len(args))}", args), None)
    window = f"SELECT {wanted} {base} LIMIT {scan.budget:d}"
    args.append(scan.limit)
    rows = f"SELECT * FROM ({window}) t WHERE {pushed} ORDER BY {order} LIMIT {d.mark(len(args))}"
    place = f"partition, {sort_column(kind)}{extra}"
    return Reading((rows, args), (f"SELECT {place} {base} LIMIT 1 OFFSET {scan.budget - 1:d}", ranged))


def dump_query(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Query:
    """A page of all rows of a kind, whole, in order of the primary key."""
    where, args = _range(names, d, kind, scan, now)
    args.append(scan.limit)
    wanted = columns(kind, facets=True, index=True)
    source = f"FROM {names.of(kind.name)} t WHERE {where} ORDER BY {_order(kind, scan)}"
    return f"SELECT {wanted} {source} LIMIT {d.mark(len(args))}", args


def filter_sql(d: Dialect, where: Predicate | None, args: Args) -> str | None:
    """The part of a filter that the dialect evaluates, its values appended to `args`; None if there is none."""

    def bind(value: Any) -> str:
        args.append(value)
        return d.mark(len(args))

    def compile_(node: Predicate) -> str:
        if isinstance(node, Compare):
            text = d.filter(node, bind)
            assert text is not None, "split() pushes only what the dialect compiles"
            return text
        if isinstance(node, Not):
            return f"NOT COALESCE({compile_(node.part)}, FALSE)"
        every = isinstance(node, All)
        if not node.parts:
            return "TRUE" if every else "FALSE"
        return f"({(' AND ' if every else ' OR ').join(map(compile_, node.parts))})"

    pushed, _ = split(where, lambda compare: d.filter(compare, lambda _: "?") is not None)
    return None if pushed is None else compile_(pushed)


def live(names: Tables, kind: KindSpec, now: str, alias: str = "t") -> str:
    """The condition under which a row exists."""
    expiry = f"({alias}.expires IS NULL OR {alias}.expires > {now})"
    return f"{expiry} AND {alias}.doc IS NOT NULL{_hidden(names, kind, alias)}" if kind.log else expiry


def _hidden(names: Tables, kind: KindSpec, alias: str) -> str:
    if not kind.log:
        return ""
    return (
        f" AND NOT EXISTS (SELECT 1 FROM {names.of('heads')} h WHERE h.partition = {alias}.partition "
        f"AND h.kind = '{kind.name}' AND h.floor >= {alias}.seq)"
    )


def _range(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Query:
    args: Args = [now]
    terms: list[str] = []

    def bound(condition: str, *values: Any) -> None:
        marks = [d.mark(len(args) + number + 1) for number in range(len(values))]
        args.extend(values)
        terms.append(condition.format(*marks))

    seq = kind.log
    if scan.index is not None:
        base = pack(scan.prefix)
        column = f"ix_{scan.index}"
        bound(f"{column} >= {{}}", base if scan.lo is None else pack((*scan.prefix, scan.lo)))
        bound(f"{column} < {{}}", base + ABOVE if scan.hi is None else pack((*scan.prefix, scan.hi)))
    elif scan.prefix:
        bound("partition = {}", escape(str(scan.prefix[0])))
        for sign, limit in ((">=", scan.lo), ("<", scan.hi)):
            if limit is not None:
                bound(f"{sort_column(kind)} {sign} {{}}", seq_bound(str(limit)) if seq else escape(str(limit)))
    if seq and scan.prefix and scan.index is None:
        # The floor as a bound of the range: a trimmed log is as quick to read as a short one.
        floor = f"SELECT floor FROM {names.of('heads')} WHERE partition = {d.mark(2)} AND kind = '{kind.name}'"
        terms.append(f"seq > COALESCE(({floor}), 0)")
        terms.append(f"(expires IS NULL OR expires > {d.mark(1)}) AND doc IS NOT NULL")
    else:
        terms.append(live(names, kind, d.mark(1)))
    after = position(scan)
    if after is not None:
        sign = "<" if scan.reverse else ">"
        place: Args = [escape(after[-2]), seq_of(after[-1]) if seq else escape(after[-1])]
        if scan.index is not None:
            bound(f"(ix_{scan.index}, partition, {sort_column(kind)}) {sign} ({{}}, {{}}, {{}})", after[0], *place)
        elif scan.prefix:
            bound(f"{sort_column(kind)} {sign} {{}}", place[1])
        else:
            bound(f"(partition, {sort_column(kind)}) {sign} ({{}}, {{}})", *place)
    return " AND ".join(terms), args


def _order(kind: KindSpec, scan: Scan) -> str:
    names = ["partition", sort_column(kind)]
    if scan.index is not None:
        names.insert(0, f"ix_{scan.index}")
    elif scan.prefix:
        names = names[1:]
    return ", ".join(f"{name} DESC" if scan.reverse else name for name in names)


# --- rows --------------------------------------------------------------------------------------------------------


def row_of(kind: KindSpec, got: Sequence[Any]) -> Row:
    """A row from `columns(kind)`."""
    sort = seq_sort(got[1]) if kind.log else unescape(got[1])
    return Row(Key(kind.name, unescape(got[0]), sort), got[2], got[3], {}, {}, got[4])


def row_with_facets(kind: KindSpec, got: Sequence[Any]) -> Row:
    """A row from `columns(kind, facets=True)`."""
    return msgspec.structs.replace(row_of(kind, got), facets=facets_of(got[5], got[6]))


def whole_row(kind: KindSpec, got: Sequence[Any]) -> Row:
    """A row from `columns(kind, facets=True, index=True)`."""
    packed = zip(kind.indexes, got[7:], strict=True)
    index = {spec.name: unpack(values) for spec, values in packed if values is not None}
    return msgspec.structs.replace(row_with_facets(kind, got), index=index)


_facets_decoder = msgspec.json.Decoder(dict[str, bool | int | float | str | tuple[bool | int | float | str, ...]])


def facets_of(json: str | bytes | None, odd: bytes | None) -> Facets:
    """Facets as they were given."""
    if odd is not None:
        return decode(odd, dict[str, bool | int | float | str | tuple[bool | int | float | str, ...]])
    return _facets_decoder.decode(json) if json is not None else {}


def facets_json(facets: Facets, representable: Callable[[Any], bool]) -> tuple[str | None, bytes | None]:
    """The columns `facets` and `odd`. What is not representable is left out of the one and kept in the other."""
    if not facets:
        return None, None
    if all(representable(path) and _all(representable, value) for path, value in facets.items()):
        return msgspec.json.encode(facets).decode(), None
    fine = {path: value for path, value in facets.items() if representable(path) and _all(representable, value)}
    return msgspec.json.encode({**fine, "": True}).decode(), encode(dict(facets))


def _all(representable: Callable[[Any], bool], value: Any) -> bool:
    return all(map(representable, cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)))


def safe_text(value: str) -> bool:
    """Whether a text has no NUL and no lone surrogate: what JSON columns of databases cannot hold."""
    if "\x00" in value:
        return False
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
