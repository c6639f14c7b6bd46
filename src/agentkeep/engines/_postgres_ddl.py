"""The objects a PostgreSQL store needs: what each is called, how to see that it is there, how to make it."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from ..errors import Invalid
from ..waist import Column, KindSpec
from ._postgres_sql import POSTGRES
from ._sql import FORMAT, Tables, index_ddl, kind_ddl, live, sort_column, system_ddl

MAX_NAME = 63
"""Bytes of an identifier; PostgreSQL cuts longer ones without an error."""


class Part(NamedTuple):
    """One object. `sql` makes it, nothing in it: it can only be made with its table.

    `online`: how to make it while a big table is written to, outside of a transaction.
    """

    what: str
    name: str
    detail: str = ""
    sql: tuple[str, ...] = ()
    online: str = ""


EXISTING = """
SELECT CASE p.what
    WHEN 'schema' THEN to_regnamespace(p.name) IS NOT NULL
    WHEN 'function' THEN to_regprocedure(p.name) IS NOT NULL
    WHEN 'table' THEN COALESCE(c.relkind IN ('r', 'p'), FALSE)
    WHEN 'column' THEN EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = p.detail
                               AND NOT a.attisdropped)
    WHEN 'view' THEN COALESCE(c.relkind = 'v' AND obj_description(c.oid, 'pg_class') = p.detail, FALSE)
    WHEN 'index' THEN EXISTS (SELECT 1 FROM pg_index i WHERE i.indexrelid = c.oid AND i.indisvalid) END,
    p.what = 'index' AND c.oid IS NOT NULL,
    COALESCE(pg_table_size(to_regclass(CASE p.what WHEN 'index' THEN p.detail END)), 0) > 8000000
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY p(what, name, detail, n)
LEFT JOIN pg_class c ON c.oid = CASE WHEN p.what IN ('table', 'column', 'view', 'index') THEN to_regclass(p.name) END
ORDER BY p.n
"""
"""Of each part whether it is there; of an index whether its name is there, if only half built, and its table big.

