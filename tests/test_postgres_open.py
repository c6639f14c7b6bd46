"""PostgreSQL: tables made and verified, plans, views, and the table of errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from agentkeep.codec import encode
from agentkeep.engines._postgres_ddl import EXISTING, parts
from agentkeep.engines._postgres_errors import DRIVER_ERRORS, translate
from agentkeep.engines._postgres_pool import fetch
from agentkeep.engines._sql import tables
from agentkeep.engines.postgres import Options, Postgres, print_ddl
from agentkeep.errors import Contention, Corrupt, Denied, Invalid, SchemaMismatch, StoreError, TooLarge, Unavailable
from agentkeep.ids import Ids
from agentkeep.keys import pack, seq_sort
from agentkeep.predicates import parse
from agentkeep.testing.schema import NOTE, SCHEMA
from agentkeep.testing.verbs import batch, commit, doc, rows
from agentkeep.urls import engine as engine_of
from agentkeep.waist import Append, Column, IndexSpec, KindSpec, Put, Scan, Schema, Trim
from engines import postgres_url
from postgres import Place, a_place, a_role, url_of, watch


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    """A PostgreSQL schema of this test's own."""
    async with a_place() as made:
        yield made


# --- plans -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def full() -> AsyncIterator[Place]:
    """A database with 20,000 notes in 200 partitions, and a log of 20,000 rows, half of it trimmed."""
    async with a_place() as made:
        engine = await made.open()
        facets, body = '{"type": "rare", "tags": ["a", "b"]}', doc("x" * 500)
        await made.fetch(
            "INSERT INTO {s}.note (partition, sort, rev, doc, facets, ix_by_pair) "
            "SELECT 'p' || n % 200, 's' || n, 'r', $1, CASE WHEN n % 1000 = 0 THEN $2 ELSE '{\"type\": \"usual\"}' END"
            "::jsonb, $3 || lpad(to_hex(n), 14, '0') || chr(1) FROM generate_series(1, 20000) n",
            body,
            facets,
            f"{pack(('q',))}i",
        )
        await made.fetch(
            "INSERT INTO {s}.event (partition, seq, rev, doc, token) "
            "SELECT 'p', n, 'r', $1, decode(lpad(to_hex(n), 32, '0'), 'hex') FROM generate_series(1, 20000) n",
            doc(1),
        )
        await made.fetch(
            "INSERT INTO {s}.heads SELECT CASE n WHEN 1 THEN 'p' ELSE 'q' || n END, 'event', 20000, 10000, 0 "
            "FROM generate_series(1, 5000) n"
        )
        await made.admin.execute(f"ANALYZE {made.schema}.note, {made.schema}.event, {made.schema}.heads")
        assert engine._home is not None
        yield made


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a plan."""
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


async def plan_of(place: Place, scan: Scan, generic: bool) -> list[dict[str, Any]]:
    """What PostgreSQL did for a page."""
    engine = place._engines[0]
    assert engine._home is not None
    kind = SCHEMA.kind(scan.kind)
    assert kind is not None
    query, args = engine._home._statements.page(kind, scan, 0)
    async with place.admin.transaction():
        await place.admin.execute(f"SET LOCAL plan_cache_mode = force_{'generic' if generic else 'custom'}_plan")
        prepared = await place.admin.prepare(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
        return list(nodes(json.loads(await prepared.fetchval(*args))[0]["Plan"]))


def looked_at(plan: list[dict[str, Any]]) -> int:
    """How many rows were read, at most, from a table."""
    return max(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in plan
        if "Scan" in node["Node Type"] and node["Actual Loops"]
    )


SCANS = {
    "the end of a log": Scan("event", prefix=("p",), reverse=True, limit=50),
    "a trimmed log": Scan("event", prefix=("p",), limit=50),
    "the middle of a log": Scan("event", prefix=("p",), lo=seq_sort(15_000), limit=50),
    "a partition": Scan("note", prefix=("p7",), limit=50),
    "an index": Scan("note", index="by_pair", prefix=("q",), limit=50),
    "the end of an index": Scan("note", index="by_pair", prefix=("q",), reverse=True, limit=50),
    "a whole kind": Scan("note", limit=50),
    "a range of a whole kind": Scan("note", lo="p3", hi="p4", limit=50),
    "a filtered log": Scan("event", prefix=("p",), where=parse({"type": "x"}), budget=500, limit=50),
    "a filtered index": Scan(
        "note", index="by_pair", prefix=("q",), where=parse({"type": {"ne": "usual"}}), budget=500
    ),
}


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("scan", SCANS.values(), ids=SCANS.keys())
async def test_a_page_reads_no_more_than_its_rows(full: Place, scan: Scan, generic: bool) -> None:
    plan = await plan_of(full, scan, generic)
    assert not [node for node in plan if node["Node Type"] in ("Seq Scan", "Sort")]
    assert looked_at(plan) <= (scan.budget if scan.where else scan.limit)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize(
    "where", [{"type": "rare"}, {"tags": "a"}, {"tags": ["x", "b"]}, {"type": "rare", "tags": {"ne": "a"}}], ids=str
)
async def test_facets_of_a_listed_kind_are_found_by_index(full: Place, where: Any, generic: bool) -> None:
    plan = await plan_of(full, Scan("note", where=parse(where), limit=100, budget=100), generic)
    assert not [node for node in plan if node["Node Type"] == "Seq Scan"]
    assert looked_at(plan) <= 20
    assert "note.facets" in {node.get("Index Name") for node in plan}


async def test_rows_with_odd_facets_are_found_too(full: Place) -> None:
    engine = full._engines[0]
    try:
        await commit(engine, "odd", Put("note", "n", doc(1), facets={"type": "\x00"}))
        found = await rows(engine, "note", where=parse({"type": "rare"}), limit=100)
        assert ("odd", "n") in {(row.key.partition, row.key.sort) for row in found}
    finally:
        await full.fetch("DELETE FROM {s}.note WHERE partition = 'odd'")


# --- first start, verification, change ---------------------------------------------------------------------------

START = """
import asyncio, sys
from agentkeep.testing.schema import SCHEMA
from agentkeep.testing.verbs import commit, doc
from agentkeep.urls import engine
from agentkeep.waist import Append
async def main():
    made = engine(sys.argv[1])
    await made.open(SCHEMA)
    await commit(made, "p", Append("event", doc(1)))
    await made.close()
