"""Records: what a declaration makes of a Struct, what it refuses, what survives between versions."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

import msgspec
import pytest
from msgspec import Struct

from agentkeep import Corrupt, Invalid, Store, StoreError, codec, record
from agentkeep.records import Record, record_of
from agentkeep.testing.marks import case
from agentkeep.testing.values import DOCUMENTS, HUGE, STRINGS
from agentkeep.waist import Batch, Key, Put, Row
from engines import Database


class Part(Struct, frozen=True):
    score: float | None = None
    free: Any = None


@record(
    "job",
    partition="id",
    sort="sort",
    indexes={"due": ("queue", "run_us"), "by_state": ("state", "weight", "hot")},
    facets=("queue", "tags", "state", "metadata.*"),
    expires="until_us",
)
class Job(Struct, frozen=True, kw_only=True):
    id: str
    sort: str = ""
    queue: str = "main"
    run_us: int | None = None
    state: Literal["open", "done"] = "open"
    weight: float = 0.0
    hot: bool = False
    tags: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}
    parts: tuple[Part, ...] = ()
    until_us: int | None = None
    at: datetime | None = None
    price: Decimal | None = None
    free: Any = None


JOB: Record[Job] = record_of(Job)


def read(doc: bytes) -> Job:
    return JOB.decode(Row(Key("job", "a", ""), "r", doc))


def test_a_declaration_becomes_a_kind():
    spec = JOB.spec
    assert (spec.name, spec.log, spec.listed) == ("job", False, False)
    due, by_state = spec.indexes
    assert (due.name, due.fields, due.types) == ("due", ("queue", "run_us"), ("str", "int"))
    assert by_state.types == ("str", "float", "bool")
    columns = {column.name: column.type for column in spec.columns}
    assert columns["run_at"] == "time"
    assert columns["hot"] == "bool"
    assert columns["metadata"] == "json"


async def test_a_field_may_have_any_name(database: Database):
    @record("named", partition="rev", sort="sort")
    class Named(Struct, frozen=True, kw_only=True):
        rev: str
        sort: str = ""
        doc: str = ""
        document: int = 0
        partition: str = ""
        seq: int = 0
        facets: str = ""
        expires: int = 0
        run_at: str = ""
        run_us: int = 0
        select: str = ""
        order: str = ""

    names = [column.name for column in record_of(Named).spec.columns]
    assert names[:5] == ["rev_", "sort_", "doc", "document_", "partition_"]
    assert len(set(names)) == 12
    store = await database.open(records=[Named])
    await store.put(Named(rev="a", sort="b", order="c", run_us=5))
    assert (await store.get(Named, "a", "b")).value.order == "c"  # type: ignore[union-attr]


def test_a_row_is_in_an_index_if_no_field_of_it_is_missing():
    assert JOB.index(Job(id="a")) == {"by_state": ("open", 0.0, False)}
    assert JOB.index(Job(id="a", run_us=5))["due"] == ("main", 5)


def test_facets_are_scalars_and_lists_of_them():
    metadata = {
        "a": 1,
        "b": None,
        "c": {"d": [1, "x", None, {"no": 1}]},
        "e": [],
        "f": [[1]],
        "": True,
        "g.h": 1,
        "g": {"h": 2},
    }
    assert JOB.facet_values(Job(id="a", tags=("x", "y"), metadata=metadata)) == {
        "queue": "main",
        "tags": ("x", "y"),
        "state": "open",
        "metadata.a": 1,
        "metadata.c.d": (1, "x"),
        "metadata.": True,
        "metadata.g.h": (1, 2),
    }


@pytest.mark.parametrize(
    "declare",
    [
        lambda: record("x", partition="nope")(Part),
        lambda: record("x", partition="free", sort="nope")(Part),
        lambda: record("x", partition="free", facets=("nope.*",))(Part),
        lambda: record("x", partition="free", indexes={"i": ("nope",)})(Part),
        lambda: record("x", partition="free", indexes={"i": ("free",)})(Part),
        lambda: record("x", partition="free", version=2)(Part),
        lambda: record("x", partition="free", upcasts={1: lambda data: data})(Part),
        lambda: record("x", partition="free", version=3, upcasts={2: lambda data: data})(Part),
    ],
)
def test_a_declaration_that_cannot_work_fails_at_import(declare: Any):
    with pytest.raises(TypeError):
        declare()


def test_what_is_no_record_is_invalid():
    class Sub(Job, frozen=True, kw_only=True):
        pass

    for type in (Part, int, Sub):
        with pytest.raises(Invalid, match="not a record"):
            record_of(type)


def test_two_records_of_one_kind_are_refused():
    @record("event", partition="id")
    class Mine(Struct, frozen=True):
        id: str

    with pytest.raises(Invalid, match="'event'"):
        Store.open("memory://", records=[Mine])
    with pytest.raises(Invalid, match="'job'"):
        Store.open("memory://", records=[Job, Job])


@case("F1", "F2", "F4")
@pytest.mark.parametrize("value", [*DOCUMENTS, *HUGE, *STRINGS, -0.0, 5e-324, 1.0, 1, True])
def test_free_data_comes_back_as_it_is(value: Any):
    job = Job(id="a", free=value, metadata={"x": value}, parts=(Part(free=value),))
    found = read(JOB.encode(job))
    assert found == job
    assert repr(found) == repr(job)


@case("F3", "F4")
@pytest.mark.parametrize(
    ("job", "path"),
    [
        (Job(id="a", free={"x": [math.nan]}), "free.x[0]"),
        (Job(id="a", metadata={"x": math.inf}), "metadata.x"),
        (Job(id="a", weight=math.nan), "weight"),
        (Job(id="a", parts=(Part(score=math.nan),)), "parts[0].score"),
        (Job(id="a", parts=(Part(), Part(free={"x": -math.inf}))), "parts[1].free.x"),
        (Job(id="a", parts=(Part(free=(1,)),)), "parts[0].free"),
        (Job(id="a", free=(1, 2)), "free"),
        (Job(id="a", free=b"x"), "free"),
        (Job(id="a", free={1: 2}), "free"),
        (Job(id="a", free={1}), "free"),
        (Job(id="a", free=datetime(2001, 1, 1, tzinfo=UTC)), "free"),
        (Job(id="a", free=object()), "free"),
        (Job(id="a", free=10**4001), "free"),
        (Job(id="a", metadata=[1]), "metadata"),  # type: ignore[arg-type]
        (Job(id=5), "id"),  # type: ignore[arg-type]
        (Job(id="a", queue=None), "queue"),  # type: ignore[arg-type]
        (Job(id="a", state="odd"), "state"),  # type: ignore[arg-type]
        (Job(id="a", hot=1), "hot"),  # type: ignore[arg-type]
        (Job(id="a", run_us=1.5), "run_us"),  # type: ignore[arg-type]
        (Job(id="a", tags=(1,)), "tags"),  # type: ignore[arg-type]
        (Job(id="a", at="yesterday"), "at"),  # type: ignore[arg-type]
        (Job(id="a", parts=("x",)), "parts"),  # type: ignore[arg-type]
        (Job(id="a", parts=(object(),)), "job"),  # type: ignore[arg-type]
    ],
)
def test_what_would_not_be_read_as_it_is_given_is_refused_by_path(job: Job, path: str):
    with pytest.raises(Invalid) as caught:
        JOB.encode(job)
    assert path in str(caught.value)


def test_typed_fields_keep_their_types():
    job = Job(
        id="a",
        at=datetime(2001, 2, 3, tzinfo=UTC),
        price=Decimal("1.10"),
        parts=(Part(1.0),),
        tags=("x",),
        weight=-0.0,
    )
    found = read(JOB.encode(job))
    assert found == job
    assert str(found.price) == "1.10"
    assert math.copysign(1, found.weight) == -1


async def test_a_record_that_cannot_be_read_is_never_written(database: Database):
    store = await database.open(records=[Job])
    await store.put(Job(id="a", queue="before"))
    for bad in (Job(id="a", queue=5), Job(id="a", free=math.nan), Job(id="a", free=object())):  # type: ignore[arg-type]
        with pytest.raises(Invalid):
            await store.put(bad)
        with pytest.raises(Invalid):
            await store.update(Job, "a", "", lambda old, bad=bad: bad)
    assert (await store.get(Job, "a")).value == Job(id="a", queue="before")  # type: ignore[union-attr]


async def test_expiry_is_by_the_clock(database: Database):
    store = await database.open(records=[Job])
    await store.put(Job(id="a", until_us=database.clock() + 1_000_000))
    assert await store.get(Job, "a") is not None
    database.clock.move(2)
    assert await store.get(Job, "a") is None
    assert (await store.scan(Job, index="by_state", prefix=("open",))).items == []


# --- versions --------------------------------------------------------------------------------------------------------


@record("doc", partition="id")
class DocV1(Struct, frozen=True, kw_only=True):
    id: str
    name: str = ""
    old: int = 0


def _to_two(data: dict[str, Any]) -> dict[str, Any]:
    return {"title" if name == "name" else name: value for name, value in data.items() if name != "old"}


def _to_three(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "words": data.get("title", "").split()}


@record("doc", partition="id", version=2, upcasts={1: _to_two})
class DocV2(Struct, frozen=True, kw_only=True):
    id: str
    title: str = ""


@record("doc", partition="id", version=3, upcasts={1: _to_two, 2: _to_three})
class DocV3(Struct, frozen=True, kw_only=True):
    id: str
    title: str = ""
    words: list[str] = []


@case("C10")
async def test_documents_of_every_version_are_read_by_the_newest(database: Database):
    one = await database.open(records=[DocV1])
    two = await database.open(records=[DocV2])
    three = await database.open(records=[DocV3])
    await one.put(DocV1(id="a", name="x y", old=1))
    await two.put(DocV2(id="b", title="z"))
    await three.put(DocV3(id="c", title="w", words=["other"]))
    assert (await three.get(DocV3, "a")).value == DocV3(id="a", title="x y", words=["x", "y"])  # type: ignore[union-attr]
    assert (await three.get(DocV3, "b")).value == DocV3(id="b", title="z", words=["z"])  # type: ignore[union-attr]
    assert (await three.get(DocV3, "c")).value == DocV3(id="c", title="w", words=["other"])  # type: ignore[union-attr]


@case("C10")
async def test_an_older_reader_refuses_a_newer_document(database: Database):
    one = await database.open(records=[DocV1])
    two = await database.open(records=[DocV2])
    three = await database.open(records=[DocV3])
    await three.put(DocV3(id="a", title="x"))
    await two.put(DocV2(id="b", title="y"))
    for store, type, id in ((one, DocV1, "a"), (one, DocV1, "b"), (two, DocV2, "a")):
        with pytest.raises(Corrupt, match="Upgrade"):
            await store.get(type, id)
        with pytest.raises(Corrupt, match="Upgrade"):
            await store.update(type, id, "", lambda old: msgspec.structs.replace(old, id=old.id + "!"))
    assert (await three.get(DocV3, "a")).value.title == "x"  # type: ignore[union-attr]


async def stored(store: Store, kind: str, id: str) -> dict[str, Any]:
    row = await store.get_row(Key(kind, id, ""))
    assert row is not None
    return codec.decode(row.doc, dict[str, Any])


async def write(store: Store, kind: str, id: str, data: dict[str, Any]) -> None:
    (answer,) = await store.commit_all([Batch(id, (Put(kind, "", codec.encode(data)),), store.ids())])
    if isinstance(answer, StoreError):
        raise answer


@case("C10")
async def test_unknown_fields_survive_an_update(database: Database):
    store = await database.open(records=[DocV1])
    later = {"later": {"deep": [1, 2.0, "\x00", "\ud800", 10**400]}, "$other": None}
    await write(store, "doc", "a", {"id": "a", "name": "x", **later})
    await store.update(DocV1, "a", "", lambda old: msgspec.structs.replace(old, name="y"))
    assert await stored(store, "doc", "a") == {"id": "a", "name": "y", "old": 0, **later}
    await store.update(DocV1, "a", "", lambda old: msgspec.structs.replace(old, name="", old=2))
    assert await stored(store, "doc", "a") == {"id": "a", "name": "", "old": 2, **later}


@case("C10")
async def test_an_update_brings_a_document_to_the_version_of_the_record(database: Database):
    one = await database.open(records=[DocV1])
    two = await database.open(records=[DocV2])
    await write(one, "doc", "a", {"id": "a", "name": "x", "old": 1, "later": 1})
    await two.update(DocV2, "a", "", lambda old: msgspec.structs.replace(old, title="y"))
    assert await stored(two, "doc", "a") == {"$v": 2, "id": "a", "title": "y", "later": 1}


@case("C10")
async def test_unknown_fields_survive_in_conversations(store: Store):
    talk = await store.conversations.create("c", user="u")
    await talk.set_state(phase="x")
    for kind in ("conversation", "state"):
        await write(store, kind, "c", {**await stored(store, kind, "c"), "later": [1]})
    await talk.update(title="t")
    await talk.set_state(phase="y")
    await talk.handoff("b")
    await talk.close()
    await talk.reopen()
    assert (await stored(store, "conversation", "c"))["later"] == [1]
    assert (await stored(store, "state", "c"))["later"] == [1]


@case("S1", "C9")
@pytest.mark.parametrize(
    "doc",
    [
        b"",
        b"\x01",
        b"\x80\x04\x95",
        codec.frame(9, b"{}"),
        codec.frame(0, b"{}"),
        codec.frame(codec.PLAIN, b""),
        codec.frame(codec.PLAIN, b"\x80\x04K\x01."),
        codec.frame(codec.PLAIN, b"[1]"),
        codec.frame(codec.PLAIN, b'{"name":"x"}'),
        codec.frame(codec.PLAIN, b'{"id":"a","name":5}'),
        codec.frame(codec.PLAIN, b'{"id":"a","name":NaN}'),
        codec.frame(codec.PLAIN, b'{"lc":1,"type":"constructor","id":["os","system"],"kwargs":{}}'),
        codec.frame(codec.ODD, b'{"id":"a","name":"\\ud800'),
        codec.frame(codec.PLAIN, b'{"id":"a","name":"' + b"[" * 100_000),
        codec.frame(codec.PLAIN, b"[" * 100_000),
        codec.frame(codec.PLAIN, b'{"$v":0,"id":"a"}'),
        codec.frame(codec.PLAIN, b'{"$v":2,"id":"a"}'),
        codec.frame(codec.PLAIN, b'{"$v":"x","id":"a"}'),
        codec.frame(codec.PLAIN, b'{"$v":true,"id":"a"}'),
        codec.frame(codec.PLAIN, b'{"id":"a"}')[:-1] + b"]",
    ],
)
async def test_a_document_that_does_not_decode_is_corrupt_and_stays(database: Database, doc: bytes):
    for type in (DocV1, DocV2):
        store = await database.open(records=[type])
        if type is DocV2 and doc == codec.frame(codec.PLAIN, b'{"$v":2,"id":"a"}'):
            continue
        await store.put(type(id="b"))
        await store.connection.raw.commit([Batch("a", (Put("doc", "", doc),), store.ids())])
        with pytest.raises(Corrupt) as caught:
            await store.get(type, "a")
        assert caught.value.key == Key("doc", "a", "")
        with pytest.raises(Corrupt):
            await store.update(type, "a", "", lambda old: old)
        page = await store.scan(type)
        assert [one.id for one in page] == ["b"]
        assert [error.key for error in page.corrupt] == [Key("doc", "a", "")]
        (row,) = await store.connection.raw.get([Key("doc", "a", "")])
        assert row is not None
        assert row.doc == doc
