"""Random histories on the engine and on the memory engine, compared step by step: receipts, errors and rows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import count, groupby, permutations
from operator import itemgetter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ...engines.memory import Memory
from ...errors import StoreError
from ...keys import seq_sort
from ...layers.limits import Limits
from ...predicates import Predicate, evaluate
from ...waist import HEAD, Batch, Engine, Key, Receipt, Row, Scan
from ..histories import LOGS, PARTITIONS, QUEUES, SORTS, Draft, Drawn, Step, batches, build, histories, wheres
from ..marks import case
from ..schema import SCHEMA
from ..target import MovedClock, Target
from ..verbs import by_key, dumped, new_id, pages, rows

_bounded = settings(
    max_examples=100,
    deadline=None,
    database=None,
    derandomize=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
_KINDS = ("note", "state", "event", "turn")


def _told(answer: Receipt | StoreError) -> object:
    """An answer without what may differ between engines: the name of the engine and the words."""
    if isinstance(answer, Receipt):
        return answer
    told = {field: getattr(answer, field, None) for field in ("key", "expect", "found", "reason", "limit", "size")}
    return type(answer).__name__, answer.operation, answer.outcome, told


def _keys(prefix: str) -> list[Key]:
    partitions = [prefix + partition for partition in PARTITIONS]
    keys = [Key(kind, partition, sort) for kind in ("note", "state") for partition in partitions for sort in SORTS]
    places = [HEAD, *map(seq_sort, range(1, 12))]
    return keys + [Key(kind, partition, sort) for kind in LOGS for partition in partitions for sort in places]


async def _memory(clock: MovedClock) -> Engine:
    model = Limits(Memory(clock))
    await model.open(SCHEMA)
    return model


async def _state(engine: Engine, prefix: str) -> dict[Key, Row]:
    found = zip(_keys(prefix), await engine.get(_keys(prefix)), strict=True)
    return {key: row for key, row in found if row is not None}


def _exact(row: Row) -> tuple[Row, object]:
    """A row that does not equal one whose facets have True for 1."""
    facets = {path: value if isinstance(value, tuple) else (value,) for path, value in row.facets.items()}
    return row, {path: [type(one) is bool for one in value] for path, value in facets.items()}


async def _orders(engine: Engine, prefix: str) -> list[list[Row]]:
    """Every order the rows of an example stand in."""
    found: list[list[Row]] = []
    for partition in PARTITIONS:
        found += [await rows(engine, kind, prefix + partition, limit=3) for kind in _KINDS]
    for queue in (prefix + queue for queue in QUEUES):
        for index in ("by_text", "by_pair", "by_real", "by_all"):
            found.append(await rows(engine, "note", queue, index=index))
        found.append(await rows(engine, "event", queue, index="by_agent", reverse=True))
    return found


def _behind(prefix: str) -> str:
    """The end of the range of all that begins with a prefix."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


async def _everything(engine: Engine, prefix: str) -> dict[Key, object]:
    found: dict[Key, Row] = {}
    for kind in _KINDS:
        found |= by_key(await dumped(engine, kind, 1000, lo=prefix, hi=_behind(prefix)))
    return {key: _exact(row) for key, row in found.items()}


def _same(real: object, model: object, step: object) -> None:
    assert real == model, f"after {step}"


class _History:
    """One example: the same batches on both engines, in partitions of its own."""

    def __init__(self, real: Engine, model: Engine, clock: MovedClock, prefix: str) -> None:
        self.real, self.model, self.clock, self.prefix = real, model, clock, prefix
        self.done: list[Batch] = []

    async def step(self, step: Step) -> None:
        """One step, and everything compared."""
        self.clock.move(step.wait)
        revs = {key: row.rev for key, row in (await _state(self.model, self.prefix)).items()}
        draft = Draft(self.prefix, self.clock.now, revs)
        made = [build(drawn, draft) for drawn in step.batches]
        restore = step.batches[0].restore
        if not restore:
            again = [self.done[number % len(self.done)] for number in step.again if self.done]
            made += [msgspec.structs.replace(one, id=new_id()) if step.renewed else one for one in again]
            self.done += made
        await self._commit(made, restore)
        _same(await _state(self.real, self.prefix), await _state(self.model, self.prefix), step)

    async def _commit(self, made: Sequence[Batch], restore: bool) -> None:
        got = await self.real.commit(made, restore=restore)
        expected = await self.model.commit(made, restore=restore)
        _same(list(map(_told, got)), list(map(_told, expected)), made)

    async def end(self) -> None:
        """Everything that can be read."""
        _same(await _orders(self.real, self.prefix), await _orders(self.model, self.prefix), "the end")
        _same(await _everything(self.real, self.prefix), await _everything(self.model, self.prefix), "the end")


@case("F7", "C1", "C2", "C3", "C7")
async def test_random_histories_agree_with_the_model(database: Target) -> None:
    real = await database.open()
    examples = count()

    @settings(_bounded, max_examples=150)
    @given(histories)
    async def holds(history: list[Step]) -> None:
        pair = _History(real, await _memory(database.clock), database.clock, f"{next(examples)}.")
        for step in history:
            await pair.step(step)
        await pair.end()

    await _drive(holds)