asyncio.run(main())
"""


async def test_many_processes_may_start_at_once(place: Place) -> None:
    url = f"{postgres_url()}?schema={place.schema}"
    started = [await asyncio.create_subprocess_exec(sys.executable, "-c", START, url) for _ in range(6)]
    assert [await process.wait() for process in started] == [0] * 6
    assert await place.value("SELECT seq FROM {s}.heads") == 6


async def test_many_engines_may_start_at_once(place: Place) -> None:
    engines = [place.engine() for _ in range(8)]
    await asyncio.gather(*(engine.open(SCHEMA) for engine in engines))
    await asyncio.gather(*(commit(engine, "p", Append("event", doc(1))) for engine in engines))


async def test_versions_that_differ_may_start_at_once(place: Place) -> None:
    """Each makes the view its own; which of them wins is no matter, and nobody fails."""
    kinds = [KindSpec("note", columns=(Column(name, (name,), "str"),)) for name in ("one", "two", "three")]
    engines = [place.engine() for _ in range(12)]
    opened = (engine.open(Schema((kinds[n % 3],))) for n, engine in enumerate(engines))
    await asyncio.gather(*opened)
    await asyncio.gather(*(commit(engine, "p", Put("note", f"{n}", doc(1))) for n, engine in enumerate(engines)))
    assert await place.value("SELECT count(*) FROM {s}.note_view") == 12


async def test_stores_that_share_a_new_schema_may_start_at_once(place: Place) -> None:
    engines = [place.engine(prefix=f"s{n % 4}_") for n in range(8)]
    await asyncio.gather(*(engine.open(SCHEMA) for engine in engines))
    await asyncio.gather(*(commit(engine, "p", Append("event", doc(1))) for engine in engines))
    assert [await place.value(f"SELECT seq FROM {{s}}.s{n}_heads") for n in range(4)] == [2] * 4


async def test_what_was_just_made_is_seen_as_a_whole(place: Place) -> None:
    """A table without its columns would be refused, an index that is there in name would be dropped and built anew."""
    made = [part for part in parts(tables(place.schema, ""), SCHEMA.kinds) if part.what not in ("schema", "function")]
    columns = [list(column) for column in zip(*((part.what, part.name, part.detail) for part in made), strict=True)]
    async with place.admin.transaction(isolation="repeatable_read"):
        await place.admin.fetch("SELECT 1")
        await place.open()
        before = await place.admin.fetch(EXISTING, *columns)
    after = await place.admin.fetch(EXISTING, *columns)
    assert {(there, broken) for there, broken, _ in before} == {(False, False)}
    assert {there for there, _, _ in after} == {True}


async def test_verify_says_what_is_missing(place: Place) -> None:
    with pytest.raises(SchemaMismatch, match=r"the database lacks schema .* and \d+ more\. .*print_ddl"):
        await place.open(ddl="verify")
    assert await place.value("SELECT to_regnamespace('{s}') IS NULL")
    await place.open(Schema((KindSpec("state"),)))
    more = Schema((KindSpec("state", indexes=(IndexSpec("by_user", ("user",), ("str",)),)),))
    with pytest.raises(SchemaMismatch, match=r'lacks column "\w+"."state" ix_by_user, index'):
        await place.open(more, ddl="verify")


async def test_what_is_printed_is_all_that_is_needed(place: Place) -> None:
    await place.admin.execute(print_ddl(SCHEMA, Options(schema=place.schema)))
    async with a_role(place) as (role, base):
        await place.admin.execute(
            f"GRANT USAGE ON SCHEMA {place.schema} TO {role};"
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place.schema} TO {role}"
        )
        for ddl in ("verify", "create"):
            engine = await place.open(base=base, ddl=ddl)
            await commit(engine, "p", Append("event", doc(1)), Put("note", "n", doc(1)))
            await commit(engine, "p", Put("note", "n", doc(2), expect="exists"))
            await commit(engine, "p", Trim("event", below=None))
            assert await place.value("SELECT count(*) FROM {s}.note_view") == 1
            assert engine._home is not None
            await engine._home.keeper.step()
            await engine.close()
        bigger = Schema((*SCHEMA.kinds, KindSpec("more")))
        with pytest.raises(Denied, match="a right is missing"):
            await place.open(bigger, base=base)


async def test_kinds_indexes_and_views_are_added(place: Place) -> None:
    small = KindSpec("note", columns=(Column("title", ("title",), "str"),))
    engine = await place.open(Schema((small,)))
    await commit(engine, "p", Put("note", "a", encode({"title": "t", "due": 7})))
    assert (await place.fetch("SELECT title FROM {s}.note_view"))[0]["title"] == "t"
    later = await place.open(SCHEMA)
    assert (await place.fetch("SELECT title, due FROM {s}.note_view"))[0]["due"] == 7
    await commit(later, "p", Put("note", "b", doc(1), index={"by_text": ("x",)}))
    assert [row.key.sort for row in await rows(later, "note", "x", index="by_text")] == ["b"]
    await commit(engine, "p", Put("note", "c", doc(1)))


async def a_big_note(place: Place) -> Postgres:
    """An open engine with a table of notes that is too big for an index within a transaction."""
    engine = await place.open(Schema((KindSpec("note"),)))
    await place.fetch(
        "INSERT INTO {s}.note (partition, sort, rev, doc) SELECT 'p', n::text, 'r', $1 FROM generate_series(1, 9000) n",
        bytes(1000),
    )
    return engine


async def test_indexes_of_a_big_table_are_built_beside_its_writers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await a_big_note(place)
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    await place.open(Schema((KindSpec("note", indexes=NOTE.indexes),)))
    await asyncio.sleep(0)
    built = [query for query in seen if query.startswith("CREATE INDEX")]
    assert len(built) == 4
    assert all("CONCURRENTLY" in query for query in built)
    await commit(engine, "p", Put("note", "x", doc(1)))


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
async def test_many_wait_for_the_one_that_builds(place: Place, monkeypatch: pytest.MonkeyPatch, isolation: str) -> None:
    """Two that build the same index would wait for each other, and one would drop what the other is building."""
    await a_big_note(place)
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    before = await place.value(deadlocks)
    async with a_role(place, "SUPERUSER") as (role, base):
        await place.admin.execute(f"ALTER ROLE {role} SET default_transaction_isolation = '{isolation}'")
        engines = [place.engine(base, pool_max=1) for _ in range(6)]
        async with asyncio.timeout(60):
            await asyncio.gather(
                *(engine.open(Schema((KindSpec("note", indexes=NOTE.indexes),))) for engine in engines)
            )
        await asyncio.gather(*(commit(engine, "p", Put("note", "x", doc(1))) for engine in engines))
        for engine in engines:
            await engine.close()
        await place.admin.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
    assert sum(query.startswith("CREATE INDEX CONCURRENTLY") for query in seen) == 4
    assert not [query for query in seen if query.startswith("DROP INDEX")]
    assert await place.value(deadlocks) == before


async def test_a_pool_that_was_handed_in_builds_too(place: Place) -> None:
    await a_big_note(place)
    async with asyncpg.create_pool(postgres_url(), min_size=1, max_size=2) as pool:
        engine = Postgres(options=Options(schema=place.schema), pool=pool)
        await engine.open(Schema((KindSpec("note", indexes=NOTE.indexes),)))
        await engine.close()
    await place.open(Schema((KindSpec("note", indexes=NOTE.indexes),)), ddl="verify")


async def test_an_index_that_was_half_built_is_built_again(place: Place) -> None:
    await place.open()
    await place.fetch("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{s}.\"note.ix_by_text\"'::regclass")
    with pytest.raises(SchemaMismatch, match=r"note\.ix_by_text"):
        await place.open(ddl="verify")
    await place.open()
    await place.open(ddl="verify")


NEW = KindSpec("new")


async def test_a_newer_format_is_refused_before_anything_is_made(place: Place) -> None:
    await place.open()
    await place.fetch("UPDATE {s}.meta SET value = '99' WHERE name = 'format'")
    for schema in (SCHEMA, Schema((*SCHEMA.kinds, NEW))):
        for ddl in ("create", "verify"):
            with pytest.raises(SchemaMismatch, match=r"format 99, this version knows 1\. Update agentkeep"):
                await place.open(schema, ddl=ddl)
    assert await place.value("SELECT to_regclass('{s}.new') IS NULL")


@pytest.mark.parametrize("log", [False, True], ids=["becomes a log", "ceases to be one"])
async def test_what_cannot_be_added_is_refused_before_anything_is_made(place: Place, log: bool) -> None:
    await place.open(Schema((KindSpec("thing", log=log),)))
    with pytest.raises(SchemaMismatch, match=r'"thing" is there without the column .* give it another name'):
        await place.open(Schema((NEW, KindSpec("thing", log=not log))))
    assert await place.value("SELECT to_regclass('{s}.new') IS NULL")


async def test_what_fails_half_way_is_undone(place: Place) -> None:
    """The primary key of `note` has the name that the other kind's table would have."""
    await place.open(Schema((KindSpec("note"),)))
    with pytest.raises(SchemaMismatch):
        await place.open(Schema((NEW, KindSpec("note_pkey"))))
    assert await place.value("SELECT to_regclass('{s}.new') IS NULL")


