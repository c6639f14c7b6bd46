"""Crashes: a writer killed at any moment leaves all that was acknowledged, nothing half, and a batch to settle."""

from __future__ import annotations

import asyncio
import random

import msgspec
import pytest

from ...waist import Append, Engine
from ..checks import check_turns
from ..marks import case, needs
from ..processes import processes
from ..target import Target
from ..tasks import Task, Told, settle, turn
from ..verbs import commit, doc

_KILLS = 8


async def _settled(engine: Engine, told: list[Told]) -> list[Told]:
    """Commit what was tried and not acknowledged again: the killed writer's retry after its restart."""
    done = {one.id for one in told if one.what == "done"}
    more: list[Told] = []
    for one in told:
        if one.what == "trying" and one.id not in done:
            again = turn(one.partition, one.worker, one.number, one.id)
            first, second = await settle(engine, again), await settle(engine, again)
            assert second == msgspec.structs.replace(first, replayed=True)
            seqs = tuple([seq for seq in first.seqs if seq is not None])
            more.append(msgspec.structs.replace(one, what="done", seqs=seqs))
    return more


@pytest.mark.parametrize("seed", range(_KILLS))
@case("C2", "C8")
@needs(durable=True, shared=True)
async def test_a_killed_writer_leaves_whole_batches_and_all_it_acknowledged(database: Target, seed: int) -> None:
    """One of two writers is killed in the middle of its work, then the other; the database stays open meanwhile."""
    chance = random.Random(seed)
    engine = await database.open()
    async with processes(database.url, [Task("append", worker, ("p", "q"), 10_000) for worker in range(2)]) as writers:
        for writer in writers:
            await writer.start()
        await writers[0].said("done", chance.randint(1, 25))
        await asyncio.sleep(chance.uniform(0, 0.004))
        told = list(await writers[0].kill())
        went_on = sum(one.what == "done" for one in writers[1].told) + chance.randint(1, 10)
        await writers[1].said("done", went_on)
        told += await writers[1].kill()
    before = await check_turns(engine, ["p", "q"], told)
    told += await _settled(engine, told)
    assert await check_turns(engine, ["p", "q"], told) >= before
    assert {one.id for one in told if one.what == "trying"} == {one.id for one in told if one.what == "done"}


@pytest.mark.parametrize("seed", range(_KILLS // 2))
@case("C2", "C8")
@needs(durable=True)
async def test_a_database_whose_only_process_was_killed_opens_again(database: Target, seed: int) -> None:
    """Nobody else has it open: what is left on disk or in the server is all there is."""
    chance = random.Random(100 + seed)
    told: list[Told] = []
    for life in range(3):
        async with processes(database.url, [Task("append", life, ("p",), 10_000)]) as (writer,):
            await writer.start()
            await writer.said("done", chance.randint(1, 20))
            told += await writer.kill()
    engine = await database.open()
    await check_turns(engine, ["p"], told)
    told += await _settled(engine, told)
    turns = await check_turns(engine, ["p"], told)
    assert turns == len({one.id for one in told if one.what == "trying"})
    assert (await commit(engine, "p", Append("event", doc(0)))).seqs == (2 * turns + 1,)
