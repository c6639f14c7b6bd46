"""The sync API: the same names without await, inline or on a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentkeep import Bindings as AsyncBindings
from agentkeep import Closed, Conflict, Event, Invalid, NotFound, Page, Text, ToolCall, Viewer, record
from agentkeep import Conversation as AsyncConversation
from agentkeep import Conversations as AsyncConversations
from agentkeep import Identities as AsyncIdentities
from agentkeep import Lease as AsyncLease
from agentkeep import Locks as AsyncLocks
from agentkeep import Observations as AsyncObservations
from agentkeep import Participants as AsyncParticipants
from agentkeep import Private as AsyncPrivate
from agentkeep import Store as AsyncStore
from agentkeep import Summaries as AsyncSummaries
from agentkeep import Tasks as AsyncTasks
from agentkeep import Usages as AsyncUsages
from agentkeep.bridge import Bridge
from agentkeep.engines.memory import Memory
from agentkeep.sync import (
    Bindings,
    Conversation,
    Conversations,
    Identities,
    Lease,
    Locks,
    Observations,
    Participants,
    Private,
    Store,
    Summaries,
    Tasks,
    Usages,
)
from agentkeep.waist import Put
from engines import Database

ROOT = Path(__file__).parent.parent


@record("box", partition="id", indexes={"by_n": ("shelf", "n")}, facets=("n",))
class Box(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    n: int = 0
    shelf: str = "all"


class Suspending:
    """An engine that gives way on every call, as one over a network does."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.capabilities = msgspec.structs.replace(inner.capabilities, inline=False)
        self.loops: set[Any] = set()

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            self.loops.add(asyncio.get_running_loop())
            await asyncio.sleep(0)
            return await getattr(self.inner, name)(*args, **options)

        return call


