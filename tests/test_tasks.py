"""Tasks: who gets which, in what order, once; what waits for what; what a crash between two steps leaves."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from agentkeep import Conflict, Invalid, NotFound, Store, Task, TooLarge, Unavailable
from agentkeep.features.claims import Claimable, claimed, is_claimable, is_held, released, renewed
from agentkeep.features.tasks import rules
from agentkeep.ids import HOUR, SECOND, to_datetime
from agentkeep.keys import partition
from agentkeep.records import record_of
from agentkeep.sync import Store as SyncStore
from agentkeep.testing.marks import case
from agentkeep.testing.values import DOCUMENTS, SEPARATED, STRINGS, SYNTAX
from agentkeep.waist import Batch, Put, Scan
from engines import Database, Meeting


def move(database: Database, micros: int) -> None:
    """Let microseconds pass."""
    database.clock.now += micros


async def titles(store: Store, **asked: Any) -> list[str]:
    return [task.title async for task in store.tasks.list(**asked)]


async def one(store: Store, **options: Any) -> Task:
    (task,) = await store.tasks.claim(worker="w", **options)
    return task


async def read(store: Store, id: str) -> Task:
    task = await store.tasks.get(id)
    assert task is not None
    return task


async def steps(store: Store, id: str) -> list[tuple[str, str | None, str]]:
    return [(change.what, change.before, change.after) async for change in store.tasks.history(id)]


# --- the rules -------------------------------------------------------------------------------------------------------


def test_a_row_is_claimable_from_the_microsecond_it_is_ready():
    assert not is_claimable(Claimable(), 10)
    assert not is_claimable(Claimable(ready_us=11), 10)
    assert is_claimable(Claimable(ready_us=10), 10)


def test_the_fence_grows_with_each_claim_and_never_falls():
    row = claimed(Claimable(ready_us=0), "a", 5)
    assert (row.fence, row.ready_us, row.worker) == (1, 5, "a")
    again = claimed(row, "b", 9)
    assert is_held(again, 2)
    assert not is_held(again, 1)
    free = released(again, None)
    assert free.fence == 2
    assert not is_held(free, 2)
    assert renewed(again, 7).ready_us == 9


def test_the_backoff_doubles_up_to_an_hour():
    assert [rules.backoff(n) // SECOND for n in (0, 1, 2, 3, 11, 13, 10_000)] == [1, 1, 2, 4, 1024, 3600, 3600]


# --- create, get, update ---------------------------------------------------------------------------------------------


async def test_what_is_created_is_read_back(store: Store, database: Database):
    due = datetime(2031, 1, 1, tzinfo=UTC)
    parent = await store.tasks.create("parent")
    made = await store.tasks.create(
        "call", id="t", description="d", priority=7, owner="ann", queue="eu", due=due, parent=parent.id,
        conversation="c", max_attempts=2, metadata={"tier": "gold"},
    )  # fmt: skip
    found = await read(store, "t")
    assert found == made
    assert (found.status, found.priority, found.owner, found.queue) == ("pending", 7, "ann", "eu")
    assert (found.due_at, found.created_us) == (due, database.clock())
    assert (found.parent, found.conversation, found.max_attempts) == (parent.id, "c", 2)
    assert found.created_at.tzinfo is not None
    assert found.updated_at == found.created_at
    assert found.leased_until is None
    assert await store.tasks.get("other") is None


async def test_a_taken_id_is_a_conflict(store: Store):
    await store.tasks.create("a", id="t")
    with pytest.raises(Conflict):
        await store.tasks.create("b", id="t")
    with pytest.raises(Conflict):
        await store.tasks.create("b", id="t", key="k")
    assert (await read(store, "t")).title == "a"


async def test_a_key_creates_one_task_however_long_ago(store: Store, database: Database):
    made = await store.tasks.create("a", key="k", metadata={"n": 1})
    move(database, 100 * HOUR)
    again = await store.tasks.create("a", key="k", metadata={"n": 1})
    assert again == made
    with pytest.raises(Conflict) as caught:
        await store.tasks.create("b", key="k", metadata={"n": 1})
    assert caught.value.reason == "once"
    assert await store.tasks.count() == (1, True)
    assert len(await store.tasks.history(made.id)) == 1


async def test_a_key_used_by_many_at_once_creates_one_task(database: Database):
    stores = [await database.open() for _ in range(6)]
    made = await asyncio.gather(*(store.tasks.create("a", key="k") for store in stores))
    assert len({task.id for task in made}) == 1
    assert await stores[0].tasks.count() == (1, True)


@pytest.mark.parametrize(
    "bad",
    [
        {"title": ""}, {"title": " \n"}, {"title": 5}, {"id": ""}, {"id": 5}, {"priority": 101}, {"priority": 1.5},
        {"priority": True}, {"owner": ""}, {"owner": 5}, {"queue": ""}, {"due": 5}, {"due": datetime(2031, 1, 1)},
        {"parent": ""}, {"dependencies": "t"}, {"dependencies": [""]}, {"dependencies": [5]}, {"conversation": ""},
        {"dependencies": [str(n) for n in range(101)]}, {"max_attempts": 0}, {"max_attempts": 1_001}, {"key": ""},
        {"metadata": [1]}, {"metadata": {"a": math.nan}}, {"metadata": {1: 2}}, {"description": 5},
        {"key": "k", "metadata": {"a": object()}}, {"id": "x", "dependencies": ["x"]},
    ],
)  # fmt: skip
async def test_bad_input_is_refused_and_nothing_is_written(store: Store, bad: dict[str, Any]):
    with pytest.raises(Invalid):
        await store.tasks.create(**{"title": "a", **bad})
    assert await store.tasks.count() == (0, True)


async def test_too_long_names_are_refused_and_long_ids_are_not(store: Store):
    for bad in ({"queue": "q" * 129}, {"owner": "\U0001f600" * 33}):
        with pytest.raises(TooLarge):
            await store.tasks.create("a", **bad)
    assert await store.tasks.count() == (0, True)
    long = "\U0001f600" * 5_000
    await store.tasks.create("a", id=long, conversation=long, owner="\U0001f600" * 32)
    await store.tasks.create("b", parent=long, dependencies=[long])
    assert await titles(store, conversation=long) == ["a"]
    assert await titles(store, parent=long) == ["b"]
    task = await one(store)
    assert task.id == long
    await store.tasks.complete(task.id, task.fence)
    assert (await one(store)).title == "b"


async def test_unknown_tasks_are_not_found(store: Store):
    for call in (
        store.tasks.update("x", title="y"), store.tasks.claim_one("x", worker="w"), store.tasks.renew("x", 1),
        store.tasks.complete("x", 1), store.tasks.fail("x", 1, "e"), store.tasks.release("x", 1),
        store.tasks.cancel("x"), store.tasks.requeue("x"), store.tasks.create("a", parent="x"),
        store.tasks.create("a", dependencies=["x"]),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            await call
    task = await store.tasks.create("a")
    with pytest.raises(NotFound):
        await store.tasks.update(task.id, dependencies=["x"])
    assert await store.tasks.count() == (1, True)
    assert list(await store.tasks.history("x")) == []


async def test_update_changes_what_is_given_and_merges_metadata(store: Store):
    task = await store.tasks.create("a", owner="ann", metadata={"x": 1, "y": 2})
    due = datetime(2032, 1, 1, tzinfo=UTC)
    new = await store.tasks.update(
        task.id, title="b", owner=None, priority=3, queue="q", due=due, conversation="c", description="d",
        max_attempts=9, metadata={"x": None, "z": 3}, by="bob",
    )  # fmt: skip
    assert new == await read(store, task.id)
    assert (new.title, new.owner, new.priority, new.queue, new.due_at) == ("b", None, 3, "q", due)
    assert (new.conversation, new.description, new.max_attempts, new.metadata) == ("c", "d", 9, {"y": 2, "z": 3})
    assert await titles(store, conversation="c") == ["b"]
    assert await titles(store, owner="ann") == []
    (_, change) = await store.tasks.history(task.id)
    assert (change.what, change.by, change.number) == ("update", "bob", 2)
    assert change.note == "title, description, priority, owner, queue, due, conversation, max_attempts, metadata"
    assert await store.tasks.update(task.id, title="b") == new
    assert len(await store.tasks.history(task.id)) == 2
    for bad in ({"title": ""}, {"priority": 500}, {"metadata": {"a": math.nan}}, {"due": 5}):
        with pytest.raises(Invalid):
            await store.tasks.update(task.id, **bad)
    assert await read(store, task.id) == new


@case("C7")
async def test_updates_at_once_are_all_kept(database: Database):
    stores = [await database.open() for _ in range(4)]
    task = await stores[0].tasks.create("a")
    await asyncio.gather(
        *(stores[n % 4].tasks.update(task.id, metadata={f"n{n}": n}) for n in range(20)),
        stores[0].tasks.update(task.id, priority=5),
    )
    found = await read(stores[1], task.id)
    assert found.metadata == {f"n{n}": n for n in range(20)}
    assert found.priority == 5
    assert len(await stores[0].tasks.history(task.id)) == 22


# --- lists -----------------------------------------------------------------------------------------------------------


async def test_lists_go_by_index(store: Store, database: Database):
    parent = await store.tasks.create("p", id="p", queue="other")
    for n in range(6):
        move(database, SECOND)
        await store.tasks.create(
            f"t{n}", queue="qa" if n % 2 else "qb", owner="ann" if n < 3 else "bob",
            conversation="c" if n > 1 else None, parent=parent.id if n == 4 else None, metadata={"n": n},
            due=to_datetime(database.clock() + (10 - n) * HOUR),
        )  # fmt: skip
    await store.tasks.cancel((await store.tasks.list(queue="qa"))[0].id)
    assert await titles(store, queue="qa") == ["t5", "t3", "t1"]
    assert await titles(store, queue="qa", status="pending") == ["t3", "t1"]
    assert await titles(store, owner="ann") == ["t2", "t1", "t0"]
    assert await titles(store, owner="bob", queue="qb") == ["t4"]
    assert await titles(store, conversation="c") == ["t5", "t4", "t3", "t2"]
    assert await titles(store, conversation="c", status="cancelled") == ["t5"]
    assert await titles(store, parent="p") == ["t4"]
    assert await titles(store, status="pending", owner="ann") == ["t2", "t1", "t0"]
    assert await titles(store, status="pending") == ["p", "t4", "t3", "t2", "t1", "t0"]
    assert await titles(store, metadata={"n": {"ge": 4}}, conversation="c") == ["t5", "t4"]
    assert sorted(await titles(store)) == ["p", "t0", "t1", "t2", "t3", "t4", "t5"]
    now = database.clock()
    before = to_datetime(now + 8 * HOUR)
    assert await titles(store, due_before=before) == ["p", "t4", "t3", "t2"]
    assert await titles(store, due_after=to_datetime(now), due_before=before, queue="qa") == ["t3"]
    assert await titles(store, due_before=before, status="cancelled") == ["t5"]
    assert await store.tasks.count(queue="qa") == (3, True)
    assert await store.tasks.count(queue="qa", status="pending") == (2, True)
    assert await store.tasks.count(due_before=before) == (4, True)
    assert await store.tasks.count(owner="ann", budget=1) == (1, False)
    page = await store.tasks.list(queue="qa", limit=2)
    rest = await store.tasks.list(queue="qa", limit=2, after=page.cursor)
    assert [task.title for task in (*page, *rest)] == ["t5", "t3", "t1"]
    with pytest.raises(Invalid):
        await store.tasks.list(status="lost")  # type: ignore[arg-type]


# --- claims ----------------------------------------------------------------------------------------------------------


async def test_claims_go_by_priority_then_by_due_time(store: Store, database: Database):
    now = database.clock()
    for title, priority, due in (("d", 0, -5), ("b", 5, -1), ("a", 5, -9), ("c", 1, 0), ("e", -3, -99), ("x", 9, 60)):
        await store.tasks.create(title, priority=priority, due=to_datetime(now + due * SECOND))
    assert [task.title for task in await store.tasks.claim(worker="w", limit=3)] == ["a", "b", "c"]
    assert [task.title for task in await store.tasks.claim(worker="w", limit=3)] == ["d", "e"]
    assert await store.tasks.claim(worker="w") == []
    move(database, 59 * SECOND)
    assert await store.tasks.claim(worker="w") == []
    move(database, SECOND)
    assert (await one(store)).title == "x"


async def test_tasks_that_are_not_due_do_not_hide_those_of_lower_priority(store: Store, database: Database):
    later = to_datetime(database.clock() + HOUR)
    for n in range(80):
        await store.tasks.create(f"later{n}", priority=3 + n % 2, due=later)
    await store.tasks.create("held", priority=3)
    await store.tasks.create("low", priority=-7)
    await store.tasks.create("lower", priority=-8)
    assert (await one(store)).title == "held"
    assert [task.title for task in await store.tasks.claim(worker="w", limit=50)] == ["low", "lower"]
    assert await store.tasks.claim(worker="w") == []


async def test_a_claim_reads_no_further_into_a_level_that_is_not_due(
    store: Store, database: Database, monkeypatch: pytest.MonkeyPatch
):
    later = to_datetime(database.clock() + HOUR)
    for n in range(200):
        await store.tasks.create(f"later{n}", priority=3, due=later)
    await store.tasks.create("low")
    await store.tasks.settle()
    scans: list[Scan] = []
    scan_rows = store.scan_rows

    async def counted(scan: Scan) -> Any:
        scans.append(scan)
        return await scan_rows(scan)

    monkeypatch.setattr(store, "scan_rows", counted)
    assert (await one(store)).title == "low"
    assert len([scan for scan in scans if scan.index == "ready"]) == 2


async def test_queues_are_apart(store: Store):
    await store.tasks.create("a", queue="q")
    assert await store.tasks.claim(worker="w") == []
    assert await store.tasks.claim("q:", worker="w") == []
    assert (await store.tasks.claim("q", worker="w"))[0].title == "a"


@case("C6")
async def test_many_at_once_get_each_task_once(database: Database):
    stores = [await database.open() for _ in range(8)]
    for n in range(40):
        await stores[0].tasks.create(str(n))

    async def drain(number: int) -> list[str]:
        got: list[str] = []
        while found := await stores[number].tasks.claim(worker=f"w{number}", limit=1 + number % 3):
            for task in found:
                got.append(task.title)
                await stores[number].tasks.complete(task.id, task.fence, number)
        return got

    got = [title for some in await asyncio.gather(*map(drain, range(8))) for title in some]
    assert sorted(got) == sorted(str(n) for n in range(40))
    assert await stores[0].tasks.count(status="done") == (40, True)


@case("C6")
def test_threads_get_each_task_once(database: Database):
    got: list[str] = []
    with SyncStore.on(database.engine(), clock=database.clock) as store:
        for n in range(40):
            store.tasks.create(str(n))

        def drain(name: str) -> None:
            while found := store.tasks.claim(worker=name):
                got.append(found[0].title)
                store.tasks.complete(found[0].id, found[0].fence)

        threads = [threading.Thread(target=drain, args=(f"w{n}",)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.tasks.count(status="done") == (40, True)
    assert sorted(got) == sorted(str(n) for n in range(40))


_WORKER = """
import asyncio, sys
from agentkeep import Store
async def main():
    async with Store.open(sys.argv[1]) as store:
        while found := await store.tasks.claim(worker=sys.argv[2], lease=300):
            for task in found:
                await store.tasks.complete(task.id, task.fence, sys.argv[2])
                print(task.id, flush=True)
