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
JSON cannot represent, exactly; every filter lets such a row through for core to judge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
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
    facet_index: bool = False
    """Facets of listed kinds have an index, which finds rows by "eq" and "in"."""


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
        if kind.name.endswith("_view"):
            raise Invalid(f"{kind.name!r} cannot name a kind", hint="Names that end with _view are those of views.")
        for column in kind.columns:
            if '"' in column.name or "\x00" in column.name:
                raise Invalid(f"{column.name!r} cannot name a column of kind {kind.name!r}")
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
    if _found_by_facets(d, kind, scan):
        args.append(scan.limit)
        found = f"FROM {names.of(kind.name)} t WHERE {where} AND {pushed} ORDER BY {order}"
        return Reading((f"SELECT {wanted} {found} LIMIT {d.mark(len(args))}", args), None)
    window = f"SELECT {wanted} {base} LIMIT {scan.budget:d}"
    args.append(scan.limit)
    rows = f"SELECT * FROM ({window}) t WHERE {pushed} ORDER BY {order} LIMIT {d.mark(len(args))}"
    place = f"partition, {sort_column(kind)}{extra}"
    return Reading((rows, args), (f"SELECT {place} {base} LIMIT 1 OFFSET {scan.budget - 1:d}", ranged))


def _found_by_facets(d: Dialect, kind: KindSpec, scan: Scan) -> bool:
    if not (d.facet_index and kind.listed) or scan.index is not None or scan.prefix:
        return False
    parts = scan.where.parts if isinstance(scan.where, All) else (scan.where,)
    return any(
        isinstance(part, Compare) and part.op in ("eq", "in") and d.filter(part, lambda _: "?") is not None
        for part in parts
    )