async def _drive(test: Any) -> None:
    """Run a hypothesis test of coroutines on the running loop: hypothesis in a thread, each example back here."""
    loop = asyncio.get_running_loop()
    inner = test.hypothesis.inner_test

    def example(*args: Any, **kwargs: Any) -> None:
        asyncio.run_coroutine_threadsafe(inner(*args, **kwargs), loop).result(120)

    test.hypothesis.inner_test = example
    await asyncio.to_thread(test)


@case("S2", "S4")
async def test_random_filters_agree_with_the_evaluator(database: Target) -> None:
    real = await database.open()
    model = await _memory(database.clock)
    examples = count()

    @settings(_bounded, max_examples=100)
    @given(st.lists(batches, min_size=1, max_size=3), st.lists(wheres, min_size=1, max_size=5), st.integers(1, 7))
    async def holds(calls: list[list[Drawn]], asked: list[Predicate], limit: int) -> None:
        prefix = f"{next(examples)}."
        draft = Draft(prefix, database.clock.now, {})
        for call in calls:
            made = [build(drawn, draft) for drawn in call]
            for engine in (real, model):
                await engine.commit(made)
        for where in asked:
            for kind, partition in (("note", "p"), ("event", "q")):
                scan = Scan(kind, prefix=(prefix + partition,), where=where, limit=limit, budget=limit + 2)
                _same(await _kept(real, scan), await _kept(model, scan), scan)
            scan = Scan("note", "by_text", (prefix + "x",), where=where, limit=limit)
            _same(await _kept(real, scan), await _kept(model, scan), scan)

    await _drive(holds)


async def _kept(engine: Engine, scan: Scan) -> list[object]:
    """What core gives of a scan: the engine's pages, its filter evaluated once more."""
    found = [row async for page in pages(engine, scan) for row in page.rows]
    return [_exact(row) for row in found if evaluate(scan.where, row.facets)]


@case("C1")
async def test_one_call_many_calls_and_one_by_one_are_the_same(database: Target) -> None:
    """Holds group commits and one-statement fast paths equal to `resolve`."""
    real = await database.open()
    examples = count()

    @_bounded
    @given(batches, batches)
    async def holds(before: list[Drawn], drawn: list[Drawn]) -> None:
        example = next(examples)
        told: list[object] = []
        ends: list[object] = []
        ids = [new_id() for _ in (*before, *drawn)]
        for way in ("call", "alone", "concurrent"):
            prefix = f"{example}.{way:10}."
            draft = Draft(prefix, database.clock.now, {})
            made = [msgspec.structs.replace(build(one, draft), id=ids.pop(0)) for one in (*before, *drawn)]
            ids += [one.id for one in made]
            await real.commit(made[: len(before)])
            got = await _commit_by(way, real, made[len(before) :])
            told.append([_without(prefix, _told(answer)) for answer in got])
            ends.append([_without(prefix, row) for row in (await _everything(real, prefix)).values()])
        _same(told[1], told[0], "one by one")
        _same(told[2], told[0], "concurrently")
        assert sorted(map(repr, ends[1])) == sorted(map(repr, ends[0])) == sorted(map(repr, ends[2]))  # type: ignore[call-overload]

    await _drive(holds)


async def _commit_by(way: str, engine: Engine, made: list[Batch]) -> list[Receipt | StoreError]:
    if way == "call":
        return await engine.commit(made)
    if way == "alone":
        return [answer for one in made for answer in await engine.commit([one])]
    numbered = sorted(enumerate(made), key=lambda pair: pair[1].partition)
    groups = [list(group) for _, group in groupby(numbered, key=lambda pair: pair[1].partition)]
    got = await asyncio.gather(*(engine.commit([one for _, one in group]) for group in groups))
    pairs = [
        (place, answer)
        for group, found in zip(groups, got, strict=True)
        for (place, _), answer in zip(group, found, strict=True)
    ]
    return [answer for _, answer in sorted(pairs, key=itemgetter(0))]


def _without(prefix: str, value: object) -> object:
    return repr(value).replace(repr(prefix)[1:-1], "")


@case("C1", "C7")
async def test_concurrent_batches_on_one_partition_have_an_order(database: Target) -> None:
    """There is an order in which doing them one after the other gives the same answers and the same rows."""
    real = await database.open()
    examples = count()

    @settings(_bounded, max_examples=60)
    @given(batches, st.lists(batches.map(lambda drawn: drawn[0]), min_size=2, max_size=4))
    async def holds(before: list[Drawn], drawn: list[Drawn]) -> None:
        prefix = f"{next(examples)}."
        draft = Draft(prefix, database.clock.now, {})
        first = [build(one._replace(partition="p"), draft) for one in before]
        await real.commit(first)
        draft = draft._replace(revs={key: row.rev for key, row in (await _state(real, prefix)).items()})
        made = [build(one._replace(partition="p"), draft) for one in drawn]
        got = [_told(answer) for (answer,) in await asyncio.gather(*(real.commit([one]) for one in made))]
        end = await _state(real, prefix)
        for order in permutations(range(len(made))):
            model = await _memory(database.clock)
            await model.commit(first)
            answers = await model.commit([made[number] for number in order])
            told = [_told(answers[order.index(number)]) for number in range(len(made))]
            if told == got and await _state(model, prefix) == end:
                return
        pytest.fail(f"no order of the {len(made)} batches gives these answers and rows: {got}")

    await _drive(holds)