asyncio.run(main())
"""


@case("C6")
async def test_eight_processes_drain_two_hundred_tasks_each_once(database: Database):
    store = await database.open()
    for n in range(200):
        await store.tasks.create("t", id=f"{n}")
    if not store.engine.capabilities.shared:  # rows of one process: eight stores drain them
        others = [await database.open() for _ in range(8)]
        done = [one for some in await asyncio.gather(*(drained(other) for other in others)) for one in some]
    else:
        command = [sys.executable, "-c", _WORKER, database.url]
        running = [subprocess.Popen([*command, f"w{n}"], stdout=subprocess.PIPE, text=True) for n in range(8)]
        told = [process.communicate(timeout=200)[0] for process in running]
        assert [process.returncode for process in running] == [0] * 8
        done = [id for text in told for id in text.split()]
    assert sorted(done) == sorted(str(n) for n in range(200))
    async for task in store.tasks.list(queue="default"):
        assert (task.status, task.fence, task.attempts) == ("done", 1, 1)
        assert await steps(store, task.id) == [
            ("create", None, "pending"), ("claim", "pending", "running"), ("complete", "running", "done")
        ]  # fmt: skip


async def drained(store: Store) -> list[str]:
    done: list[str] = []
    while found := await store.tasks.claim(worker="w"):
        await store.tasks.complete(found[0].id, found[0].fence)
        done.append(found[0].id)
    return done


@case("C6")
async def test_an_expired_lease_is_claimed_again_and_the_late_worker_is_refused(store: Store, database: Database):
    await store.tasks.create("a", id="t")
    late = await one(store, lease=10)
    assert late.leased_until == to_datetime(database.clock() + 10 * SECOND)
    move(database, 10 * SECOND - 1)
    assert await store.tasks.claim(worker="other") == []
    with pytest.raises(Conflict):
        await store.tasks.claim_one("t", worker="other")
    move(database, 1)
    new = await one(store, lease=10)
    assert (new.id, new.fence, new.attempts) == ("t", late.fence + 1, 2)
    for call in (
        store.tasks.complete("t", late.fence, "late"), store.tasks.fail("t", late.fence, "late"),
        store.tasks.renew("t", late.fence), store.tasks.release("t", late.fence),
    ):  # fmt: skip
        with pytest.raises(Conflict, match=f"fence {late.fence}") as caught:
            await call
        assert caught.value.reason == "fence"
    await store.tasks.complete("t", new.fence, "ok")
    assert (await read(store, "t")).result == "ok"


@case("C6")
async def test_a_clock_that_is_ahead_makes_no_two_holders(database: Database):
    ahead = await database.open(clock=lambda: database.clock() + HOUR)
    store = await database.open()
    await store.tasks.create("a", id="t")
    first = await one(store, lease=60)
    second = (await ahead.tasks.claim(worker="ahead"))[0]
    assert second.fence > first.fence
    with pytest.raises(Conflict):
        await store.tasks.complete("t", first.fence)
    await ahead.tasks.complete("t", second.fence)


async def test_a_holder_whose_lease_ended_unclaimed_still_holds_it(store: Store, database: Database):
    await store.tasks.create("a", id="t")
    task = await one(store, lease=1)
    move(database, HOUR)
    task = await store.tasks.renew("t", task.fence, lease=5)
    assert await store.tasks.claim(worker="other") == []
    move(database, HOUR)
    assert (await store.tasks.complete("t", task.fence)).status == "done"


async def test_renewing_prolongs_and_never_shortens_a_lease(store: Store, database: Database):
    await store.tasks.create("a", id="t")
    task = await one(store, lease=100)
    assert (await store.tasks.renew("t", task.fence, lease=1)).leased_until == task.leased_until
    move(database, 99 * SECOND)
    await store.tasks.renew("t", task.fence, lease=100)
    move(database, 99 * SECOND)
    assert await store.tasks.claim(worker="other") == []
    assert [what for what, _, _ in await steps(store, "t")] == ["create", "claim"]


async def test_a_claim_that_changed_meanwhile_is_won_by_the_next_round(database: Database):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Meeting:
        meeting.append(Meeting(engine, "commit", "task"))
        return meeting[0]

    store, other = await database.open(wrap=wrap), await database.open()
    await other.tasks.create("a", id="t")
    meeting[0].meet = lambda: other.tasks.update("t", metadata={"x": 1})
    task = await one(store)
    assert (task.status, task.metadata) == ("running", {"x": 1})


async def test_claiming_by_id(store: Store, database: Database):
    await store.tasks.create("a", id="t", due=to_datetime(database.clock() + HOUR))
    with pytest.raises(Conflict, match="not due"):
        await store.tasks.claim_one("t", worker="w")
    move(database, HOUR)
    task = await store.tasks.claim_one("t", worker="w")
    await store.tasks.complete("t", task.fence)
    with pytest.raises(Conflict) as caught:
        await store.tasks.claim_one("t", worker="w")
    assert caught.value.reason == "status"


@pytest.mark.parametrize(
    "bad",
    [
        {"queue": ""}, {"queue": 5}, {"worker": ""}, {"worker": 5}, {"limit": 0}, {"limit": 101}, {"limit": True},
        {"lease": 0}, {"lease": -1}, {"lease": math.nan}, {"lease": math.inf}, {"lease": "5"}, {"lease": 10**9},
    ],
)  # fmt: skip
async def test_a_bad_claim_is_refused(store: Store, bad: dict[str, Any]):
    await store.tasks.create("a", id="t")
    with pytest.raises(Invalid):
        await store.tasks.claim(**{"worker": "w", **bad})
    assert (await read(store, "t")).status == "pending"


# --- the end of work -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [*DOCUMENTS, 1, 1.0, True, "\ud800", ["\x00"]])
async def test_a_result_is_any_json(store: Store, result: Any):
    await store.tasks.create("a", id="t")
    task = await one(store)
    await store.tasks.complete("t", task.fence, result)
    found = (await read(store, "t")).result
    assert found == result
    assert type(found) is type(result)


async def test_a_result_that_json_would_change_is_refused(store: Store):
    await store.tasks.create("a", id="t")
    task = await one(store)
    for bad in (math.nan, {"a": (1, 2)}, b"x", object()):
        with pytest.raises(Invalid):
            await store.tasks.complete("t", task.fence, bad)
    assert (await read(store, "t")).status == "running"


async def test_large_tasks_are_claimed_and_finished_and_leave_no_body(store: Store):
    for n in range(3):
        await store.tasks.create("a", id=f"t{n}", description="x" * 400_000)
    for task in await store.tasks.claim(worker="w", limit=3):
        await store.tasks.complete(task.id, task.fence, "y" * 300_000)
        assert (await read(store, task.id)).result == "y" * 300_000
        assert await store.collect(partition(task.id)) == 0
    assert await store.blobs.orphans(store.clock() + 1, 100) == []


async def test_completing_twice_is_once_and_only_with_the_same_result(store: Store):
    await store.tasks.create("a", id="t")
    task = await one(store)
    done = await store.tasks.complete("t", task.fence, {"x": 1})
    assert await store.tasks.complete("t", task.fence, {"x": 1}) == done
    with pytest.raises(Conflict):
        await store.tasks.complete("t", task.fence, {"x": 2})
    with pytest.raises(Conflict):
        await store.tasks.fail("t", task.fence, "e")
    assert len(await steps(store, "t")) == 3


async def test_completing_without_holding_the_claim_is_refused(store: Store):
    await store.tasks.create("a", id="t")
    with pytest.raises(Conflict) as caught:
        await store.tasks.complete("t", 1)
    assert caught.value.reason == "fence"
    for bad in (0, -1, None, "1", True):
        with pytest.raises(Invalid):
            await store.tasks.complete("t", bad)  # type: ignore[arg-type]
    assert (await read(store, "t")).status == "pending"


async def test_failures_are_retried_with_backoff_and_end_dead(store: Store, database: Database):
    await store.tasks.create("a", id="t", max_attempts=3)
    for wait in (1, 2):
        task = await one(store)
        failed = await store.tasks.fail("t", task.fence, f"e{wait}")
        assert (failed.status, failed.error, failed.worker) == ("pending", f"e{wait}", None)
        move(database, wait * SECOND - 1)
        assert await store.tasks.claim(worker="w") == []
        move(database, 1)
    task = await one(store)
    assert task.attempts == 3
    dead = await store.tasks.fail("t", task.fence, "e3")
    assert (dead.status, dead.error) == ("dead", "e3")
    move(database, HOUR)
    assert await store.tasks.claim(worker="w") == []
    assert await titles(store, status="dead") == ["a"]
    back = await store.tasks.requeue("t", by="ann")
    assert (back.status, back.attempts, back.error) == ("pending", 0, None)
    again = await one(store)
    assert again.fence == task.fence + 1
    assert (await steps(store, "t"))[-3:] == [
        ("fail", "running", "dead"), ("requeue", "dead", "pending"), ("claim", "pending", "running")
    ]  # fmt: skip


async def test_retry_in_and_no_retry(store: Store, database: Database):
    await store.tasks.create("a", id="t")
    task = await one(store)
    assert (await store.tasks.fail("t", task.fence, "e", retry_in=0)).status == "pending"
    task = await one(store)
    await store.tasks.fail("t", task.fence, "e", retry_in=90)
    move(database, 89 * SECOND)
    assert await store.tasks.claim(worker="w") == []
    move(database, SECOND)
    task = await one(store)
    for bad in (-1, math.nan, math.inf, "1", True):
        with pytest.raises(Invalid):
            await store.tasks.fail("t", task.fence, "e", retry_in=bad)  # type: ignore[arg-type]
    with pytest.raises(Invalid):
        await store.tasks.fail("t", task.fence, "")
    assert (await store.tasks.fail("t", task.fence, "no", retry=False)).status == "failed"
    with pytest.raises(Conflict):
        await store.tasks.cancel("t")


async def test_workers_that_do_not_come_back_use_up_the_attempts(store: Store, database: Database):
    await store.tasks.create("a", id="t", max_attempts=2)
    for _ in range(2):
        await one(store, lease=1)
        move(database, SECOND)
    assert await store.tasks.claim(worker="w") == []
    dead = await read(store, "t")
    assert (dead.status, dead.worker) == ("dead", None)
    assert "did not come back" in (dead.error or "")
    assert (await steps(store, "t"))[-1] == ("lost", "running", "dead")
    await store.tasks.requeue("t")
    assert (await one(store)).attempts == 1


async def test_a_task_given_back_is_ready_and_its_attempt_does_not_count(store: Store):
    await store.tasks.create("a", id="t", max_attempts=1)
    for fence in (1, 2, 3):
        task = await one(store)
        assert (task.fence, task.attempts) == (fence, 1)
        await store.tasks.release("t", fence)
    with pytest.raises(Conflict):
        await store.tasks.complete("t", 3)


@case("C6")
async def test_a_cancelled_task_refuses_its_workers_result(store: Store):
    await store.tasks.create("a", id="t")
    task = await one(store)
    assert (await store.tasks.cancel("t", by="ann")).status == "cancelled"
    assert (await store.tasks.cancel("t")).status == "cancelled"
    with pytest.raises(Conflict, match="fence"):
        await store.tasks.complete("t", task.fence)
    await store.tasks.requeue("t")
    with pytest.raises(Conflict):
        await store.tasks.requeue("t")
    with pytest.raises(Conflict):
        await store.tasks.complete("t", task.fence)
    task = await one(store)
    await store.tasks.complete("t", task.fence)
    for call in (store.tasks.cancel("t"), store.tasks.requeue("t")):
        with pytest.raises(Conflict):
            await call


async def test_history_says_who_what_when(store: Store, database: Database):
    await store.tasks.create("a", id="t", by="ann")
    move(database, SECOND)
    (task,) = await store.tasks.claim(worker="w1")
    await store.tasks.fail("t", task.fence, "broken", retry_in=0)
    (task,) = await store.tasks.claim(worker="w2")
    await store.tasks.complete("t", task.fence)
    changes = list(await store.tasks.history("t"))
    assert [change.number for change in changes] == [1, 2, 3, 4, 5]
    assert [change.by for change in changes] == ["ann", "w1", "w1", "w2", "w2"]
    assert [change.fence for change in changes] == [0, 1, 1, 2, 2]
    assert changes[2].note == "broken"
    assert changes[1].at == to_datetime(database.clock())
    page = await store.tasks.history("t", limit=2)
    assert [change.number for change in await store.tasks.history("t", limit=9, after=page.cursor)] == [3, 4, 5]


# --- dependencies ----------------------------------------------------------------------------------------------------


async def finish(store: Store, id: str) -> None:
    task = await store.tasks.claim_one(id, worker="w")
    await store.tasks.complete(id, task.fence)


async def waiting(store: Store) -> int:
    """Rows that say who waits, and marks of steps to be done."""
    rows = await store.scan_rows(Scan("task_dependent"))
    marks = await store.scan(Task, index="unsettled", prefix=(True,))
    return len(rows) + len(marks)


async def test_a_task_waits_for_all_that_it_depends_on(store: Store):
    for id in ("a", "b", "done"):
        await store.tasks.create(id, id=id, queue="first")
    await finish(store, "done")
    task = await store.tasks.create("c", dependencies=["a", "b", "done", "a"])
    assert task.dependencies == ("a", "b", "done")
    assert task.unmet == ("a", "b")
    assert await store.tasks.claim(worker="w") == []
    with pytest.raises(Conflict):
        await store.tasks.claim_one(task.id, worker="w")
    await finish(store, "a")
    assert await store.tasks.claim(worker="w") == []
    await finish(store, "b")
    assert (await one(store)).title == "c"
    assert await waiting(store) == 0
    assert ("ready", "pending", "pending") in await steps(store, task.id)


async def test_what_waits_for_nothing_open_is_ready_at_once(store: Store):
    await store.tasks.create("a", id="a")
    await finish(store, "a")
    await store.tasks.create("b", dependencies=["a"])
    assert (await one(store)).title == "b"


async def test_dead_and_cancelled_tasks_keep_others_waiting_until_they_are_done(store: Store):
    await store.tasks.create("a", id="a")
    await store.tasks.create("b", id="b", dependencies=["a"])
    await store.tasks.cancel("a")
    assert await store.tasks.claim(worker="w") == []
    await store.tasks.requeue("a")
    await store.tasks.cancel("b")
    await finish(store, "a")
    assert await store.tasks.claim(worker="w") == []
    await store.tasks.requeue("b")
    assert (await one(store)).id == "b"


async def test_many_wait_for_one(store: Store):
    await store.tasks.create("a", id="a", queue="first")
    for n in range(100):
        await store.tasks.create(str(n), dependencies=["a"])
    await finish(store, "a")
    assert len(await store.tasks.claim(worker="w", limit=100)) == 100
    assert await waiting(store) == 0


async def test_dependencies_change_while_a_task_is_pending(store: Store):
    for id in ("a", "b", "c"):
        await store.tasks.create(id, id=id, queue="first")
    await store.tasks.create("t", id="t", dependencies=["a"])
    task = await store.tasks.update("t", dependencies=["b", "c"])
    assert (task.dependencies, task.unmet, task.unsettled) == (("b", "c"), ("b", "c"), None)
    await finish(store, "b")
    await finish(store, "a")
    assert (await read(store, "t")).unmet == ("c",)
    await store.tasks.update("t", dependencies=[])
    task = await one(store)
    with pytest.raises(Conflict):
        await store.tasks.update("t", dependencies=["c"])
    await store.tasks.complete("t", task.fence)
    await finish(store, "c")
    assert (await read(store, "t")).status == "done"
    assert await waiting(store) == 0


async def test_a_cycle_is_refused_and_changes_nothing(store: Store):
    await store.tasks.create("a", id="a")
    await store.tasks.create("b", id="b", dependencies=["a"])
    await store.tasks.create("c", id="c", dependencies=["b"])
    before = await read(store, "a")
    for bad in (["c"], ["b"], ["a"]):
        with pytest.raises(Invalid, match="waits for this task"):
            await store.tasks.update("a", dependencies=bad)
    assert await read(store, "a") == before
    await finish(store, "a")
    await store.tasks.update("b", dependencies=[])


async def test_a_walk_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("agentkeep.features.tasks.dependencies.MAX_WALK", 5)
    await store.tasks.create("0", id="0")
    for n in range(1, 8):
        await store.tasks.create(str(n), id=str(n), dependencies=[str(n - 1)])
    await store.tasks.create("t", id="t")
    with pytest.raises(Invalid, match="more than 5 tasks"):
        await store.tasks.update("t", dependencies=["7"])
    assert (await one(store)).id == "0"


async def test_two_that_close_a_cycle_at_once_do_not_both_succeed(database: Database):
    store, other = await database.open(), await database.open()
    for round in range(5):
        a, b = f"a{round}", f"b{round}"
        await store.tasks.create(a, id=a)
        await store.tasks.create(b, id=b)
        answers = await asyncio.gather(
            store.tasks.update(a, dependencies=[b]), other.tasks.update(b, dependencies=[a]), return_exceptions=True
        )
        assert any(isinstance(answer, Invalid) for answer in answers)
        assert not ((await read(store, a)).unmet and (await read(store, b)).unmet)
        for _ in range(2):
            task = await one(store)
            await store.tasks.complete(task.id, task.fence)
    assert await waiting(store) == 0


def broken(monkeypatch: pytest.MonkeyPatch, store: Store, fails: Any) -> None:
    """Let commits fail whose partition and ops a predicate names, as if the process had died before them."""
    commit = store.commit

    async def cut(partition: str, ops: Any, **options: Any) -> Any:
        if fails(partition, ops):
            raise Unavailable("cut", retryable=False)
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", cut)


@pytest.mark.parametrize("step", ["edge", "mark"])
async def test_a_creation_that_broke_off_is_finished_by_the_next_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str
):
    store = await database.open()
    await store.tasks.create("a", id="a", queue="first")
    await store.tasks.create("b", id="b", queue="first")
    made: list[bool] = []

    def fails(place: str, ops: Any) -> bool:
        made.append(place == "t")
        return any(op.kind == "task_dependent" for op in ops) if step == "edge" else place == "t" and len(made) > 1

    broken(monkeypatch, store, fails)
    with pytest.raises(Unavailable) as caught:
        await store.tasks.create("t", id="t", dependencies=["a", "b"], key="k")
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    assert (await read(store, "t")).unsettled
    await finish(store, "a")
    assert await store.tasks.claim(worker="w") == []
    again = await store.tasks.create("t", id="t", dependencies=["a", "b"], key="k")
    assert (again.unsettled, again.unmet) == (None, ("b",))
    await finish(store, "b")
    assert (await one(store)).id == "t"
    assert await waiting(store) == 0


@pytest.mark.parametrize("step", ["meet", "edges", "mark"])
async def test_a_completion_that_broke_off_is_finished_by_the_next_claim(
    database: Database, monkeypatch: pytest.MonkeyPatch, step: str
):
    store, other = await database.open(), await database.open()
    await store.tasks.create("a", id="a", queue="first")
    for n in range(3):
        await store.tasks.create("t", id=f"t{n}", dependencies=["a"])
    task = await store.tasks.claim_one("a", worker="w")
    seen: list[str] = []

    def fails(place: str, ops: Any) -> bool:
        seen.append(place)
        if step == "meet":
            return place == "t1"
        if step == "edges":
            return any(op.kind == "task_dependent" for op in ops)
        return place == "a" and len(seen) > 5

    broken(monkeypatch, store, fails)
    with pytest.raises(Unavailable) as caught:
        await store.tasks.complete("a", task.fence, 1)
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    assert (await read(store, "a")).status == "done"
    assert len(await other.tasks.claim(worker="w", limit=9)) == 3
    assert await other.tasks.settle() == 0
    assert (await store.tasks.complete("a", task.fence, 1)).unsettled is None
    assert await waiting(store) == 0


@pytest.mark.parametrize("operation", ["get", "commit"])
@pytest.mark.parametrize("kind", ["task", "task_dependent"])
@pytest.mark.parametrize("followed", [False, True])
async def test_a_dependency_done_while_it_is_tied_is_not_missed(
    database: Database, operation: str, kind: str, followed: bool
):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Meeting:
        meeting.append(Meeting(engine, operation, kind))
        return meeting[0]

    store, other = await database.open(wrap=wrap), await database.open()
    await other.tasks.create("a", id="a", queue="first")
    if followed:
        await other.tasks.create("before", queue="second", dependencies=["a"])
    meeting[0].meet = lambda: finish(other, "a")
    await store.tasks.create("t", dependencies=["a"])
    if (await read(other, "a")).status != "done":
        await finish(other, "a")
    assert (await one(store)).title == "t"
    assert await waiting(store) == 0


async def test_what_another_adds_and_leaves_untied_is_tied_too(database: Database, monkeypatch: pytest.MonkeyPatch):
    meeting: list[Meeting] = []

    def wrap(engine: Any) -> Meeting:
        meeting.append(Meeting(engine, "commit", "task_dependent"))
        return meeting[0]

    store, other = await database.open(wrap=wrap), await database.open()
    for id in ("a", "b"):
        await other.tasks.create(id, id=id, queue="first")
    await other.tasks.create("t", id="t")
    broken(monkeypatch, other, lambda place, ops: any(op.kind == "task_dependent" for op in ops))

    async def leave() -> None:
        with pytest.raises(Unavailable):
            await other.tasks.update("t", dependencies=["a", "b"])

    meeting[0].meet = leave
    task = await store.tasks.update("t", dependencies=["a"])
    monkeypatch.undo()
    assert (task.unmet, task.unsettled) == (("a", "b"), None)
    for id in ("a", "b"):
        assert await store.tasks.claim(worker="w") == []
        await finish(store, id)
    assert (await one(store)).id == "t"
    assert await waiting(store) == 0


async def test_a_cycle_that_an_update_left_when_it_broke_off_is_dropped(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    store = await database.open()
    for id in ("a", "b"):
        await store.tasks.create(id, id=id)
    broken(monkeypatch, store, lambda place, ops: any(op.kind == "task_dependent" for op in ops))
    for id, on in (("a", "b"), ("b", "a")):
        monkeypatch.setattr("agentkeep.features.tasks.tasks.leads_to", never)
        with pytest.raises(Unavailable):
            await store.tasks.update(id, dependencies=[on])
        monkeypatch.setattr("agentkeep.features.tasks.dependencies.leads_to", never)
    monkeypatch.undo()
    first = await one(store)
    assert "refuse" in [what for what, _, _ in await steps(store, first.id)]
    await store.tasks.complete(first.id, first.fence)
    assert len(await store.tasks.claim(worker="w")) == 1


async def never(*_: object) -> bool:
    return False


# --- hostile values, tenants, damage ---------------------------------------------------------------------------------


@case("F1", "F2", "S2", "S5")
async def test_any_text_is_an_id_a_queue_and_a_name(store: Store):
    texts = [text for text in dict.fromkeys([*STRINGS, *SYNTAX, *(a + b for a, b in SEPARATED)]) if text]
    for text in texts:
        await store.tasks.create(f"t{text}", id=text, queue=text, owner=text, conversation=text, metadata={"v": text})
    for text in texts:
        assert await titles(store, owner=text) == [f"t{text}"]
        assert await titles(store, conversation=text) == [f"t{text}"]
        assert await titles(store, metadata={"v": text}, queue=text) == [f"t{text}"]
        (task,) = await store.tasks.claim(text, worker=text, limit=9)
        assert (task.id, task.worker) == (text, text)
        await store.tasks.complete(text, task.fence, text)


@case("S7", "C3")
async def test_tenants_are_apart(database: Database):
    store = await database.open(tenants="required")
    a, b = store.scope("a"), store.scope("b")
    await a.tasks.create("first", id="x")
    await a.tasks.create("t", id="t", key="k", dependencies=["x"])
    assert await b.tasks.get("t") is None
    assert await b.tasks.claim(worker="w") == []
    with pytest.raises(NotFound):
        await b.tasks.create("u", dependencies=["x"])
    await b.tasks.create("other", id="t", key="k")
    assert await b.tasks.settle() == 0
    assert [task.title for task in await b.tasks.claim(worker="w", limit=9)] == ["other"]
    assert sorted(await titles(a, queue="default")) == ["first", "t"]
    with pytest.raises(Invalid):
        await store.tasks.list(queue="default")


@case("C9")
async def test_a_damaged_task_stands_in_nobodys_way(store: Store):
    await store.tasks.create("a", id="a")
    await store.tasks.create("b", id="b")
    spec = record_of(Task)
    junk = Put("task", "", b"junk", spec.index(await read(store, "a")))
    await store.connection.raw.commit([Batch("a", (junk,), store.ids())])
    assert [task.id for task in await store.tasks.claim(worker="w", limit=5)] == ["b"]
    page = await store.tasks.list(queue="default")
    assert (len(page), len(page.corrupt)) == (1, 1)


async def test_fields_of_a_newer_version_survive_a_claim(store: Store):
    task = await store.tasks.create("a", id="t")
    spec = record_of(Task)
    await store.commit("t", [spec.put(task, keep={"colour": "red"})])
    task = await one(store)
    await store.tasks.complete("t", task.fence)
    row = await store.get_row(rules.key_of("t"))
    assert row is not None
    assert spec.unknown(row) == {"colour": "red"}


async def test_due_times_before_now_are_kept(store: Store, database: Database):
    past = to_datetime(database.clock()) - timedelta(days=400)
    task = await store.tasks.create("a", due=past)
    assert task.due_at == past
    assert (await one(store)).id == task.id
