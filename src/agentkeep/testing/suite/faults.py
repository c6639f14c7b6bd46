"""Connections that are cut, delayed, refused and swallowed between the engine and its server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal

import msgspec
import pytest

from ...errors import StoreError, Unavailable
from ...urls import parse
from ...waist import Append, Batch, Engine, Key, Put, Receipt, Scan
from ..checks import check_turns
from ..marks import case, needs
from ..proxy import Direction, Proxy
from ..target import Target
from ..tasks import Task, Told, append, reading, settle, turn
from ..verbs import batch, commit, doc, done, new_id, numbers

_BOUND = 45.0
"""No call may take longer than this, whatever the network does. Engines that wait longer set a shorter time limit."""


@asynccontextmanager
async def _proxied(database: Target) -> AsyncGenerator[tuple[Proxy, Engine, Engine]]:
    """A proxy, an engine that goes through it, and one that does not."""
    straight = await database.open()
    with Proxy(*database.address) as proxy:
        through = database.through(proxy.port)
        try:
            yield proxy, await through.open(), straight
        finally:
            proxy.clear()
            async with asyncio.timeout(_BOUND):
                await through.close()


async def _asked(engine: Engine, one: Batch) -> Receipt | StoreError:
    """What one commit answers, in bounded time; anything but an error of ours fails the test."""
    async with asyncio.timeout(_BOUND):
        try:
            (answer,) = await engine.commit([one])
        except StoreError as error:
            return error
        return answer


def _count_to(number: int) -> Callable[[bytes], bool]:
    """Says yes to the chunk with this number, counted from 0."""
    seen = -1

    def reached(_: bytes) -> bool:
        nonlocal seen
        seen += 1
        return seen == number

    return reached


async def _settled(engine: Engine, straight: Engine, one: Batch, answer: Receipt | StoreError, where: str) -> Receipt:
    """Commit again until it is settled, and hold the first answer against what is there."""
    got = await settle(engine, one)
    if isinstance(answer, Receipt):
        assert got == msgspec.structs.replace(answer, replayed=True), where
    else:
        assert answer.retryable or answer.outcome == "unknown", f"{where}: {answer!r} says that retrying is no use"
        assert not (answer.outcome == "none" and got.replayed), f"{where}: said that nothing was written, and it was"
    assert await done(straight, one) == msgspec.structs.replace(got, replayed=True), where
    return got


@pytest.mark.parametrize("when", ["before", "after"])
@case("C2", "C5", "C8")
@needs(server=True)
async def test_a_commit_cut_at_each_step_is_settled(database: Target, when: Literal["before", "after"]) -> None:
    """Before a request reaches the server, and after the server has done it and before its reply arrives."""
    async with _proxied(database) as (proxy, engine, straight):
        await commit(engine, "warm", Put("note", "a", doc(1)))
        before = proxy.counters
        await done(engine, turn("warm", 0, 0, new_id()))
        chunks = (proxy.counters - before).chunks_up
        told: list[Told] = []
        unknown = 0
        for step in range(chunks + 1):
            one = turn("p", 0, step, new_id())
            trigger = proxy.cut_when("up", _count_to(step), when=when)
            answer = await _asked(engine, one)
            unknown += isinstance(answer, StoreError) and answer.outcome == "unknown"
            where = f"cut {when} chunk {step} of {chunks}, fired {trigger.fired} times, replied {trigger.replied}"
            got = await _settled(engine, straight, one, answer, where)
            proxy.clear()
            told += [Told("trying", 0, step, "p", one.id), Told("done", 0, step, "p", one.id, _seqs(got))]
        assert await check_turns(straight, ["p"], told) == chunks + 1


@pytest.mark.parametrize("direction", ["up", "down"])
@case("C2", "C5")
@needs(server=True)
async def test_a_commit_cut_after_any_byte_is_settled(database: Target, direction: Direction) -> None:
    chance = random.Random(1)
    async with _proxied(database) as (proxy, engine, straight):
        await commit(engine, "warm", Put("note", "a", doc(1)))
        before = proxy.counters
        await done(engine, turn("warm", 0, 0, new_id()))
        passed = proxy.counters - before
        length = passed.bytes_up if direction == "up" else passed.bytes_down
        points = [0, 1, length - 1, length, *(chance.randrange(length) for _ in range(12))]
        told: list[Told] = []
        for number, point in enumerate(points):
            one = turn("p", 0, number, new_id())
            proxy.cut_after_bytes(max(point, 1), direction)
            answer = await _asked(engine, one)
            proxy.clear()
            got = await _settled(engine, straight, one, answer, f"cut {direction} after {point} of {length} bytes")
            told += [Told("trying", 0, number, "p", one.id), Told("done", 0, number, "p", one.id, _seqs(got))]
        assert await check_turns(straight, ["p"], told) == len(points)


def _seqs(got: Receipt) -> tuple[int, ...]:
    return tuple([seq for seq in got.seqs if seq is not None])


@pytest.mark.parametrize("seed", range(3))
@case("C1", "C2", "C5")
@needs(server=True)
async def test_writers_whose_connections_are_cut_again_and_again_lose_and_double_nothing(
    database: Target, seed: int
) -> None:
    chance = random.Random(seed)
    async with _proxied(database) as (proxy, engine, straight):
        told: list[Told] = []
        tasks = [Task("append", worker, ("p", "q"), 25) for worker in range(4)]
        writing = asyncio.gather(*(append(engine, task, told.append) for task in tasks))
        while not writing.done():
            direction: Direction = chance.choice(("up", "down"))
            trigger = proxy.cut_after_bytes(chance.randint(1, 20_000), direction)
            proxy.delay(chance.choice((0, 0, 0.002)))
            before = len(told)
            while not writing.done() and not trigger.fired and len(told) < before + 40:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        proxy.clear()
        await writing
        assert await check_turns(straight, ["p", "q"], told) == 4 * 25


@case("C5")
@needs(server=True)
async def test_after_idle_connections_died_calls_work_again(database: Target) -> None:
    async with _proxied(database) as (proxy, engine, _):
        await commit(engine, "p", Put("note", "a", doc(1)))
        for _ in range(3):
            await asyncio.gather(*(engine.get([Key("note", "p", "a")]) for _ in range(12)))
            proxy.cut()
            failed = 0
            for _ in range(12):
                try:
                    async with asyncio.timeout(_BOUND):
                        (row,) = await engine.get([Key("note", "p", "a")])
                except StoreError as error:
                    failed += 1 if error.retryable else 100
                else:
                    assert row is not None
            (row,) = await engine.get([Key("note", "p", "a")])
            assert row is not None, "an outage looks like an empty database"
            assert failed < 12
            proxy.cut()
            await settle(engine, batch("p", Append("event", doc(1))))
        assert await numbers(engine, "event", "p") == [1, 2, 3]


@case("C5", "S10")
@needs(server=True)
async def test_a_server_that_is_down_is_unavailable_and_comes_back(database: Target) -> None:
    async with _proxied(database) as (proxy, engine, _):
        await commit(engine, "p", Put("note", "a", doc("canary-7f3a")))
        proxy.refuse()
        proxy.cut()
        one = batch("p", Append("event", doc("canary-7f3a")))
        for _ in range(3):
            async with asyncio.timeout(_BOUND):
                for ask in (
                    lambda: engine.get([Key("note", "p", "a")]),
                    lambda: engine.scan(Scan("note", prefix=("p",))),
                    lambda: engine.dump("note", None, 10),
                ):
                    with pytest.raises(Unavailable) as caught:
                        await ask()
                    assert caught.value.retryable
            error = await _asked(engine, one)
            assert isinstance(error, Unavailable), repr(error)
            assert "canary-7f3a" not in f"{error} {error!r} {error.__cause__!r}"
        other = database.through(proxy.port)
        with pytest.raises(Unavailable) as refused:
            async with asyncio.timeout(_BOUND):
                await other.open()
        assert refused.value.retryable
        _hides_password(refused.value, other)
        proxy.refuse(False)
        async with asyncio.timeout(_BOUND):
            (row,) = await reading(lambda: engine.get([Key("note", "p", "a")]))
            assert row is not None
            await settle(engine, one)
        assert await numbers(engine, "event", "p") == [1]


def _hides_password(error: BaseException, target: Target) -> None:
    """Neither an error nor its causes show the password of the URL."""
    password = parse(target.url).password
    seen: BaseException | None = error
    while password and seen is not None:
        assert password not in f"{seen} {seen!r}"
        seen = seen.__cause__ or seen.__context__


@case("C5")
@needs(server=True)
async def test_a_call_into_silence_can_be_cancelled_and_the_next_works(database: Target) -> None:
    """The network swallows everything; giving up takes no reply, and no connection is lost for good."""
    async with _proxied(database) as (proxy, engine, straight):
        await commit(engine, "warm", Put("note", "a", doc(1)))
        made = [turn("p", 0, number, new_id()) for number in range(12)]
        proxy.blackhole()
        asked: list[asyncio.Future[Any]] = [asyncio.ensure_future(engine.commit([one])) for one in made]
        asked += [asyncio.ensure_future(engine.get([Key("note", "warm", "a")])) for _ in range(12)]
        await asyncio.wait(asked, timeout=0.3)
        for task in asked:
            task.cancel()
        async with asyncio.timeout(_BOUND):
            told = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, (asyncio.CancelledError, StoreError)) for one in told), told
        proxy.blackhole(False)
        async with asyncio.timeout(_BOUND):
            for one in made:
                await settle(engine, one)
        every = [Told("trying", 0, number, "p", one.id) for number, one in enumerate(made)]
        assert await check_turns(straight, ["p"], every) == 12


@case("C5")
@needs(server=True)
async def test_more_calls_than_connections_wait_their_turn(database: Target) -> None:
    async with _proxied(database) as (proxy, engine, _):
        proxy.delay(0.005)
        made = [batch(f"p{number % 10}", Append("event", doc(number))) for number in range(100)]
        async with asyncio.timeout(_BOUND):
            told = await asyncio.gather(
                *(engine.commit([one]) for one in made),
                *(engine.get([Key("event", "p1", f"{1:016d}")]) for _ in range(100)),
                return_exceptions=True,
            )
        for one in told[:100]:
            failed = one if isinstance(one, BaseException) else one[0]
            assert isinstance(failed, (Receipt, StoreError)), repr(failed)
            assert isinstance(failed, Receipt) or failed.retryable
        for one in made:
            await settle(engine, one)
        for part in range(10):
            assert await numbers(engine, "event", f"p{part}") == list(range(1, 11))


@case("C2", "C5")
@needs(server=True)
async def test_commits_cancelled_on_the_way_are_settled(database: Target) -> None:
    chance = random.Random(5)
    async with _proxied(database) as (proxy, engine, straight):
        proxy.delay(0.003)
        told: list[Told] = []
        for round_ in range(12):
            made = [turn("p", worker, round_, new_id()) for worker in range(4)]
            tasks = [asyncio.ensure_future(engine.commit([one])) for one in made]
            await asyncio.wait(tasks, timeout=chance.uniform(0, 0.03))
            for task in tasks[::2]:
                task.cancel()
            async with asyncio.timeout(_BOUND):
                await asyncio.gather(*tasks, return_exceptions=True)
            for worker, one in enumerate(made):
                got = await settle(engine, one)
                said = Told("done", worker, round_, "p", one.id, _seqs(got))
                told += [msgspec.structs.replace(said, what="trying"), said]
        assert await check_turns(straight, ["p"], told) == 48