`to_regclass` knows what was committed while the statement runs, its snapshot does not: all is looked up in `pg_class`,
or a table that another process just made would seem to have no columns, and its index to be half built.
"""


def parts(names: Tables, kinds: Iterable[KindSpec]) -> list[Part]:
    """Everything the kinds need, in the order of making. Raises Invalid for names that do not fit."""
    made: list[Part] = []
    if names.schema:
        made.append(Part("schema", f'"{names.schema}"', sql=(f'CREATE SCHEMA IF NOT EXISTS "{names.schema}"',)))
    meta, heads, commits, at = system_ddl(names, POSTGRES)
    version = f"INSERT INTO {names.of('meta')} VALUES ('format', '{FORMAT}') ON CONFLICT DO NOTHING"
    # Heads are updated in place, on the same page and without touching an index, as long as pages have room.
    roomy = f"ALTER TABLE {names.of('heads')} SET (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05)"
    made += [
        Part("function", f"{names.of('document')}(bytea)", sql=(_function(names),)),
        Part("table", names.of("meta"), sql=(meta, version)),
        Part("table", names.of("heads"), sql=(heads, roomy)),
        Part("table", names.of("commits"), sql=(commits,)),
        _index(names, "commits", "at", at),
    ]
    for kind in kinds:
        its = _kind(names, kind)
        for part in its:
            _fits(names, kind, part)
        made += its
    return made


def _fits(names: Tables, kind: KindSpec, part: Part) -> None:
    """Raise Invalid for a name that PostgreSQL would cut: two that begin alike would be one."""
    name = part.name.rsplit('"', 2)[1]
    if len(name) > MAX_NAME:
        index = name.partition(".ix_")[2]
        whose = f"the index {index!r} of the kind {kind.name!r}" if index else f"the kind {kind.name!r}"
        fields = [*(["the index"] if index else []), "the kind", *(["the prefix"] if names.prefix else [])]
        raise Invalid(
            f"{whose} needs the name {name}, which has {len(name)} bytes; PostgreSQL takes {MAX_NAME}",
            operation="open",
            hint=f"Shorten {' or '.join(fields)} by {len(name) - MAX_NAME}.",
        )


def _kind(names: Tables, kind: KindSpec) -> list[Part]:
    name, table = kind.name, names.of(kind.name)
    create, *indexes = kind_ddl(names, POSTGRES, kind)
    sql = [create, _compression(table)]
    if not kind.log:
        sql.append(f"ALTER TABLE {table} SET (fillfactor = 85)")
    made = [Part("table", table, sql=tuple(sql)), Part("column", table, sort_column(kind))]
    for index in kind.indexes:
        column = f"ix_{index.name}"
        add = f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS {column} {POSTGRES.text}"
        made += [Part("column", table, column, (add,)), _index(names, name, column, index_ddl(names, kind, index))]
    if kind.log:
        made.append(_index(names, name, "token", indexes[0]))
    made.append(_index(names, name, "expires", indexes[-1]))
    if kind.listed:
        gin = f"CREATE INDEX IF NOT EXISTS {names.index_of(name, 'facets')} ON {table}"
        gin += " USING gin (facets jsonb_path_ops) WITH (gin_pending_list_limit = 512)"
        odd = f"CREATE INDEX IF NOT EXISTS {names.index_of(name, 'odd')} ON {table}"
        odd += f" (partition, {sort_column(kind)}) WHERE odd IS NOT NULL"
        made += [_index(names, name, "facets", gin), _index(names, name, "odd", odd)]
    made.append(_view(names, kind))
    return made


def _index(names: Tables, kind: str, name: str, sql: str) -> Part:
    index = names.index_of(kind, name)
    qualified = f'"{names.schema}".{index}' if names.schema else index
    online = sql.replace("INDEX IF NOT EXISTS", "INDEX CONCURRENTLY IF NOT EXISTS", 1)
    return Part("index", qualified, names.of(kind), (sql,), online)


def _function(names: Tables) -> str:
    """The document as JSONB, NULL where JSONB cannot hold it: NUL, lone surrogates, a body in the blob store."""
    return (
        f"CREATE OR REPLACE FUNCTION {names.of('document')}(doc bytea) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE STRICT "
        "AS $$ BEGIN IF get_byte(doc, 0) > 2 THEN RETURN NULL; END IF; "
        "RETURN convert_from(substr(doc, 6), 'UTF8')::jsonb; "
        "EXCEPTION WHEN OTHERS THEN RETURN NULL; END $$"
    )


def _compression(table: str) -> str:
    """Bodies over 2 kB are compressed by LZ4 where the server has it: several times faster than its default."""
    alter = f"ALTER TABLE {table} ALTER COLUMN doc SET COMPRESSION lz4"
    return f"DO $$ BEGIN EXECUTE '{alter}'; EXCEPTION WHEN feature_not_supported OR syntax_error THEN NULL; END $$"


_BUILT_IN = ("partition", "sort", "seq", "rev", "document")


def _view(names: Tables, kind: KindSpec) -> Part:
    view, place = names.of(f"{kind.name}_view"), sort_column(kind)
    columns = [_named(kind, column) for column in kind.columns]
    now = "(extract(epoch FROM now()) * 1000000)::bigint"
    select = (
        f"SELECT t.partition, t.{place}, t.rev{''.join(columns)}, d.whole AS document FROM {names.of(kind.name)} t "
        f"CROSS JOIN LATERAL (SELECT {names.of('document')}(t.doc) AS whole OFFSET 0) d "
        f"WHERE {live(names, kind, now)}"
    )
    mark = blake2b(select.encode(), digest_size=12).hexdigest()
    create = f"CREATE VIEW {view} AS {select}"
    return Part("view", view, mark, (f"DROP VIEW IF EXISTS {view}", create, f"COMMENT ON VIEW {view} IS '{mark}'"))


def _named(kind: KindSpec, column: Column) -> str:
    if column.name in _BUILT_IN:
        raise Invalid(
            f"{column.name!r} cannot name a column of the view of the kind {kind.name!r}",
            operation="open",
            hint=f"The view has its own {', '.join(_BUILT_IN)}: choose another name.",
        )
    size = len(column.name.encode())
    if size > MAX_NAME:
        raise Invalid(
            f"the column {column.name!r} of the kind {kind.name!r} has {size} bytes; PostgreSQL takes {MAX_NAME}",
            operation="open",
            hint=f"Shorten it by {size - MAX_NAME}.",
        )
    return f', {POSTGRES.json_value("t", column)} AS "{column.name}"'