@pytest.fixture(params=["inline", "thread"])
def store(database: Database, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A sync store, driven by hand where the engine can, and on a loop."""
    engine = database.engine()
    if request.param == "thread" or not engine.capabilities.inline:
        engine = Suspending(engine)
    with Store.on(engine, records=[Box], clock=database.clock) as made:
        yield made


def test_the_file_is_what_the_generator_makes():
    done = subprocess.run([sys.executable, "tools/gen_sync.py", "--check"], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(
    ("twin", "source"),
    [
        (Store, AsyncStore),
        (Conversations, AsyncConversations),
        (Conversation, AsyncConversation),
        (Identities, AsyncIdentities),
        (Observations, AsyncObservations),
        (Tasks, AsyncTasks),
        (Participants, AsyncParticipants),
        (Bindings, AsyncBindings),
        (Locks, AsyncLocks),
        (Lease, AsyncLease),
        (Summaries, AsyncSummaries),
        (Private, AsyncPrivate),
        (Usages, AsyncUsages),
    ],
)
def test_every_public_method_has_its_twin_with_the_same_arguments(twin: type, source: type):
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("gen_sync", ROOT / "tools" / "gen_sync.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    public = {name for name in vars(source) if not name.startswith("_")}
    assert public - set(vars(twin)) <= module.LEFT_OUT
    for name in public & set(vars(twin)) - {"open", "on", "from_env"}:
        ours, theirs = vars(twin)[name], vars(source)[name]
        if inspect.isfunction(ours):
            assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters), name
            assert not inspect.iscoroutinefunction(ours)


def test_a_conversation_from_beginning_to_end(store: Store):
    talk = store.conversations.create("c", user="u", agent="a", title="t", metadata={"n": 1})
    assert isinstance(talk, Conversation)
    assert repr(talk) == "Conversation('c', open)"
    assert (talk.id, talk.record.user) == ("c", "u")
    event = talk.append("hi", sender="u", key="k")
    assert talk.append("hi", sender="u", key="k") == event
    talk.append_many(["a", {"content": "b"}, ToolCall("1", "t")])
    assert talk.get(1) == event
    assert talk.get(9) is None
    assert talk.length() == 4
    assert [e.index for e in talk.history(limit=2)] == [3, 4]
    assert [e.index for e in talk.events(after=1)] == [2, 3, 4]
    assert [e.index for e in talk.tail(after=2, idle=0.01, poll=0.01)] == [3, 4]
    assert len(talk.context(max_tokens=100).events) == 4
    assert [e.index for e in talk.pending()] == [4]
    talk.set_state(phase="x", data={"a": 1})
    assert talk.handoff("b", reason="r").index == 5
    assert (talk.state().active_agent, talk.state().handoffs) == ("b", 1)
    assert talk.update(title="new").title == "new"
    assert talk.refresh().title == "new"
    copy = talk.fork(id="f", at=2)
    assert isinstance(copy, Conversation)
    assert [e.index for e in copy.events()] == [1, 2]
    assert talk.close().status == "closed"
    with pytest.raises(Invalid):
        talk.append("x")
    talk.reopen()
    talk.clear()
    assert list(talk.events()) == []
    talk.delete()
    assert store.conversations.get("c") is None
    store.conversations.delete("f")
    with pytest.raises(NotFound):
        store.conversations.delete("f")


def test_a_room_from_beginning_to_end(store: Store, database: Database):
    talk = store.conversations.create("c", organization="o", pause_after_s=10)
    assert talk.participants.join("bob", role="member").joined_index == 1
    assert talk.participants.update("bob", role="owner").role == "owner"
    assert [one.id for one in talk.participants.list()] == ["bob"]
    assert [one.role for one in talk.participants.present_at(1)] == ["member"]
    assert [one.role for one in talk.participants.between(0, 9).page()] == ["member", "owner"]
    assert talk.bindings.add("sms", "sms", participant="bob").channel == "sms"
    assert talk.bindings.update("sms", muted=True).muted
    assert [one.conversation.id for one in store.conversations.list_by_participant("bob")] == ["c"]
    assert [one.binding.muted for one in store.conversations.find_by_channel("sms")] == [True]
    assert store.conversations.find_latest("bob", "fax") is None
    with talk.lease("a", seconds=5) as lease:
        assert isinstance(lease, Lease)
        talk.set_state(phase="x", lease=lease)
        talk.append("y", lease=lease)
        with pytest.raises(Conflict):
            talk.lease("b").acquire()
        lease.renew()
    database.clock.move(60)
    assert store.conversations.sweep_timers().paused == ["c"]
    late = talk.lease("c", seconds=5).__enter__()
    database.clock.move(5)
    assert talk.lease("d").acquire() == 3
    for call in (late.renew, late.release, lambda: talk.append("z", lease=late), lambda: late.__exit__(None)):
        with pytest.raises(Conflict):
            call()
    late.__exit__(ValueError)
    with store.locks.hold("l", holder="me") as lock:
        assert (lock.fence, store.locks.holder("l")) == (1, "me")
    assert store.locks.holder("l") is None
    talk.participants.leave("bob")
    assert talk.refresh().status == "open"
    talk.bindings.remove("sms")


def test_lists_page_and_iterate(store: Store):
    for n in range(5):
        store.conversations.ensure(f"c{n}", user="u", metadata={"n": n})
    listing = store.conversations.list(user="u", limit=2)
    assert isinstance(listing.page(), Page)
    assert len(listing.page()) == 2
    assert sorted(row.id for row in listing) == [f"c{n}" for n in range(5)]
    assert [row.id for row in store.conversations.find({"metadata.n": {"ge": 3}})] == ["c3", "c4"]
    assert store.conversations.list(after=listing.page().cursor, user="u", limit=2).page() is not None
    with pytest.raises(Invalid):
        store.conversations.list(limit=0).page()


def test_records(store: Store):
    store.put(Box(id="a", n=1))
    with pytest.raises(Conflict):
        store.put(Box(id="a"), expect="absent")
    assert store.update(Box, "a", "", lambda old: Box(id=old.id, n=old.n + 1)).value.n == 2
    found = store.get(Box, "a")
    assert found is not None
    assert found.value == Box(id="a", n=2)
    assert store.scan(Box, index="by_n", prefix=("all",)).items == [Box(id="a", n=2)]
    assert store.count(Box) == (1, True)
    assert store.commit("b", [Put("box", "", b"x")]).seqs == (None,)
    assert store.commit_all([]) == []
    assert (store.collect("a"), store.sweep(), store.reindex()) == (0, 0, 0)
    store.delete(Box, "a")
    assert store.get(Box, "a") is None
    with pytest.raises(NotFound):
        store.update(Box, "a", "", lambda old: old)


def test_large_bodies(store: Store):
    talk = store.conversations.create("c")
    talk.append("x" * 1_000_000)
    event = talk.get(1)
    assert event is not None
    assert event.content == Text("x" * 1_000_000)


def test_a_stream_that_is_left_is_closed(store: Store):
    talk = store.conversations.create("c")
    talk.append_many(["a", "b", "c"])
    for event in talk.events():
        assert event.index == 1
        break
    assert [event.index for event in talk.events()] == [1, 2, 3]
    tail = talk.tail(after=0, poll=0.01)
    assert next(tail).index == 1
    tail.close()  # type: ignore[attr-defined]
    talk.append("d")


def test_many_threads_use_one_store(store: Store):
    talk = store.conversations.create("c")
    store.put(Box(id="a"))
    failed: list[BaseException] = []

    def work(n: int) -> None:
        try:
            mine = store.conversations.get("c")
            assert mine is not None
            for m in range(10):
                talk.append(f"{n}.{m}")
                mine.set_state(data={f"{n}.{m}": 1})
                store.update(Box, "a", "", lambda old: Box(id="a", n=old.n + 1))
        except BaseException as error:  # noqa: BLE001 - it is for the test's thread to judge
            failed.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [event.index for event in talk.events()] == list(range(1, 51))
    assert len(talk.state().data) == 50
    assert store.get(Box, "a").value.n == 50  # type: ignore[union-attr]


def test_tenants(database: Database):
    with Store.on(database.engine(), tenants="required", clock=database.clock) as store:
        assert store.tenant is None
        scope = store.scope("a")
        assert isinstance(scope, Store)
        assert scope.tenant == "a"
        scope.conversations.create("c")
        assert store.scope("b").conversations.get("c") is None
        with pytest.raises(Invalid):
            store.conversations.get("c")


def test_life(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = Store.on(database.engine(), clock=database.clock)
    with pytest.raises(Closed):
        store.conversations.get("c")
    assert store.start() is store
    store.conversations.create("c")
    store.close()
    store.close()
    with pytest.raises(Closed):
        store.conversations.get("c")
    with store:
        assert store.conversations.get("c") is not None
    monkeypatch.setenv("AGENTKEEP_URL", "memory://")
    with Store.from_env() as other:
        assert other.clock() > 0
        assert len(other.ids()) == 36
    with Store.open("memory://", trace=True) as other:
        other.conversations.create("c")


def test_a_store_that_does_not_open_leaves_no_thread(database: Database):
    before = threading.active_count()
    with Store.on(Suspending(database.engine()), tenants="required", clock=database.clock):
        pass
    for _ in range(3):
        with pytest.raises(Exception, match="tenants"):
            Store.on(Suspending(database.engine()), clock=database.clock).start()
    # Threads that a closing leaves to end by themselves have a moment for it.
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        for thread in threading.enumerate():
            if thread is not threading.current_thread() and thread.name.startswith("agentkeep-"):
                thread.join(0.1)
    assert threading.active_count() <= before


def test_a_loop_is_one_for_all_threads_and_calls(database: Database):
    engine = Suspending(database.engine())
    with Store.on(engine, clock=database.clock) as store:
        talk = store.conversations.create("c")
        threads = [threading.Thread(target=talk.append, args=("x",)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(engine.loops) == 1
        assert talk.length() == 5


def test_a_call_that_another_thread_closes_under_is_broken_off(database: Database):
    class Stuck(Suspending):
        """Never answers a get."""

        async def get(self, keys: Any) -> Any:
            if keys[0].kind == "event":
                asked.set()
                await asyncio.Event().wait()
            return await self.inner.get(keys)

    asked = threading.Event()
    caught: list[BaseException] = []
    store = Store.on(Stuck(database.engine()), clock=database.clock).start()
    talk = store.conversations.create("c")

    def wait() -> None:
        try:
            talk.get(1)
        except Closed as error:
            caught.append(error)

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    assert asked.wait(10)
    closing = threading.Thread(target=store.close, daemon=True)
    closing.start()
    for one in (closing, thread):
        one.join(10)
        assert not one.is_alive()
    assert [type(error) for error in caught] == [Closed]


def test_an_inline_engine_that_suspends_is_a_bug_that_is_named():
    bridge = Bridge(inline=True)
    with pytest.raises(RuntimeError, match="suspended"):
        bridge.run(asyncio.sleep(0))


async def test_sync_calls_work_inside_a_running_loop():
    with Store.open("memory://") as store:
        assert store.conversations.create("c").append("x").index == 1
    with Store.on(Suspending(Memory())) as store:
        assert await asyncio.to_thread(lambda: store.conversations.create("c").append("x").index) == 1


def test_events_are_those_of_the_async_api(store: Store):
    assert isinstance(store.conversations.create("c").append("x"), Event)


def test_what_stands_beside_the_events_is_there_too(tmp_path: Path):
    with Store.open(str(tmp_path / "a.db")) as store:
        talk = store.conversations.create("c")
        talk.append("hi", visibility="agents")
        talk.append("there", parent=1)
        talk.summaries.put("s", upto=1)
        talk.private.set("k", 1)
        talk.usage.add(input_tokens=3)
        talk.mark_read("r", 1)
        assert [event.index for event in talk.thread(1)] == [2]
        assert [one.text for one in talk.summaries.list()] == ["s"]
        assert [one.reader for one in talk.markers()] == ["r"]
        assert (talk.usage.total().input_tokens, talk.private.get("k") is not None) == (3, True)
        assert [event.index for event in talk.events(visible_to=Viewer(id="a"))] == [2]
