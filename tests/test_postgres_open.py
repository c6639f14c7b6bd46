"""PostgreSQL: tables made and verified, plans, views, and the table of errors."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from agentkeep.codec import encode
from agentkeep.engines._postgres_errors import DRIVER_ERRORS, translate
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
from postgres import Place, a_place, watch


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


async def test_verify_says_what_is_missing(place: Place) -> None:
    with pytest.raises(SchemaMismatch, match=r"the database lacks schema .* and \d+ more\. .*print_ddl"):
        await place.open(ddl="verify")
    assert await place.value("SELECT to_regnamespace('{s}') IS NULL")
    await place.open(Schema((KindSpec("state"),)))
    more = Schema((KindSpec("state", indexes=(IndexSpec("by_user", ("user",), ("str",)),)),))
    with pytest.raises(SchemaMismatch, match=r'lacks column "\w+"."state" ix_by_user, index'):
        await place.open(more, ddl="verify")


async def test_what_is_printed_is_all_that_is_needed(place: Place) -> None:
    role = f"r_{uuid4().hex[:8]}"
    await place.admin.execute(print_ddl(SCHEMA, Options(schema=place.schema)))
    await place.admin.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {place.schema} TO {role};"
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {place.schema} TO {role}"
    )
    try:
        base = postgres_url().replace("//postgres@", f"//{role}@")
        assert base != postgres_url()
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
    finally:
        await place.admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


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


async def test_indexes_of_a_big_table_are_built_beside_its_writers(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = await place.open(Schema((KindSpec("note"),)))
    await place.fetch(
        "INSERT INTO {s}.note (partition, sort, rev, doc) SELECT 'p', n::text, 'r', $1 FROM generate_series(1, 9000) n",
        bytes(1000),
    )
    seen: list[str] = []
    watch(monkeypatch, seen.append)
    await place.open(Schema((KindSpec("note", indexes=NOTE.indexes),)))
    await asyncio.sleep(0)
    built = [query for query in seen if query.startswith("CREATE INDEX")]
    assert len(built) == 4
    assert all("CONCURRENTLY" in query for query in built)
    await commit(engine, "p", Put("note", "x", doc(1)))


async def test_an_index_that_was_half_built_is_built_again(place: Place) -> None:
    await place.open()
    await place.fetch("UPDATE pg_index SET indisvalid = FALSE WHERE indexrelid = '{s}.\"note.ix_by_text\"'::regclass")
    with pytest.raises(SchemaMismatch, match=r"note\.ix_by_text"):
        await place.open(ddl="verify")
    await place.open()
    await place.open(ddl="verify")


async def test_a_newer_format_is_refused(place: Place) -> None:
    await place.open()
    await place.fetch("UPDATE {s}.meta SET value = '99' WHERE name = 'format'")
    with pytest.raises(SchemaMismatch, match=r"format 99, this version knows 1\. Update agentkeep"):
        await place.open()


async def test_a_kind_that_becomes_a_log_is_refused(place: Place) -> None:
    await place.open(Schema((KindSpec("thing"),)))
    with pytest.raises(SchemaMismatch, match="thing"):
        await place.open(Schema((KindSpec("thing", log=True),)))


async def test_a_view_that_others_stand_on_is_not_dropped(place: Place) -> None:
    await place.open()
    await place.fetch("CREATE VIEW {s}.theirs AS SELECT rev FROM {s}.note_view")
    changed = Schema((KindSpec("note", columns=(Column("other", ("other",), "str"),)),))
    with pytest.raises(SchemaMismatch, match="other objects stand on it"):
        await place.open(changed)
    assert await place.fetch("SELECT * FROM {s}.theirs") == []


async def test_without_a_schema_the_search_path_decides(place: Place) -> None:
    await place.admin.execute(f"CREATE SCHEMA {place.schema}")
    role = f"r_{uuid4().hex[:8]}"
    await place.admin.execute(f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET search_path = {place.schema}")
    try:
        base = postgres_url().replace("//postgres@", f"//{role}@")
        engine = Postgres(base, Options(schema="", prefix="ak_"))
        await engine.open(SCHEMA)
        await commit(engine, "p", Append("event", doc(1)))
        await engine.close()
        assert await place.value("SELECT count(*) FROM {s}.ak_event") == 1
    finally:
        await place.admin.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_names_that_do_not_fit_are_refused(place: Place) -> None:
    kinds = Schema((KindSpec("k" * 40, indexes=(IndexSpec("i" * 40, ("a",), ("str",)),)),))
    with pytest.raises(Invalid, match="over 63 bytes"):
        await place.open(kinds)
    taken = Schema((KindSpec("note", columns=(Column("rev", ("rev",), "str"),)),))
    with pytest.raises(Invalid, match="'rev' cannot name a column"):
        await place.open(taken)


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
    url = urlsplit(postgres_url())
    netloc = f"{user or url.username}@{url.hostname}:{port or url.port}"
    engine = engine_of(url._replace(netloc=netloc, path=path or url.path).geturl())
    with pytest.raises(expected, match=message) as caught:
        await engine.open(SCHEMA)
    assert caught.value.outcome == "none"
    assert caught.value.operation == "open"


async def test_a_read_only_database_is_denied(place: Place) -> None:
    await place.open()
    role = f"r_{uuid4().hex[:8]}"
    await place.admin.execute(
        f"CREATE ROLE {role} LOGIN SUPERUSER; ALTER ROLE {role} SET default_transaction_read_only = on"
    )
    try:
        engine = await place.open(base=postgres_url().replace("//postgres@", f"//{role}@"))
        for ops in ((Append("event", doc(1)),), (Put("state", "s", doc(1)),), (Append("event", doc(1), after=0),)):
            [error] = await engine.commit([batch("p", *ops)])
            assert isinstance(error, Denied)
            assert "Connect to the primary" in str(error)
        assert await rows(engine, "event", "p") == []
    finally:
        await place.admin.execute(f"DROP ROLE {role}")


async def test_a_lost_table_is_no_empty_one(place: Place) -> None:
    engine = await place.open()
    await place.fetch("DROP TABLE {s}.state CASCADE")
    with pytest.raises(SchemaMismatch):
        await rows(engine, "state", "p")
    [error] = await engine.commit([batch("p", Put("state", "s", doc(1)))])
    assert isinstance(error, SchemaMismatch)
    assert Ids()() not in str(error)
