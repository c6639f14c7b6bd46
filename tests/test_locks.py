"""Leases and locks: one holder at a time by fences, late holders refused, nothing held by who was cancelled."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from agentkeep import Conflict, Conversation, Invalid, Lease, NotFound, State, Store, Unavailable
from agentkeep.layers.chaos import Chaos
from agentkeep.records import record, record_of
from agentkeep.testing.values import STRINGS, SYNTAX
from engines import Database, Script

PROCESSES, ROUNDS = 8, 12


@record("tally", partition="id")
class Tally(Struct, frozen=True, kw_only=True):
    id: str
    count: int = 0
    fences: list[int] = []


TALLY = record_of(Tally)


@pytest.fixture
async def talk(store: Store) -> Conversation:
    return await store.conversations.create("room")


async def tallied(store: Store, id: str) -> Tally:
    found = await store.get(Tally, id)
    return Tally(id=id) if found is None else found.value


async def test_a_lease_is_held_and_given_back(store: Store, talk: Conversation, database: Database):
    async with talk.lease("billing", seconds=30, renew=False) as lease:
        assert isinstance(lease, Lease)
        assert (lease.fence, lease.holder) == (1, "billing")
        assert lease.until_us == database.clock() + 30_000_000
        assert repr(lease) == "Lease('room', holder='billing', fence=1)"
        with pytest.raises(Conflict, match="billing") as caught:
            async with talk.lease("triage", renew=False):
                pass
        assert caught.value.reason == "lease"
        await talk.set_state(phase="refund", lease=lease)
        await talk.append("x", lease=lease)
        await talk.append_many(["y", "z"], lease=lease)
        await talk.handoff("next", lease=lease)
    async with talk.lease("triage", renew=False) as lease:
        assert lease.fence == 2
    for call in (lease.renew, lease.release):
        with pytest.raises(Invalid):
            await call()
    with pytest.raises(Invalid):
        lease.check()
    assert await lease.acquire() == 3
    with pytest.raises(Invalid):
        await lease.acquire()
    await lease.release()


async def test_a_late_holder_is_refused_everywhere(database: Database):
    store, other = await database.open(), await database.open()
    talk = await store.conversations.create("room")
    theirs = await other.conversations.get("room")
    assert theirs is not None
    late = talk.lease("slow", seconds=10, renew=False)
    await late.acquire()
    database.clock.move(9.9)
    with pytest.raises(Conflict):
        await theirs.lease("fast").acquire()
    database.clock.move(0.1)
    async with theirs.lease("fast", seconds=10, renew=False) as lease:
        assert lease.fence == 2
        await theirs.set_state(phase="mine", lease=lease)
        calls: list[Callable[[], Awaitable[object]]] = [
            late.renew,
            late.release,
            lambda: talk.set_state(phase="stolen", lease=late),
            lambda: talk.append("stolen", lease=late),
            lambda: talk.append_many(["stolen"], lease=late),
            lambda: talk.handoff("stolen", lease=late),
        ]
        for call in calls:
            with pytest.raises(Conflict) as caught:
                await call()
            assert caught.value.reason == "lease"
        await lease.renew()
        assert (await talk.state()).phase == "mine"
        assert await talk.length() == 0
        with pytest.raises(Conflict):
            await store.commit(talk.id, [late.check(), record_of(State).put(await talk.state())])
    with pytest.raises(Conflict):
        await late.release()


async def test_a_renewed_lease_is_kept_and_its_check_holds_through_renewals(talk: Conversation, database: Database):
    async with talk.lease("a", seconds=10, renew=False) as lease:
        check = lease.check()
        for _ in range(5):
            database.clock.move(9)
            await lease.renew()
            with pytest.raises(Conflict):
                await talk.lease("b").acquire()
        assert lease.check() == check
        database.clock.move(11)  # over, but nobody took it
        await talk.set_state(phase="x", lease=lease)
        await lease.renew()


async def test_the_background_renews_until_the_block_ends(database: Database):
    turns = 0

    async def sleep(seconds: float) -> None:
        nonlocal turns
        turns += 1
        database.clock.move(min(seconds, 1))
        await asyncio.sleep(0)

    store, other = await database.open(sleep=sleep), await database.open()
    talk = await store.conversations.create("room")
    theirs = await other.conversations.get("room")
    assert theirs is not None
    async with talk.lease("a", seconds=3) as lease:
        first = lease.until_us
        while database.clock() < first + 30_000_000:
            with pytest.raises(Conflict):
                await theirs.lease("b").acquire()
        await lease.renew()
    done = turns
    for _ in range(10):
        await asyncio.sleep(0)
    assert turns == done
    async with theirs.lease("b", renew=False) as lease:
        assert lease.fence == 2


async def test_the_end_of_a_block_says_that_the_lease_was_lost(talk: Conversation, database: Database):
    async def lose(error: Exception | None) -> None:
        async with talk.lease("a", seconds=1, wait=None, renew=False):
            database.clock.move(1)
            await talk.lease("b", seconds=1, renew=False).acquire()
            database.clock.move(1)
            if error is not None:
                raise error

    with pytest.raises(Conflict) as caught:
        await lose(None)
    assert caught.value.reason == "lease"
    with pytest.raises(ZeroDivisionError):
        await lose(ZeroDivisionError())


async def test_a_lease_waits_until_it_is_free(database: Database):
    async def sleep(seconds: float) -> None:
        database.clock.move(seconds)
        await asyncio.sleep(0)

    store = await database.open(sleep=sleep)
    talk = await store.conversations.create("room")
    await talk.lease("dead", seconds=2).acquire()
    with pytest.raises(Conflict):
        await talk.lease("a", wait=1).acquire()
    start = database.clock()
    assert await talk.lease("b", seconds=5, wait=2).acquire() == 2
    assert database.clock() - start <= 1_100_000
    assert await talk.lease("c", wait=None).acquire() == 3


async def test_a_deleted_conversation_has_no_lease_and_the_next_one_its_own(store: Store, talk: Conversation):
    held = talk.lease("a", renew=False)
    await held.acquire()
    await talk.delete()
    with pytest.raises(NotFound):
        await talk.lease("b").acquire()
    again = await store.conversations.create("room")
    async with again.lease("b", renew=False) as lease:
        for call in (held.renew, held.release, lambda: again.append("x", lease=held)):
            with pytest.raises(Conflict):
                await call()
        await again.append("x", lease=lease)
    with pytest.raises(NotFound):
        await talk.lease("b").acquire()


async def test_a_lease_is_taken_though_the_record_was_changed_by_another(database: Database):
    store, other = await database.open(), await database.open()
    talk = await store.conversations.create("room")
    theirs = await other.conversations.get("room")
    assert theirs is not None
    await talk.update(title="new")
    async with theirs.lease("a", renew=False) as lease:
        assert lease.fence == 1


async def test_a_lease_of_another_conversation_guards_nothing(store: Store, talk: Conversation):
    other = await store.conversations.create("other")
    async with other.lease("a", renew=False) as lease, store.locks.hold("l", renew=False) as lock:
        for wrong in (lease, lock):
            for call in (talk.append("x", lease=wrong), talk.set_state(phase="x", lease=wrong)):
                with pytest.raises(Invalid):
                    await call


@pytest.mark.parametrize(
    "wrong",
    [
        {"holder": ""},
        {"holder": 5},
        {"seconds": 0},
        {"seconds": -1},
        {"seconds": float("nan")},
        {"seconds": "5"},
        {"seconds": 10**9},
        {"seconds": True},
        {"wait": -1},
        {"wait": float("inf")},
    ],
)
async def test_arguments_that_are_wrong_are_invalid(store: Store, talk: Conversation, wrong: dict[str, Any]):
    with pytest.raises(Invalid):
        talk.lease(**{"holder": "a", **wrong})
    with pytest.raises(Invalid):
        store.locks.hold("a", **wrong)
    for name in ("", None, 5):
        with pytest.raises(Invalid):
            store.locks.hold(name)  # type: ignore[arg-type]


# --- locks -----------------------------------------------------------------------------------------------------------


async def test_locks_of_any_name_are_their_own(store: Store):
    odd = ["a#b", "a:b", "a/b", "a\nb", "a\0b", "\ud800", "😀", "x" * 5_000 + "a", "x" * 5_000 + "b"]
    names = [*{*STRINGS, *SYNTAX, *odd} - {""}]
    locks = [store.locks.hold(name, holder=name, wait=0, renew=False) for name in names]
    for lock in locks:
        assert await lock.acquire() == 1
    for name, lock in zip(names, locks, strict=True):
        assert await store.locks.holder(name) == name
        await lock.release()
        assert await store.locks.holder(name) is None


async def test_a_lock_named_as_a_conversation_outlives_it(store: Store, talk: Conversation):
    async with store.locks.hold("room", renew=False) as lock:
        await talk.delete()
        await lock.renew()
    async with store.locks.hold("room", renew=False) as lock:
        assert lock.fence == 2


async def test_of_many_stores_one_holds_at_a_time(database: Database):
    stores = [await database.open(records=[Tally]) for _ in range(4)]
    inside = 0

    async def count(store: Store) -> None:
        nonlocal inside
        for _ in range(6):
            async with store.locks.hold("tally", renew=False) as lock:
                inside += 1
                assert inside == 1
                old = await tallied(store, lock.partition)
                new = Tally(id=old.id, count=old.count + 1, fences=[*old.fences, lock.fence])
                await store.commit(lock.partition, [lock.check(), TALLY.put(new)])
                inside -= 1

    await asyncio.gather(*[count(store) for store in stores])
    found = await tallied(stores[0], "tally")
    assert found.count == 24
    assert found.fences == sorted(set(found.fences))


async def tally(store: Store) -> None:
    """What each process does: a counter read, and written without comparing, under a lock whose time may be over."""
    done = 0
    while done < ROUNDS:
        async with store.locks.hold("tally", seconds=5) as lock:
            old = await tallied(store, lock.partition)
            new = Tally(id=old.id, count=old.count + 1, fences=[*old.fences, lock.fence])
            await store.commit(lock.partition, [lock.check(), TALLY.put(new)])
        done += 1


async def test_of_eight_processes_one_holds_at_a_time(database: Database):
    store = await database.open(records=[Tally])
    if database.scheme == "memory":
        stores = [await database.open(records=[Tally]) for _ in range(PROCESSES)]
        await asyncio.gather(*[tally(one) for one in stores])
    else:
        command = [sys.executable, __file__, database.url]
        running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(PROCESSES)]
        for process in running:
            _, said = await asyncio.to_thread(process.communicate)
            assert process.returncode == 0, said.decode()
    found = await tallied(store, "tally")
    assert found.count == PROCESSES * ROUNDS
    assert found.fences == sorted(set(found.fences))


async def test_who_is_killed_is_succeeded_and_its_late_write_refused(database: Database):
    dead, alive = [await database.open(records=[Tally]) for _ in range(2)]
    lost = dead.locks.hold("tally", seconds=5, renew=False)
    await lost.acquire()
    await dead.commit(lost.partition, [lost.check(), TALLY.put(Tally(id="tally", count=1))])
    database.clock.move(5)
    async with alive.locks.hold("tally", wait=0, renew=False) as lock:
        await alive.commit(lock.partition, [lock.check(), TALLY.put(Tally(id="tally", count=2))])
    with pytest.raises(Conflict):
        await dead.commit(lost.partition, [lost.check(), TALLY.put(Tally(id="tally", count=9))])
    assert (await tallied(alive, "tally")).count == 2


async def test_a_renewal_that_meets_a_takeover_decides_it_for_one(database: Database):
    store, other = await database.open(), await database.open()
    for round in range(10):
        mine = store.locks.hold(f"l{round}", seconds=1, wait=0, renew=False)
        theirs = other.locks.hold(f"l{round}", seconds=1, wait=0, renew=False)
        await mine.acquire()
        database.clock.move(1)
        answers = await asyncio.gather(mine.renew(), theirs.acquire(), return_exceptions=True)
        assert [isinstance(answer, Conflict) for answer in answers].count(True) == 1, answers


# --- what breaks off -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", range(0, 60, 3))
async def test_who_is_cancelled_while_taking_it_holds_nothing(database: Database, after: int):
    store, other = await database.open(), await database.open()

    async def take() -> None:
        async with store.locks.hold("l", seconds=1_000, renew=False):
            await asyncio.sleep(3_600)

    task = asyncio.create_task(take())
    for _ in range(after):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    fence = await other.locks.hold("l", wait=0, renew=False).acquire()
    assert fence >= 1


async def test_a_cancelled_commit_is_settled_and_the_fence_goes_on(database: Database):
    cut = asyncio.Event()

    class Slow:
        def __init__(self, inner: Any) -> None:
            self.inner, self.capabilities, self.first = inner, inner.capabilities, True

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        async def commit(self, batches: Any, **options: Any) -> Any:
            answers = await self.inner.commit(batches, **options)
            if self.first and any(op.kind == "lock" for batch in batches for op in batch.ops):
                self.first = False
                cut.set()
                await asyncio.sleep(3_600)
            return answers

    store, other = await database.open(wrap=Slow), await database.open()
    await other.locks.hold("l", seconds=0.001, renew=False).acquire()
    database.clock.move(1)
    task = asyncio.create_task(store.locks.hold("l", seconds=1_000, renew=False).acquire())
    await cut.wait()
    assert await other.locks.holder("l") is not None
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await other.locks.holder("l") is None
    assert await other.locks.hold("l", wait=0, renew=False).acquire() == 3


async def test_a_cancelled_holder_gives_it_back(database: Database):
    store, other = await database.open(), await database.open()
    held = asyncio.Event()

    async def hold() -> None:
        async with store.locks.hold("l", seconds=1_000):
            held.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await held.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await other.locks.hold("l", wait=0, renew=False).acquire() == 2


async def test_answers_that_are_lost_change_nothing(database: Database):
    script = Script("commit")
    store = await database.open(wrap=lambda engine: Chaos(engine, script))
    for round in range(1, 4):
        script.set("after", "ok", "after", "ok", "after", "ok")
        async with store.locks.hold("l", renew=False) as lock:
            assert lock.fence == round
            await lock.renew()


async def test_a_database_that_is_away_is_said_and_leaves_no_lock(database: Database):
    script = Script("commit")
    store, other = await database.open(wrap=script.wrap), await database.open()
    script.set(then="before")
    with pytest.raises(Unavailable):
        await store.locks.hold("l", renew=False).acquire()
    assert await other.locks.hold("l", wait=0, renew=False).acquire() == 1


if __name__ == "__main__":

    async def main(url: str) -> None:
        async with Store.open(url, records=[Tally]) as store:
            await tally(store)

    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(main(sys.argv[1]))