async def test_a_view_that_others_stand_on_is_not_dropped(place: Place) -> None:
    await place.open()
    await place.fetch("CREATE VIEW {s}.theirs AS SELECT rev FROM {s}.note_view")
    changed = Schema((KindSpec("note", columns=(Column("other", ("other",), "str"),)),))
    with pytest.raises(SchemaMismatch, match="other objects stand on it"):
        await place.open(changed)
    assert await place.fetch("SELECT * FROM {s}.theirs") == []


async def test_without_a_schema_the_search_path_decides(place: Place) -> None:
    await place.admin.execute(f"CREATE SCHEMA {place.schema}")
    async with a_role(place, "SUPERUSER") as (role, base):
        await place.admin.execute(f"ALTER ROLE {role} SET search_path = {place.schema}")
        engine = Postgres(base, Options(schema="", prefix="ak_"))
        await engine.open(SCHEMA)
        await commit(engine, "p", Append("event", doc(1)))
        await engine.close()
        assert await place.value("SELECT count(*) FROM {s}.ak_event") == 1


def only(name: str, *indexes: str, columns: tuple[Column, ...] = ()) -> Schema:
    """One kind, its indexes named so."""
    return Schema(
        (KindSpec(name, indexes=tuple(IndexSpec(one, ("a",), ("str",)) for one in indexes), columns=columns),)
    )


