"""The layers between a store and its engine: retry, chaos, trace. A layer is an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from agentkeep import (
    Closed,
    Conflict,
    Contention,
    Denied,
    Invalid,
    MissingExtra,
    StoreError,
    TooLarge,
    Unavailable,
)
from agentkeep.engines.memory import Memory
from agentkeep.layers.chaos import Chaos
from agentkeep.layers.limits import Limits
from agentkeep.layers.retry import LONGEST, Retry
from agentkeep.layers.scope import Scope
from agentkeep.layers.trace import Trace
from agentkeep.testing.marks import case
from agentkeep.testing.verbs import batch, doc
from agentkeep.waist import Append, Batch, Check, Engine, Key, KindSpec, Page, Put, Receipt, Row, Scan, Schema
from engines import Database, Script, soon

SCHEMA = Schema((KindSpec("note"), KindSpec("event", log=True)))


class Played:
    """An engine whose commits are answered by a list: errors are raised, lists are given."""

    def __init__(self, *answers: Any) -> None:
        self.capabilities = Memory.capabilities
        self.answers = list(answers)
        self.asked: list[Sequence[Batch]] = []

    async def open(self, schema: Schema) -> None: ...

    async def close(self) -> None: ...

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        return self._next()

    async def scan(self, scan: Scan) -> Page:
        return self._next()

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        return self._next()

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        self.asked.append(batches)
        return self._next()

    def _next(self) -> Any:
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def lost(outcome: Any = "unknown") -> Unavailable:
    return Unavailable("lost", outcome=outcome)


A, B, C = (batch(name, Put("note", "", doc(name))) for name in "abc")
DONE = Receipt("r", (None,))


# --- retry -----------------------------------------------------------------------------------------------------------


async def test_only_what_failed_in_passing_is_committed_again():
    refused = Conflict(Key("note", "b", ""), "absent", "x")
    engine = Played([DONE, refused, lost()], [Contention("busy")], [DONE])
    answers = await Retry(engine, soon).commit([A, B, C])
    assert answers == [DONE, refused, DONE]
    assert [list(asked) for asked in engine.asked] == [[A, B, C], [C], [C]]


@case("C2")
async def test_the_same_batch_goes_again_with_the_same_id():
    engine = Played(lost(), [DONE])
    await Retry(engine, soon).commit([A])
    assert engine.asked[0][0] is engine.asked[1][0]


@pytest.mark.parametrize("error", [Denied("no"), Closed("no"), Invalid("no"), TooLarge("x", limit=1, size=2)])
async def test_what_does_not_pass_is_not_retried(error: StoreError):
    engine = Played(error)
    for call in (
        Retry(engine, soon).commit([A]),
        Retry(Played(error), soon).get([]),
        Retry(Played(error), soon).scan(Scan("note")),
        Retry(Played(error), soon).dump("note", None, 1),
    ):
        with pytest.raises(type(error)) as caught:
            await call
        assert caught.value is error
    assert len(engine.asked) == 1


async def test_reads_are_retried_and_give_up_with_the_last_error():
    page = Page([], None)
    assert await Retry(Played(lost(), Contention("busy"), page), soon).scan(Scan("note")) is page
    assert await Retry(Played(lost(), page), soon).dump("note", None, 1) is page
    engine = Played(*[Contention(str(n)) for n in range(9)])
    with pytest.raises(Contention, match="7"):
        await Retry(engine, soon).get([])
    assert len(engine.answers) == 1


async def test_pauses_grow_and_are_bounded():
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)

    await Retry(Played(*[[lost()] for _ in range(12)]), sleep, tries=12).commit([A])
    assert len(paused) == 11
    assert all(0.0125 * 2**n <= pause <= 0.025 * 2**n for n, pause in enumerate(paused[:7]))
    assert max(paused) <= LONGEST


@case("C2")
@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([[Contention("busy")]] * 8, "none"),
        ([[lost()], *[[Contention("busy")]] * 7], "unknown"),
        ([lost(), *[Contention("busy")] * 7], "unknown"),
        ([*[[Contention("busy")]] * 7, [lost()]], "unknown"),
        ([[lost("none")]] * 8, "none"),
        ([lost(), Closed("closed")], "unknown"),
        ([lost("none"), Closed("closed")], "none"),
        ([[lost()], Denied("no right")], "unknown"),
        ([[lost()], [TooLarge("x", limit=1, size=2)]], "none"),
    ],
)
async def test_what_was_unknown_stays_so_until_the_engine_decides(answers: list[Any], outcome: str):
    (answer,) = await Retry(Played(*answers), soon).commit([A])
    assert isinstance(answer, StoreError)
    assert answer.outcome == outcome


@case("C2")
async def test_each_batch_of_a_call_has_its_own_outcome():
    """A error that is raised for the call is not the same object for its batches."""
    engine = Played([lost(), Contention("busy")], *[lost("none")] * 7)
    first, second = await Retry(engine, soon).commit([A, B])
    assert isinstance(first, StoreError)
    assert isinstance(second, StoreError)
    assert (first.outcome, second.outcome) == ("unknown", "none")
    assert first is not second


async def test_the_cause_of_an_error_is_kept():
    error = lost()
    error.__cause__ = OSError("the wire")
    (answer,) = await Retry(Played(*[[error]] * 2), soon, tries=2).commit([A])
    assert isinstance(answer, StoreError)
    assert isinstance(answer.__cause__, OSError)


async def test_what_succeeded_is_not_lost_when_the_rest_fails_for_good():
    (first, second) = await Retry(Played([DONE, lost()], Closed("closed")), soon).commit([A, B])
    assert first == DONE
    assert isinstance(second, Closed)


# --- chaos -----------------------------------------------------------------------------------------------------------


async def test_chaos_loses_requests_and_replies():
    memory = Memory()
    await memory.open(SCHEMA)
    script = Script()
    engine = Chaos(memory, script)
    script.set("before", "contention", "after", "ok")
    for error, applied in ((Unavailable, False), (Contention, False), (Unavailable, True)):
        with pytest.raises(error) as caught:
            await engine.commit([A])
        assert caught.value.outcome == ("none" if error is Contention else "unknown")
        assert (await memory.get([Key("note", "a", "")]) != [None]) == applied
    (answer,) = await engine.commit([A])
    assert isinstance(answer, Receipt)
    assert answer.replayed
    assert engine.calls == 4
    script.set("before", "after", "ok")
    for _ in range(2):
        with pytest.raises(Unavailable) as caught:
            await engine.get([])
        assert caught.value.outcome == "none"  # a read writes nothing
    assert await engine.get([]) == []
    await engine.close()


async def test_chaos_counts_calls_over_all_operations():
    seen: list[tuple[str, int]] = []
    engine = Chaos(Memory(), lambda operation, number: seen.append((operation, number)) or "ok")  # type: ignore[func-returns-value]
    await engine.open(SCHEMA)
    await engine.commit([A])
    await engine.get([])
    await engine.scan(Scan("note"))
    await engine.dump("note", None, 1)
    assert seen == [("open", 0), ("commit", 1), ("get", 2), ("scan", 3), ("dump", 4)]


# --- layers are engines ----------------------------------------------------------------------------------------------


def test_layers_have_the_capabilities_of_what_they_wrap():
    memory = Memory()
    layers: list[Engine] = [
        Retry(memory, soon), Limits(memory), Trace(memory), Chaos(memory, lambda *_: "ok"), Scope(memory, "a"),
    ]  # fmt: skip
    for layer in layers:
        assert layer.capabilities == memory.capabilities
        assert layer.inner is memory
        for name in ("open", "close", "get", "scan", "commit", "dump"):
            assert name in type(layer).__dict__


async def test_limits_answers_malformed_batches_in_their_places():
    memory = Memory()
    engine = Limits(memory)
    await engine.open(SCHEMA)
    bad, large = batch("b", Put("nokind", "", b"x")), batch("c", Put("note", "", b"x" * 300_001))
    answers = await engine.commit([A, bad, batch("d", Append("event", b"x")), large])
    assert [type(answer) for answer in answers] == [Receipt, Invalid, Receipt, TooLarge]
    assert answers[0].id == A.id
    (only,) = await engine.commit([bad])
    assert isinstance(only, Invalid)


# --- trace -----------------------------------------------------------------------------------------------------------


async def test_each_call_is_a_span_with_kinds_counts_and_no_content(database: Database, spans: InMemorySpanExporter):
    store = await database.open(trace=True)
    spans.clear()
    talk = await store.conversations.create("secret-id", user="secret-user")
    await talk.append("secret-text", key="secret-key", metadata={"secret": "secret"})
    await talk.history(where={"type": "message"})
    await talk.get(1)
    await store.connection.engine.dump("event", None, 10)
    found = [(span.name, dict(span.attributes or {})) for span in spans.get_finished_spans()]
    names = [name for name, _ in found]
    assert names == ["agentkeep.commit", "agentkeep.commit", "agentkeep.scan", "agentkeep.get", "agentkeep.dump"]
    assert found[0][1]["db.collection.name"] == "activity conversation event"
    assert found[0][1]["db.operation.batch.size"] == 1
    assert found[0][1]["db.system.name"] == store.connection.raw.capabilities.name
    assert found[2][1] == {
        "db.collection.name": "event",
        "agentkeep.index": "primary",
        "db.system.name": store.connection.raw.capabilities.name,
        "db.operation.name": "scan",
        "db.response.returned_rows": 1,
    }
    assert "secret" not in str([span.to_json() for span in spans.get_finished_spans()])


async def test_a_failed_call_is_a_failed_span_without_its_message(spans: InMemorySpanExporter):
    memory = Memory()
    engine = Trace(memory)
    await engine.open(SCHEMA)
    spans.clear()
    await engine.commit([batch("a", Check("note", "secret", "exists")), A])
    await memory.close()
    with pytest.raises(Closed):
        await engine.get([Key("note", "secret", "")])
    commit, get = spans.get_finished_spans()
    assert commit.attributes is not None
    assert (commit.attributes["agentkeep.failed"], commit.attributes["error.type"]) == (1, "Conflict")
    assert get.attributes is not None
    assert get.attributes["error.type"] == "Closed"
    for span in (commit, get):
        assert span.status.status_code is StatusCode.ERROR
        assert span.events == ()
        assert "secret" not in span.to_json()


async def test_a_retried_call_is_a_span_for_each_attempt(database: Database, spans: InMemorySpanExporter):
    script = Script()
    store = await database.open(trace=True, wrap=script.wrap)
    talk = await store.conversations.create("c")
    spans.clear()
    script.set("before", "contention", "ok")
    await talk.append("x")
    statuses = [span.status.status_code for span in spans.get_finished_spans()]
    assert statuses == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]


def test_tracing_without_its_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.trace", None)
    with pytest.raises(MissingExtra, match=r"agentkeep\[trace\]"):
        Trace(Memory())