def looked_query(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Query:
    """All rows that a page looks at, doc NULL where the pushed part of `where` refuses: for engines that step by row.

    The columns are those of `columns(kind, facets=scan.where is not None)`, then that of the index.
    """
    where, args = _range(names, d, kind, scan, now)
    pushed = filter_sql(d, scan.where, args)
    wanted = columns(kind, facets=scan.where is not None) + (f", ix_{scan.index}" if scan.index else "")
    if pushed is not None:
        wanted = wanted.replace(" doc,", f" CASE WHEN {pushed} THEN doc END,", 1)
    args.append(scan.budget if scan.where is not None else min(scan.limit, scan.budget))
    source = f"FROM {names.of(kind.name)} t WHERE {where} ORDER BY {_order(kind, scan)}"
    return f"SELECT {wanted} {source} LIMIT {d.mark(len(args))}", args


def dump_query(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Query:
    """A page of all rows of a kind, whole, in order of the primary key."""
    where, args = _range(names, d, kind, scan, now)
    args.append(scan.limit)
    wanted = columns(kind, facets=True, index=True)
    source = f"FROM {names.of(kind.name)} t WHERE {where} ORDER BY {_order(kind, scan)}"
    return f"SELECT {wanted} {source} LIMIT {d.mark(len(args))}", args


def heads_query(d: Dialect, heads: str, kind: KindSpec, scan: Scan) -> Query:
    """A page of the heads of a log in order of partition. `heads` selects them all, of every kind, as h."""
    terms, after = _Terms(d), position(scan)
    _partitions(scan, "h.partition", [] if after is None else [escape(after[0])], terms)
    terms.add("h.kind =", kind.name)
    text = f"{heads} WHERE {' AND '.join(terms.all)} ORDER BY h.partition LIMIT {terms.mark(scan.limit)}"
    return text, terms.args


def filter_sql(d: Dialect, where: Predicate | None, args: Args) -> str | None:
    """The part of a filter that the dialect evaluates, its values appended to `args`; None if there is none."""
    if where is None:
        return None

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
    # Odd rows pass as a whole: under NOT, passing one comparison would refuse the row.
    return None if pushed is None else f"(odd IS NOT NULL OR {compile_(pushed)})"


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


class _Terms:
    """Conditions of a WHERE clause and the values bound in them."""

    def __init__(self, d: Dialect) -> None:
        self._d = d
        self.args: Args = []
        self.all: list[str] = []

    def mark(self, value: Any) -> str:
        """Bind a value; gives its marker."""
        self.args.append(value)
        return self._d.mark(len(self.args))

    def add(self, condition: str, *values: Any) -> None:
        """Add a condition, and behind it a value, or several in brackets."""
        marks = ", ".join([self.mark(value) for value in values])
        self.all.append(f"{condition} {marks}" if len(values) == 1 else f"{condition} ({marks})")


def _range(names: Tables, d: Dialect, kind: KindSpec, scan: Scan, now: int) -> Query:
    """The condition of a range. A cursor takes the place of the bound it stands behind.

    Databases that seek by one bound of a side (SQLite) would otherwise read each page from the start of the range.
    """
    terms, place = _Terms(d), sort_column(kind)
    moment = terms.mark(now)
    after = position(scan)
    if scan.prefix and scan.index is None:
        _partition_range(names, kind, scan, after, terms, moment)
        return " AND ".join(terms.all), terms.args
    last: Args = [] if after is None else [escape(after[-2]), seq_of(after[-1]) if kind.log else escape(after[-1])]
    if scan.index is not None:
        base, column = pack(scan.prefix), f"ix_{scan.index}"
        lo = base if scan.lo is None else pack((*scan.prefix, scan.lo))
        hi = base + ABOVE if scan.hi is None else pack((*scan.prefix, scan.hi))
        if after is None or scan.reverse:
            terms.add(f"{column} >=", lo)
        if after is None or not scan.reverse:
            terms.add(f"{column} <", hi)
        if after is not None:
            _within(lo <= after[0] < hi)
            sign = "<" if scan.reverse else ">"
            terms.add(f"({column}, partition, {place}) {sign}", after[0], *last)
    else:
        _partitions(scan, f"partition, {place}", last, terms)
    terms.all.append(live(names, kind, moment))
    return " AND ".join(terms.all), terms.args


def _partitions(scan: Scan, order: str, last: Args, terms: _Terms) -> None:
    """The condition that `lo` and `hi` make on partitions. `last` is the cursor's place in `order`, or empty."""
    lo = None if scan.lo is None else escape(str(scan.lo))
    hi = None if scan.hi is None else escape(str(scan.hi))
    partition, *_ = order.split(",")
    if lo is not None and (not last or scan.reverse):
        terms.add(f"{partition} >=", lo)
    if hi is not None and (not last or not scan.reverse):
        terms.add(f"{partition} <", hi)
    if last:
        _within((lo is None or lo <= last[0]) and (hi is None or last[0] < hi))
        terms.add(f"({order}) {'<' if scan.reverse else '>'}", *last)


def _partition_range(
    names: Tables, kind: KindSpec, scan: Scan, after: tuple[str, ...] | None, terms: _Terms, now: str
) -> None:
    encode_ = seq_bound if kind.log else escape
    place = sort_column(kind)
    lo = None if scan.lo is None else encode_(str(scan.lo))
    hi = None if scan.hi is None else encode_(str(scan.hi))
    last: Any = None if after is None else seq_of(after[-1]) if kind.log else escape(after[-1])
    if last is not None:
        _within((lo is None or lo <= last) and (hi is None or last < hi))
    partition = terms.mark(escape(str(scan.prefix[0])))
    terms.all.append(f"partition = {partition}")
    if scan.reverse and last is not None:
        hi, last = last, None
    if hi is not None:
        terms.add(f"{place} <", hi)
    if kind.log:
        # The floor is in the one lower bound: a trimmed log is as quick to read as a short one.
        above = terms.mark(last if last is not None else 0 if lo is None else cast(int, lo) - 1)
        floor = f"SELECT CASE WHEN floor > {above} THEN floor ELSE {above} END FROM {names.of('heads')}"
        terms.all.append(f"seq > COALESCE(({floor} WHERE partition = {partition} AND kind = '{kind.name}'), {above})")
        terms.all.append(f"(expires IS NULL OR expires > {now}) AND doc IS NOT NULL")
        return
    if last is not None:
        terms.add("sort >", last)
    elif lo is not None:
        terms.add("sort >=", lo)
    terms.all.append(live(names, kind, now))


def _within(holds: bool) -> None:
    """Refuse a cursor that points out of its scan: only a forged one does, and it must not read a neighbour's rows."""
    if not holds:
        raise Invalid("the cursor belongs to another scan", operation="scan", hint="Pass a cursor as it was given.")


def _order(kind: KindSpec, scan: Scan) -> str:
    names = ["partition", sort_column(kind)]
    if scan.index is not None:
        names.insert(0, f"ix_{scan.index}")
    elif scan.prefix:
        names = names[1:]
    return ", ".join([f"{name} DESC" for name in names] if scan.reverse else names)


# --- rows --------------------------------------------------------------------------------------------------------


key_of = cast("Callable[[tuple[str, str, str]], Key]", partial(cast(Any, tuple).__new__, Key))
"""A key from its parts, in half the time: rows are made by the thousand."""


def row_of(kind: KindSpec, got: Sequence[Any]) -> Row:
    """A row from `columns(kind)`."""
    sort = seq_sort(got[1]) if kind.log else unescape(got[1])
    return Row(key_of((kind.name, unescape(got[0]), sort)), got[2], got[3], {}, {}, got[4])


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
    """The columns `facets` and `odd`. What is not representable is left out of the one and kept in the other.

    Printable text is representable everywhere.
    """
    if not facets:
        return None, None
    if all(type(value) is str and path.isprintable() and value.isprintable() for path, value in facets.items()):
        return msgspec.json.encode(facets).decode(), None
    if all(representable(path) and _all(representable, value) for path, value in facets.items()):
        return msgspec.json.encode(facets).decode(), None
    fine = {path: value for path, value in facets.items() if representable(path) and _all(representable, value)}
    return msgspec.json.encode(fine).decode(), encode(dict(facets))


def _all(representable: Callable[[Any], bool], value: Any) -> bool:
    return all(map(representable, cast("tuple[Any, ...]", value) if isinstance(value, tuple) else (value,)))


def safe_text(value: str) -> bool:
    """Whether a text has no NUL and no lone surrogate: what JSON columns of databases cannot hold."""
    if "\x00" in value:
        return False
    return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