@pytest.mark.parametrize(
    ("prefix", "schema", "message"),
    [
        (
            "",
            only("k" * 20, "i" * 40),
            "the index 'i{40}' of the kind 'k{20}' needs the name k{20}[.]ix_i{40}, which has 64 bytes; "
            "PostgreSQL takes 63. Shorten the index or the kind by 1[.]",
        ),
        (
            "p" * 40,
            only("k" * 10, "i" * 10),
            "index 'i{10}' .* which has 64 bytes; .* Shorten the index or the kind or the prefix by 1",
        ),
        ("p" * 40, only("k" * 16), "the kind 'k{16}' needs .*[.]expires, which has 64 .* the kind or the prefix by 1"),
        ("", only("k", columns=(Column("rev", ("rev",), "str"),)), "'rev' cannot name a column .* choose another name"),
        ("", only("k", columns=(Column("é" * 32, ("e",), "str"),)), "column 'é{32}' of the kind 'k' has 64 bytes"),
    ],
    ids=["index", "index and prefix", "kind", "column", "long column"],
)
async def test_names_that_do_not_fit_are_refused(place: Place, prefix: str, schema: Schema, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        print_ddl(schema, Options(schema=place.schema, prefix=prefix))
    with pytest.raises(Invalid, match=message):
        await place.open(schema, prefix=prefix)
    assert await place.value("SELECT to_regnamespace('{s}') IS NULL")


async def test_the_longest_names_that_fit_are_kept_apart(place: Place) -> None:
    """They begin alike, and are as long as names can be."""
    indexes = tuple(IndexSpec(f"{'i' * 38}{end}", ("a",), ("str",)) for end in "ab")
    schema = Schema(tuple(KindSpec(f"{'k' * 9}{end}", indexes=indexes) for end in "ab"))
    engine = await place.open(schema, prefix="p" * 10)
    await commit(engine, "p", Put(f"{'k' * 9}a", "n", doc(1), {indexes[1].name: ("x",)}))
    found = {
        (kind.name, index.name): [row.key.sort for row in await rows(engine, kind.name, "x", index=index.name)]
        for kind in schema.kinds
        for index in indexes
    }
    assert [names for names, sorts in found.items() if sorts] == [(f"{'k' * 9}a", indexes[1].name)]
    assert await place.value("SELECT max(length(relname)) FROM pg_class WHERE relnamespace = '{s}'::regnamespace") == 63


# --- opening again -----------------------------------------------------------------------------------------------


async def test_an_open_engine_goes_over_to_more_kinds(place: Place) -> None:
    """Calls from its own loop and from others go on, on the connections that there are."""
    engine = await place.open(Schema(SCHEMA.kinds[:2]), application_name=place.schema)

    def elsewhere(op: Append | Put) -> Any:
        return asyncio.to_thread(asyncio.run, commit(engine, "p", op))

    await commit(engine, "p", Append("event", doc(1)))
    await elsewhere(Append("event", doc(1)))
    count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1"
    before = await place.value(count, place.schema)
    under_way = [asyncio.create_task(elsewhere(Append("event", doc(n)))) for n in range(8)]
    under_way += [asyncio.create_task(commit(engine, "p", Append("event", doc(n)))) for n in range(8)]
    await asyncio.to_thread(asyncio.run, engine.open(SCHEMA))
    await commit(engine, "p", Put("state", "here", doc(1)))
    await elsewhere(Put("state", "there", doc(1)))
    await asyncio.gather(*under_way)
    assert len(await rows(engine, "event", "p", limit=50)) == 18
    assert [row.key.sort for row in await rows(engine, "state", "p")] == ["here", "there"]
    assert before == 2
    assert engine._home is not None
    assert await engine._home.keeper.step() == 0


async def test_a_failed_change_of_kinds_leaves_the_engine_as_it_was(place: Place) -> None:
    engine = await place.open(Schema((KindSpec("thing"),)))
    with pytest.raises(SchemaMismatch):
        await engine.open(Schema((KindSpec("thing", log=True),)))
    await commit(engine, "p", Put("thing", "a", doc(1)))
    assert [row.key.sort for row in await rows(engine, "thing", "p")] == ["a"]


async def test_queries_are_not_compiled(place: Place) -> None:
    engine = await place.open()
    assert engine._home is not None
    asked = await fetch(engine._home.source, "get", "SELECT setting, source FROM pg_settings WHERE name = 'jit'", ())
    assert [tuple(row) for row in asked] == [("off", "client")]


# --- views -------------------------------------------------------------------------------------------------------


async def test_views_are_typed_and_show_what_exists(place: Place) -> None:
    columns = tuple(
        Column(name, ("data", name), kind)
        for name, kind in (("s", "str"), ("i", "int"), ("f", "float"), ("b", "bool"), ("t", "time"), ("j", "json"))
    )
    engine = await place.open(Schema((KindSpec("thing", columns=columns), KindSpec("log", log=True))))
    good = {"s": "text", "i": 10**30, "f": 0.5, "b": True, "t": 1_700_000_000_123_456, "j": {"a": [1]}}
    bad = {"s": 1, "i": "x", "f": [], "b": "true", "t": 10**40, "j": None}
    await commit(engine, "p", Put("thing", "a", encode({"data": good})), Put("thing", "b", encode({"data": bad})))
    await commit(engine, "p", Put("thing", "c", encode({"data": "\x00"})), Put("thing", "d", encode("\ud800")))
    await commit(engine, "p", Put("thing", "e", b"\x03moved"), Put("thing", "gone", encode(1), expires=1))
    got = await place.fetch("SELECT * FROM {s}.thing_view ORDER BY sort")
    assert [row["sort"] for row in got] == ["a", "b", "c", "d", "e"]
    first = dict(got[0])
    assert (first["s"], first["i"], first["f"], first["b"]) == ("text", 10**30, 0.5, True)
    assert first["t"].isoformat() == "2023-11-14T22:13:20.123456+00:00"
    assert json.loads(first["document"]) == {"data": good}
    assert [got[1][name] for name in "ifbt"] == [None] * 4
    assert [row["document"] for row in got[2:]] == [None] * 3
    types = await place.fetch(
        "SELECT column_name, data_type FROM information_schema.columns WHERE table_schema = $1 "
        "AND table_name = 'thing_view' ORDER BY ordinal_position",
        place.schema,
    )
    assert [row["data_type"] for row in types[3:]] == [
        "text",
        "numeric",
        "double precision",
        "boolean",
        "timestamp with time zone",
        "jsonb",
        "jsonb",
    ]
    await commit(engine, "p", Append("log", doc(1)), Append("log", doc(2)))
    await commit(engine, "p", Trim("log", below=2))
    assert [row["seq"] for row in await place.fetch("SELECT seq FROM {s}.log_view")] == [2]


# --- errors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("InvalidPasswordError", Denied),
        ("InsufficientPrivilegeError", Denied),
        ("ReadOnlySQLTransactionError", Denied),
        ("InvalidCatalogNameError", Invalid),
        ("UndefinedTableError", SchemaMismatch),
        ("DeadlockDetectedError", Contention),
        ("SerializationError", Contention),
        ("LockNotAvailableError", Contention),
        ("AdminShutdownError", Unavailable),
        ("CannotConnectNowError", Unavailable),
        ("ConnectionDoesNotExistError", Unavailable),
        ("TooManyConnectionsError", Unavailable),
        ("DiskFullError", Unavailable),
        ("OutOfMemoryError", Unavailable),
        ("QueryCanceledError", Unavailable),
        ("StatementTooComplexError", Invalid),
        ("DataCorruptedError", Corrupt),
    ],
)
def test_errors_of_the_server_have_a_meaning(name: str, expected: type[StoreError]) -> None:
    error = getattr(asyncpg.exceptions, name)("secret text")
    error.detail = "Failing row contains (secret)"
    assert type(translate(error, "get")) is expected


