"""Lost requests and replies at every step of every public write: applied once, or an error that tells the truth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import msgspec
import pytest

from agentkeep import Conflict, Conversation, NotFound, Store, StoreError, record
from agentkeep.ids import SECOND
from agentkeep.layers.chaos import Fault
from agentkeep.testing.marks import case
from engines import Database, Script

FAULTS: tuple[Fault, ...] = ("ok", "before", "after", "contention")


@record("counter", partition="id", facets=("n",))
class Counter(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    n: int = 0


class World(NamedTuple):
    """A conversation that two stores see: one whose calls fail, and one that looks at what became of them."""

    broken: Store
    talk: Conversation
    store: Store
    plain: Conversation


async def events(world: World) -> list[Any]:
    return [event.content async for event in world.plain.events()]


async def shown(world: World, id: str) -> Any:
    talk = await world.store.conversations.get(id)
    return None if talk is None else (talk.record.title, talk.record.status, [e.index async for e in talk.events()])


def other(world: World) -> str:
    """An id that nothing has."""
    return f"other.{world.plain.id}"


async def counted(world: World, id: str) -> Any:
    found = await world.store.get(Counter, id)
    return None if found is None else found.value.n


def plus_one(old: Any) -> Any:
    return msgspec.structs.replace(old, n=old.n + 1)


def grown(old: Any) -> Any:
    return msgspec.structs.replace(old, data={"n": old.data.get("n", 0) + 1})


class Write(NamedTuple):
    """A public write: how it is called, what shows that it was applied, and whether doing it again is the same write.

    `settled` are the errors by which doing it again says that it was applied.
    """

    call: Callable[[World], Awaitable[Any]]
    look: Callable[[World], Awaitable[Any]]
    settled: tuple[type[StoreError], ...] = ()
    repeats: bool = True


WRITES: dict[str, Write] = {
    "append": Write(lambda w: w.talk.append("x", key="k"), events),
    "append_many": Write(lambda w: w.talk.append_many(["x", "y"], key="k"), events),
    "append after": Write(lambda w: w.talk.append("x", after=1), events, (Conflict,)),
    "append without a key": Write(lambda w: w.talk.append("x"), events, repeats=False),
    "handoff": Write(lambda w: w.talk.handoff("b", key="k"), lambda w: w.plain.state()),
    "handoff event": Write(lambda w: w.talk.handoff("b", key="k"), events),
    "set_state": Write(lambda w: w.talk.set_state(data={"a": 1}), lambda w: w.plain.state()),
    "set_state by change": Write(lambda w: w.talk.set_state(change=grown), lambda w: w.plain.state(), repeats=False),
    "update": Write(lambda w: w.talk.update(title="t"), lambda w: shown(w, w.plain.id)),
    "close": Write(lambda w: w.talk.close(), lambda w: shown(w, w.plain.id), (Conflict,)),
    "delete": Write(lambda w: w.talk.delete(), lambda w: shown(w, w.plain.id), (NotFound,)),
    "clear": Write(lambda w: w.talk.clear(), events),
    "create": Write(lambda w: w.broken.conversations.create(other(w)), lambda w: shown(w, other(w)), (Conflict,)),
    "ensure": Write(lambda w: w.broken.conversations.ensure(other(w)), lambda w: shown(w, other(w))),
    "put": Write(lambda w: w.broken.put(Counter(id=w.talk.id, n=9)), lambda w: counted(w, w.talk.id)),
    "put absent": Write(
        lambda w: w.broken.put(Counter(id=other(w), n=9), expect="absent"), lambda w: counted(w, other(w)), (Conflict,)
    ),
    "update a record": Write(
        lambda w: w.broken.update(Counter, w.talk.id, "", plus_one), lambda w: counted(w, w.talk.id), repeats=False
    ),
    "delete a record": Write(lambda w: w.broken.delete(Counter, w.talk.id), lambda w: counted(w, w.talk.id)),
}


def sequences(database: Database) -> Iterator[tuple[tuple[Fault, ...], Fault]]:
    """Every sequence of outcomes of four calls; and of the first ones, where all later calls fail alike."""
    longest = 4 if database.scheme == "memory" else 2
    for faults in product(FAULTS, repeat=longest):
        yield faults, "ok"
    for length in range(longest):
        for faults in product(FAULTS, repeat=length):
            for then in FAULTS[1:]:
                yield faults, then


@case("C2")
@pytest.mark.parametrize("on", ["commit", "all"])
@pytest.mark.parametrize("name", WRITES)
async def test_a_write_is_applied_once_or_fails_with_the_right_outcome(database: Database, name: str, on: str):
    write = WRITES[name]
    script = Script() if on == "all" else Script("commit")
    broken = await database.open(wrap=script.wrap, records=[Counter])
    store = await database.open(records=[Counter])
    for number, (faults, then) in enumerate(sequences(database)):
        plain = await store.conversations.create(f"c{number}")
        await plain.append("first")
        await store.put(Counter(id=plain.id, n=1))
        talk = await broken.conversations.get(plain.id)
        assert talk is not None
        world = World(broken, talk, store, plain)
        before = await write.look(world)
        database.clock.now += SECOND  # the recency goes with the write
        script.set(*faults, then=then)
        error: StoreError | None = None
        try:
            await write.call(world)
        except StoreError as caught:
            error = caught
        script.set()
        found = await write.look(world)
        if error is None:
            once = found
        else:
            assert then != "ok", (faults, "it would have come through", error)
            assert error.retryable
            applied = found != before
            assert error.outcome == "unknown" or not applied, (faults, then, error)
            if not write.repeats:
                continue
            try:
                await write.call(world)
            except write.settled:
                assert applied
            once = await write.look(world)
            assert not applied or once == found, (faults, then, "it was applied twice")
        assert once != before, (faults, then)
        if write.repeats:
            try:
                await write.call(world)
            except write.settled:
                pass
            assert await write.look(world) == once, (faults, then, "it was applied twice")
        elif name == "append without a key":
            assert len(await events(world)) == 2
        elif name == "set_state by change":
            assert (await plain.state()).data == {"n": 1}
        elif name == "update a record":
            assert await counted(world, plain.id) == 2


@case("C2")
async def test_an_error_says_unknown_only_where_something_may_be_written(database: Database):
    script = Script("commit")
    broken = await database.open(wrap=script.wrap)
    talk = await broken.conversations.create("c")
    for faults, then, outcome in [
        ([], "contention", "none"),
        ([], "before", "unknown"),
        ([], "after", "unknown"),
        (["before"], "contention", "unknown"),
        (["contention"], "before", "unknown"),
    ]:
        script.set(*faults, then=then)
        with pytest.raises(StoreError) as caught:
            await talk.append("x")
        assert caught.value.outcome == outcome
        assert ("unknown" in str(caught.value)) == (outcome == "unknown")


@case("C2")
@pytest.mark.parametrize("fault", FAULTS[1:])
async def test_a_fork_that_breaks_off_anywhere_is_finished_by_the_next_call(database: Database, fault: Fault):
    store = await database.open()
    script = Script()
    broken = await database.open(wrap=script.wrap)
    source = await store.conversations.create("source")
    for _ in range(3):
        await source.append_many(["x"] * 30)
    await source.handoff("billing")
    number = 0
    while True:
        mine = await broken.conversations.get("source")
        assert mine is not None
        script.set(*["ok"] * number, fault, then="before")
        try:
            await mine.fork(id=f"f{number}")
        except StoreError:
            pass
        done = script.seen <= number
        script.set()
        copy = await mine.fork(id=f"f{number}")
        assert [event.index async for event in copy.events()] == list(range(1, 92))
        assert (await copy.state()).active_agent == "billing"
        assert (await copy.append("mine")).index == 92
        if done:
            break
        number += 1
    assert number > 8
