"""What lives with a conversation: places of its own, and gone with it."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import Struct

from agentkeep import NotFound, Store, Unavailable
from agentkeep.features.conversations.belongings import place, places
from agentkeep.keys import partition, size
from agentkeep.records import record
from agentkeep.testing.values import STRINGS
from agentkeep.waist import MAX_SORT
from engines import Database


@record("note", partition="conversation", sort="place", within="conversation")
class Note(Struct, frozen=True, kw_only=True):
    conversation: str
    place: str
    text: str = ""


async def noted(store: Store, id: str, count: int, text: str = "") -> str:
    """A conversation with notes; the name of its life."""
    life = (await store.conversations.create(id)).record.life
    for number in range(count):
        await store.put(Note(conversation=partition(id), place=place(life, f"n{number:03d}"), text=text))
    return life


async def notes(store: Store, id: str) -> list[Note]:
    return list(await store.scan(Note, prefix=(partition(id),)))


def test_places_are_apart_and_fit():
    life = "018f0000-0000-7000-8000-000000000000@12"
    ids = [*STRINGS, "x" * 5_000, "\U0010ffff" + "0" * 64, "a/b", "a", "/", "\ud800" * 300]
    found = [place(life, id) for id in ids]
    assert len(set(found)) == len(set(ids))
    lo, hi = places(life)
    for one in found:
        assert size(one) <= MAX_SORT
        assert lo <= one < hi
        assert not one.startswith(places(life[:-1])[0])


async def test_a_deletion_takes_along_what_lives_with_a_conversation(database: Database):
    store = await database.open(records=[Note])
    await noted(store, "a", 100)
    await noted(store, "b", 3, "x" * 400_000)
    await store.conversations.delete("a")
    assert await notes(store, "a") == []
    assert len(await notes(store, "b")) == 3
    await store.conversations.delete("b")
    assert await notes(store, "b") == []
    assert await store.blobs.orphans(store.clock() + 1, 100) == []


async def test_what_an_earlier_deletion_left_is_not_the_next_lifes_and_goes_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    store = await database.open(records=[Note])
    old = await noted(store, "a", 5)
    commit = store.commit

    async def broken(partition: str, ops: Any, **options: Any) -> Any:
        if any(op.kind == "note" for op in ops):
            raise Unavailable("cut", retryable=False)
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", broken)
    with pytest.raises(Unavailable) as caught:
        await store.conversations.delete("a")
    assert caught.value.outcome == "unknown"
    monkeypatch.undo()
    new = await noted(store, "a", 2)
    lo, hi = places(new)
    assert len(await store.scan(Note, prefix=("a",), lo=lo, hi=hi)) == 2
    lo, hi = places(old)
    assert len(await store.scan(Note, prefix=("a",), lo=lo, hi=hi)) == 5
    await store.conversations.delete("a")
    assert await notes(store, "a") == []
    with pytest.raises(NotFound):
        await store.conversations.delete("a")


async def test_one_that_is_created_meanwhile_keeps_what_is_its_own(database: Database, monkeypatch: pytest.MonkeyPatch):
    store = await database.open(records=[Note])
    await noted(store, "a", 60)
    commit = store.commit
    met = False

    async def late(partition: str, ops: Any, **options: Any) -> Any:
        nonlocal met
        if not met and any(op.kind == "note" for op in ops):
            met = True
            monkeypatch.undo()
            await noted(store, "a", 3, "new")
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", late)
    await store.conversations.delete("a")
    assert met
    assert [note.text for note in await notes(store, "a")] == ["new"] * 3