def test_every_error_of_the_driver_becomes_ours_without_its_text() -> None:
    known = [one for one in vars(asyncpg.exceptions).values() if isinstance(one, type) and issubclass(one, Exception)]
    for kind in [*known, OSError, ConnectionResetError, TimeoutError, EOFError]:
        if not issubclass(kind, DRIVER_ERRORS):
            continue
        for maybe in (False, True):
            error = translate(kind("secret"), "commit", maybe)
            assert error.outcome == ("unknown" if maybe else "none")
            assert "secret" not in str(error)
            assert error.engine == "postgresql"
            assert not isinstance(error, TooLarge)
    assert len(known) > 200


@pytest.mark.parametrize(
    ("user", "port", "path", "expected", "message"),
    [
        ("", "", "/no_such_database", Invalid, "the database does not exist"),
        ("no_such_role", "", "", Denied, "refused the credentials"),
        ("", "1", "", Unavailable, "cannot be reached"),
    ],
)
async def test_a_server_that_cannot_be_used_says_why(
    user: str, port: str, path: str, expected: type[StoreError], message: str
) -> None:
    url = urlsplit(url_of(user, "wrong") if user else postgres_url())
    netloc = url.netloc.replace(f":{url.port}", f":{port}") if port else url.netloc
    engine = engine_of(url._replace(netloc=netloc, path=path or url.path).geturl())
    with pytest.raises(expected, match=message) as caught:
        await engine.open(SCHEMA)
    assert caught.value.outcome == "none"
    assert caught.value.operation == "open"


async def test_a_read_only_database_is_denied(place: Place) -> None:
    await place.open()
    async with a_role(place, "SUPERUSER") as (role, base):
        await place.admin.execute(f"ALTER ROLE {role} SET default_transaction_read_only = on")
        engine = await place.open(base=base)
        for ops in ((Append("event", doc(1)),), (Put("state", "s", doc(1)),), (Append("event", doc(1), after=0),)):
            [error] = await engine.commit([batch("p", *ops)])
            assert isinstance(error, Denied)
            assert "Connect to the primary" in str(error)
        assert await rows(engine, "event", "p") == []


async def test_a_lost_table_is_no_empty_one(place: Place) -> None:
    engine = await place.open()
    await place.fetch("DROP TABLE {s}.state CASCADE")
    with pytest.raises(SchemaMismatch):
        await rows(engine, "state", "p")
    [error] = await engine.commit([batch("p", Put("state", "s", doc(1)))])
    assert isinstance(error, SchemaMismatch)
    assert Ids()() not in str(error)
