"""Many writers at once, in coroutines, threads and processes: nothing lost, nothing twice, one winner."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ...codec import decode, encode
from ...errors import Conflict
from ...waist import Append, Check, Engine, Key, Op, Put, Receipt, Scan
from ..checks import check_turns
from ..fixtures import Names
from ..marks import case, needs
from ..processes import ran
from ..schema import SCHEMA
from ..target import MovedClock, Target
from ..tasks import DOES, LEASE, Job, Task, Told, claim, finish
from ..verbs import answers, batch, commit, doc, numbers, read, rows


async def _together(engine: Engine, tasks: Sequence[Task]) -> list[Told]:
    """Workers as coroutines on one engine."""
    told: list[Told] = []
    await asyncio.gather(*(DOES[task.do](engine, task, told.append) for task in tasks))
    return told


async def _in_threads(database: Target, tasks: Sequence[Task]) -> list[Told]:
    """Workers in threads, each with its own event loop and its own engine."""

    async def one(task: Task) -> list[Told]:
        told: list[Told] = []
        engine = database.engine()
        await engine.open(SCHEMA)
        try:
            await DOES[task.do](engine, task, told.append)
        finally:
            await engine.close()
        return told

    def thread(task: Task) -> list[Told]:
        return asyncio.run(one(task))

    every = await asyncio.gather(*(asyncio.to_thread(thread, task) for task in tasks))
    return [told for some in every for told in some]


def _appenders(workers: int, count: int, *partitions: str) -> list[Task]:
    return [Task("append", worker, partitions, count) for worker in range(workers)]


@case("C1")
async def test_coroutines_append_to_one_log(engine: Engine, name: Names) -> None:
    follow = [Task("follow", 100 + n, (name("p"),), until=8 * 12 * 2) for n in range(2)]
    told = await _together(engine, [*_appenders(8, 12, name("p")), *follow])
    assert await check_turns(engine, [name("p")], told) == 8 * 12
    assert sum(one.what == "followed" for one in told) == 2


@case("C1")
async def test_coroutines_append_to_many_logs(engine: Engine, name: Names) -> None:
    partitions = [name(f"{n}") for n in range(6)]
    told = await _together(engine, _appenders(8, 12, *partitions))
    assert await check_turns(engine, partitions, told) == 8 * 12


@case("C1", "C7")
async def test_an_append_that_checks_a_row_stands_between_the_changes_it_saw(database: Target, name: Names) -> None:
    """Changes of a row are in the log too; each append that checked a rev comes after the change that made it and
    before the next one. Writers have an engine each, so that no queue of one engine puts them in order."""
    partition = name("p")
    engines = [await database.open() for _ in range(4 if database.capabilities.shared else 1)]
    made = await commit(engines[0], partition, Put("note", "r", doc(0)), Append("event", encode("change")))
    revs = [made.id]

    async def change() -> None:
        for number in range(25):
            put = Put("note", "r", doc(number), expect=revs[-1])
            revs.append((await commit(engines[0], partition, put, Append("event", encode("change")))).id)

    async def append(engine: Engine) -> int:
        done = 0
        ops: list[Op]
        while len(revs) <= 25:
            seen = revs[-1]
            ops = [Check("note", "r", seen), Append("event", encode(seen))]
            if done % 3 == 2:
                ops.append(Put("note", seen, doc(seen)))
            (answer,) = await answers(engine, batch(partition, *ops))
            assert isinstance(answer, (Receipt, Conflict)), answer
            done += isinstance(answer, Receipt)
        return done

    async with asyncio.timeout(60):
        appending = asyncio.gather(*(append(engine) for engine in engines for _ in range(2)))
        await change()
        done = await appending
    current = iter(revs)
    rev, seen = "", 0
    for row in await rows(engines[0], "event", partition, limit=1000):
        said = decode(row.doc, str)
        if said == "change":
            rev = next(current)
            assert row.rev == rev
        else:
            seen += 1
            assert said == rev, "an append stands where the row it checked was another one"
    assert seen == sum(done)


@case("C1")
async def test_calls_of_many_batches_meet_in_the_same_partitions(engine: Engine, name: Names) -> None:
    """In opposite orders, where a lock per partition would deadlock."""
    partitions = [name(f"{n}") for n in range(5)]

    async def call(worker: int) -> list[object]:
        order = partitions if worker % 2 else partitions[::-1]
        return [
            answer
            for number in range(6)
            for answer in await answers(engine, *(batch(one, Append("event", doc((worker, number)))) for one in order))
        ]

    async with asyncio.timeout(60):
        told = [answer for every in await asyncio.gather(*map(call, range(6))) for answer in every]
    refused = [answer for answer in told if not isinstance(answer, Receipt)]
    assert not refused
    for partition in partitions:
        assert await numbers(engine, "event", partition) == list(range(1, 37))


@case("C1", "C4")
@needs(shared=True)
async def test_threads_append_to_one_log(database: Target) -> None:
    engine = await database.open()
    follow = [Task("follow", 100, ("p",), until=4 * 15 * 2)]
    told = await _in_threads(database, [*_appenders(4, 15, "p"), *follow])
    assert await check_turns(engine, ["p"], told) == 4 * 15


@case("C1", "C4")
@needs(shared=True)
async def test_processes_append_to_one_log_and_readers_follow(database: Target) -> None:
    engine = await database.open()
    follow = [Task("follow", 100 + n, ("p",), until=4 * 40 * 2) for n in range(2)]
    told = await ran(database.url, [*_appenders(4, 40, "p"), *follow])
    assert await check_turns(engine, ["p"], told) == 4 * 40
    assert sum(one.what == "followed" for one in told) == 2


@case("C1", "C4")
@needs(shared=True)
async def test_eight_processes_append_to_many_logs(database: Target) -> None:
    engine = await database.open()
    partitions = [f"p{n}" for n in range(5)]
    told = await ran(database.url, _appenders(8, 20, *partitions))
    assert await check_turns(engine, partitions, told) == 8 * 20


@case("C7")
async def test_coroutines_count_by_compare_and_set_and_lose_nothing(engine: Engine, name: Names) -> None:
    await _together(engine, [Task("count", worker, (name("p"),), 10) for worker in range(6)])
    row = await read(engine, "state", name("p"), "counter")
    assert row is not None
    assert decode(row.doc, int) == 60


@case("C4", "C7")
@needs(shared=True)
async def test_processes_count_by_compare_and_set_and_lose_nothing(database: Target) -> None:
    engine = await database.open()
    told = await ran(database.url, [Task("count", worker, ("p",), 25) for worker in range(4)])
    row = await read(engine, "state", "p", "counter")
    assert row is not None
    assert decode(row.doc, int) == 100 == sum(one.what == "added" for one in told)


@case("C6")
async def test_one_of_many_creates(engine: Engine, name: Names) -> None:
    told = await _together(engine, [Task("reserve", worker, (name("p"),), 10) for worker in range(6)])
    assert sorted(one.number for one in told) == list(range(10))
    for one in told:
        row = await read(engine, "state", one.partition, "owner")
        assert row is not None
        assert (row.rev, decode(row.doc, int)) == (one.id, one.worker)


@case("C6")
@needs(shared=True)
async def test_one_of_many_processes_creates(database: Target) -> None:
    engine = await database.open()
    told = await ran(database.url, [Task("reserve", worker, ("p",), 40) for worker in range(4)])
    reserved = [one for one in told if one.what == "reserved"]
    assert sorted(one.number for one in reserved) == list(range(40))
    for one in reserved:
        row = await read(engine, "state", one.partition, "owner")
        assert row is not None
        assert decode(row.doc, int) == one.worker


async def _queue(engine: Engine, queue: str, jobs: Sequence[str]) -> None:
    for job in jobs:
        await commit(engine, job, Put("note", "job", encode(Job()), {"by_pair": (queue, 0)}, expect="absent"))


async def _each_done_once(engine: Engine, jobs: Sequence[str], told: Sequence[Told]) -> None:
    claimed = sorted(one.partition for one in told if one.what == "claimed")
    assert claimed == sorted(jobs), "a job was claimed twice, or never"
    for job in jobs:
        row = await read(engine, "note", job, "job")
        assert row is not None
        found = decode(row.doc, Job)
        assert (found.fence, found.finished) == (1, True)
        assert [decode(row.doc, Job) for row in await rows(engine, "event", job)] == [found]


@case("C6")
async def test_each_job_has_one_winner_among_coroutines(engine: Engine, name: Names) -> None:
    jobs = [name(f"job{n}") for n in range(15)]
    await _queue(engine, name("queue"), jobs)
    told = await _together(engine, [Task("work", worker, queue=name("queue"), seed=worker) for worker in range(5)])
    await _each_done_once(engine, jobs, told)


@case("C4", "C6")
@needs(shared=True)
async def test_each_job_has_one_winner_among_processes(database: Target) -> None:
    engine = await database.open()
    jobs = [f"job{n}" for n in range(60)]
    await _queue(engine, "queue", jobs)
    told = await ran(database.url, [Task("work", worker, queue="queue", seed=worker % 2) for worker in range(4)])
    await _each_done_once(engine, jobs, told)


@case("C6")
async def test_a_late_worker_is_fenced_off(engine: Engine, name: Names) -> None:
    await _queue(engine, name("queue"), [name("job")])
    due = Scan("note", "by_pair", (name("queue"),), hi=1)
    (row,) = (await engine.scan(due)).rows
    first = await claim(engine, row, 1, name("queue"), LEASE)
    assert first is not None
    assert await claim(engine, row, 2, name("queue"), LEASE) is None, "claimed with a rev that has gone"
    assert (await engine.scan(due)).rows == []
    (row,) = (await engine.scan(Scan("note", "by_pair", (name("queue"),), hi=LEASE + 1))).rows
    second = await claim(engine, row, 2, name("queue"), 2 * LEASE)
    assert second is not None
    assert (second[1].owner, second[1].fence) == (2, 2)
    assert not await finish(engine, row.key, *first), "the worker whose lease ran out must not finish"
    assert await finish(engine, row.key, *second)
    assert not await finish(engine, row.key, *second)
    assert [decode(row.doc, Job).owner for row in await rows(engine, "event", name("job"))] == [2]


@case("C6")
async def test_a_decision_is_made_once_and_the_second_sees_the_first(engine: Engine, name: Names) -> None:
    asked = await commit(engine, name("p"), Put("note", "approval", doc("pending")))
    made = [
        batch(name("p"), Put("note", "approval", doc(n), expect=asked.id), Append("event", doc(n))) for n in range(6)
    ]
    told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for one in made))]
    (won,) = [answer for answer in told if isinstance(answer, Receipt)]
    lost = [answer for answer in told if isinstance(answer, Conflict)]
    assert len(lost) == 5
    assert {(error.key, error.expect, error.found) for error in lost} == {
        (Key("note", name("p"), "approval"), asked.id, won.id)
    }
    (row,) = await rows(engine, "event", name("p"))
    assert row.rev == won.id


@case("C2", "C3")
async def test_one_key_from_many_at_once_is_one_write(engine: Engine, name: Names) -> None:
    for round_ in range(5):
        where = name(f"{round_}")
        made = [batch(where, Append("event", doc(1)), Put("note", "a", doc(1)), once="k") for _ in range(8)]
        told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for one in made))]
        got = [answer for answer in told if isinstance(answer, Receipt)]
        assert len(got) == 8, told
        assert len({(answer.id, answer.seqs) for answer in got}) == 1
        assert sum(not answer.replayed for answer in got) == 1
        assert await numbers(engine, "event", where) == [1]


@case("C2")
@needs(shared=True)
async def test_one_key_from_many_engines_at_once_is_one_write(database: Target) -> None:
    engines = await asyncio.gather(*(database.open() for _ in range(4)))
    for round_ in range(10):
        made = [batch(f"p{round_}", Append("event", doc(1)), once="k") for _ in engines]
        pairs = zip(engines, made, strict=True)
        told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for engine, one in pairs))]
        got = [answer for answer in told if isinstance(answer, Receipt)]
        assert len(got) == 4, told
        assert len({(answer.id, answer.seqs) for answer in got}) == 1
        assert await numbers(engines[0], "event", f"p{round_}") == [1]


@case("C2")
async def test_one_batch_committed_twice_at_once_is_one_write(engine: Engine, name: Names) -> None:
    """A caller that gave up waiting commits again while the first call is still running."""
    for round_ in range(5):
        one = batch(name(f"{round_}"), Append("event", doc(1)), Put("note", "a", doc(1), expect="absent"))
        told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for _ in range(6)))]
        assert sorted(told, key=lambda answer: getattr(answer, "replayed", 9)) == [
            Receipt(one.id, (1, None)),
            *[Receipt(one.id, (1, None), True)] * 5,
        ]
        assert await numbers(engine, "event", one.partition) == [1]


@case("C2")
@needs(shared=True)
async def test_one_batch_committed_at_once_by_many_engines_is_one_write(database: Target) -> None:
    engines = await asyncio.gather(*(database.open() for _ in range(4)))
    for round_ in range(10):
        one = batch(f"p{round_}", Append("event", doc(1)), Put("note", "a", doc(1)))
        told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for engine in engines))]
        assert {(answer.id, answer.seqs) for answer in told if isinstance(answer, Receipt)} == {(one.id, (1, None))}
        assert len([answer for answer in told if isinstance(answer, Receipt)]) == 4, told
        assert await numbers(engines[0], "event", f"p{round_}") == [1]


async def test_a_batch_that_is_refused_takes_none_of_its_neighbours_along(engine: Engine, name: Names) -> None:
    """Commits that come at once may share a transaction; one that fails in it fails alone."""
    for round_ in range(5):
        good = [batch(name("p"), Append("event", doc((round_, n))), Put("note", f"{n}", doc(n))) for n in range(8)]
        bad = [
            batch(name("p"), Append("event", doc("bad")), Put("note", "never", doc(n), expect="exists"))
            for n in range(8)
        ]
        mixed = [one for pair in zip(good, bad, strict=True) for one in pair]
        told = [answer for (answer,) in await asyncio.gather(*(engine.commit([one]) for one in mixed))]
        assert [type(answer).__name__ for answer in told] == ["Receipt", "Conflict"] * 8
        assert await numbers(engine, "event", name("p")) == list(range(1, 8 * (round_ + 1) + 1))
    assert await read(engine, "note", name("p"), "never") is None


@case("F7")
@needs(shared=True)
async def test_two_writers_whose_clocks_differ_share_one_order(database: Target) -> None:
    ahead, behind = MovedClock(), MovedClock()
    ahead.move(300)
    behind.move(-300)
    one, two = await database.open(clock=ahead), await database.open(clock=behind)
    for number in range(10):
        engine = (one, two)[number % 2]
        assert (await commit(engine, "p", Append("event", doc(number)))).seqs == (number + 1,)
    for engine in (one, two):
        assert [row.doc for row in await rows(engine, "event", "p")] == [doc(number) for number in range(10)]


@needs(shared=True)
async def test_many_processes_open_a_new_database_at_once(database: Target) -> None:
    told = await ran(database.url, _appenders(5, 4, "p"))
    assert await check_turns(await database.open(), ["p"], told) == 20


async def test_readers_see_whole_batches(engine: Engine, name: Names) -> None:
    """A scan of a partition never shows half of a batch."""
    stop = asyncio.Event()

    async def write() -> None:
        for number in range(40):
            await commit(
                engine, name("p"), *(Put("note", f"{n}", doc(number)) for n in range(5)), Append("event", doc(number))
            )
        stop.set()

    async def look() -> int:
        looked = 0
        while not stop.is_set():
            found = (await engine.scan(Scan("note", prefix=(name("p"),)))).rows
            assert len(found) in (0, 5)
            assert len({row.rev for row in found}) <= 1, "a batch was read half"
            got = await engine.get([Key("note", name("p"), f"{n}") for n in range(5)])
            assert len({row and row.rev for row in got}) == 1, "a batch was read half"
            looked += 1
            await asyncio.sleep(0)
        return looked

    await asyncio.gather(write(), look(), look())
