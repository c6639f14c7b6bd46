"""Identities: one person per address, whoever asks at once and whatever breaks off in between."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from agentkeep import Address, Conflict, Identity, Invalid, NotFound, Store, TooLarge, Unavailable
from agentkeep.features.conversations import text_of
from agentkeep.features.identities.records import Spot, short
from agentkeep.ids import SECOND
from agentkeep.sync import Identities as SyncIdentities
from agentkeep.sync import Store as SyncStore
from agentkeep.testing.marks import case
from agentkeep.testing.values import SEPARATED, STRINGS, SYNTAX
from agentkeep.waist import Engine, Key, Scan
from engines import ENGINES, Database, Meeting

IDS = [*dict.fromkeys([*STRINGS, *SYNTAX, "a#b", "a:b", "a/b", "a\nb", "a\0b", "\ud800", "😀", "x" * 5_000])]
HOSTILE = [id for id in IDS if id]


class Breaking:
    """A store whose commit number `at` (from 0) fails: before it is written, or with its answer lost."""

    def __init__(self, store: Store, at: int, *, written: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broke = False
        self._left = at
        self._written = written
        for name in ("commit", "commit_all"):
            monkeypatch.setattr(store, name, self._wrap(getattr(store, name)))

    def _wrap(self, commit: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def broken(*args: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left >= 0:
                return await commit(*args, **options)
            self.broke = True
            if self._left == -1 and self._written:
                await commit(*args, **options)
            raise Unavailable("cut", retryable=False)

        return broken


async def broken_off(
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    begin: Callable[[Store, str], Awaitable[Any]],
    act: Callable[[Store, str], Awaitable[Any]],
    check: Callable[[Store, str], Awaitable[None]],
) -> int:
    """Break `act` off at each of its commits, on names of its own each time. The number of its commits."""
    healthy = await database.open()
    for at in range(40):
        for written in (False, True):
            name = f"{at}{written}"
            await begin(healthy, name)
            store = await database.open()
            with monkeypatch.context() as patched:
                breaking = Breaking(store, at, written=written, monkeypatch=patched)
                if not written:
                    try:
                        await act(store, name)
                    except Unavailable:
                        assert breaking.broke
                else:
                    with pytest.raises(Unavailable):
                        await act(store, name)
            if not breaking.broke:
                await check(healthy, name)
                return at
            await check(healthy, name)
    raise AssertionError("it never came to an end")


async def nothing(store: Store, name: str) -> None:
    """No preparation."""


async def spots(store: Store, id: str) -> list[tuple[str, str]]:
    return [(one.channel_type, one.address) async for one in store.identities.addresses(id, limit=3)]


async def owned(store: Store, channel_type: str, address: str) -> str | None:
    found = await store.identities.find(channel_type, address)
    return None if found is None else found.id


async def people(store: Store) -> list[str]:
    return [one.id async for one in store.identities.list(limit=7)]


async def talks(store: Store, id: str) -> list[str]:
    return [one.id async for one in store.identities.conversations(id, limit=2)]


# --- people ----------------------------------------------------------------------------------------------------------


async def test_what_is_created_is_read_back(store: Store, database: Database):
    made = await store.identities.create(
        "jane",
        display_name="Jane",
        email="jane@example.com",
        organization="acme",
        external_ids={"crm": "42", "billing": ["7", "8"]},
        metadata={"tier": "gold"},
    )
    found = await store.identities.get("jane")
    assert found is not None
    assert (found.id, found.display_name, found.email, found.organization) == (
        "jane",
        "Jane",
        "jane@example.com",
        "acme",
    )
    assert found.external_ids == made.external_ids == {"crm": ("42",), "billing": ("7", "8")}
    assert found.metadata == {"tier": "gold"}
    assert (found.created_us, found.updated_at, found.merged_into) == (database.clock(), None, None)
    assert found.created_at.tzinfo is not None


async def test_an_id_is_minted_where_none_is_given(store: Store):
    one, two = await store.identities.create(), await store.identities.create()
    assert one.id != two.id


async def test_a_taken_id_is_a_conflict_and_the_first_stays(store: Store):
    await store.identities.create("a", display_name="first")
    with pytest.raises(Conflict):
        await store.identities.create("a", display_name="second")
    found = await store.identities.get("a")
    assert found is not None
    assert found.display_name == "first"


async def test_of_many_who_create_an_id_at_once_one_does(store: Store):
    made = await asyncio.gather(*[store.identities.create("a") for _ in range(10)], return_exceptions=True)
    assert sum(isinstance(one, Identity) for one in made) == 1
    assert sum(isinstance(one, Conflict) for one in made) == 9


async def test_an_unknown_id_is_none_to_get_and_not_found_to_all_else(store: Store):
    await store.conversations.create("c")
    await store.identities.create("a")
    all_of = store.identities
    assert await all_of.get("nobody") is None
    calls: list[Awaitable[Any]] = [
        all_of.update("nobody", display_name="x"),
        all_of.delete("nobody"),
        all_of.link("nobody", "sms", "1"),
        all_of.unlink("nobody", "sms", "1"),
        all_of.addresses("nobody").page(),
        all_of.verify("nobody", "sms", "1", method="otp"),
        all_of.suggest("sms", "1", {"nobody": 0.5}),
        all_of.confirm("nobody", "sms", "1", method="otp"),
        all_of.reject("nobody", "sms", "1"),
        all_of.merge("nobody", into="a"),
        all_of.merge("a", into="nobody"),
        all_of.attach("nobody", "c"),
        all_of.attach("a", "nothing"),
        all_of.detach("a", "c"),
        all_of.conversations("nobody").page(),
        all_of.history("nobody").page(),
    ]
    for call in calls:
        with pytest.raises(NotFound):
            await call
    assert await store.identities.find("sms", "1") is None


@pytest.mark.parametrize("wrong", ["", 5, b"x", None])
async def test_what_is_no_text_is_refused_and_nothing_is_written(store: Store, wrong: Any):
    await store.identities.create("a")
    calls: list[Awaitable[Any]] = [
        store.identities.get(wrong),
        store.identities.resolve(wrong, "1"),
        store.identities.resolve("sms", wrong),
        store.identities.find("sms", wrong),
        store.identities.link("a", wrong, "1"),
        store.identities.link("a", "sms", wrong),
        store.identities.link(wrong, "sms", "1"),
        store.identities.merge(wrong, into="a"),
        store.identities.attach("a", wrong),
        store.identities.attach(wrong, "c"),
        store.identities.detach(wrong, "c"),
        store.identities.update(wrong),
        store.identities.delete(wrong),
        store.identities.addresses(wrong).page(),
        store.identities.history(wrong).page(),
        store.identities.conversations(wrong).page(),
        store.identities.unlink(wrong, "sms", "1"),
        store.identities.suggest("sms", "1", {wrong: 0.5}),
        store.identities.suggest("sms", "1", wrong),
        store.identities.verify("a", "sms", "1", method=wrong),
    ]
    if wrong is not None:
        calls += [
            store.identities.create(wrong),
            store.identities.create(display_name=wrong),
            store.identities.resolve("sms", "1", organization=wrong),
            store.identities.resolve("sms", "1", external_ids={"crm": wrong}),
            store.identities.update("a", email=wrong),
        ]
    for call in calls:
        with pytest.raises(Invalid):
            await call
    assert await people(store) == ["a"]
    assert await store.identities.find("sms", "1") is None


@pytest.mark.parametrize("confidence", [-0.1, 1.1, "1", True, None, float("nan")])
async def test_a_confidence_is_a_number_from_0_to_1(store: Store, confidence: Any):
    await store.identities.create("a")
    with pytest.raises(Invalid):
        await store.identities.suggest("sms", "1", {"a": confidence})


async def test_concurrent_updates_are_all_kept(store: Store):
    await store.identities.create("a", metadata={"gone": 1}, external_ids={"gone": "1"})
    await asyncio.gather(
        *[store.identities.update("a", metadata={f"n{n}": n}, external_ids={f"s{n}": str(n)}) for n in range(10)],
        store.identities.update("a", display_name="A", metadata={"gone": None}, external_ids={"gone": None}),
    )
    found = await store.identities.get("a")
    assert found is not None
    assert found.metadata == {f"n{n}": n for n in range(10)}
    assert found.external_ids == {f"s{n}": (str(n),) for n in range(10)}
    assert found.display_name == "A"
    for n in range(10):
        assert [one.id async for one in store.identities.list(external_id=(f"s{n}", str(n)))] == ["a"]
    assert [one async for one in store.identities.list(external_id=("gone", "1"))] == []


async def test_what_is_too_large_is_refused_and_nothing_is_written(store: Store):
    with pytest.raises(TooLarge):
        await store.identities.create("a", metadata={"x": "x" * 300_000})
    with pytest.raises(TooLarge):
        await store.identities.create("a", external_ids={"crm": [str(n) for n in range(21)]})
    with pytest.raises(TooLarge):
        await store.identities.resolve("sms", "1", metadata={"x": "x" * 300_000})
    assert await people(store) == []
    assert await store.identities.find("sms", "1") is None


async def test_people_are_listed_newest_first_by_name_and_by_organization(store: Store, database: Database):
    for number, name in enumerate(["Anna", "ANNABEL", "Bob", None, "anna-" + "x" * 60]):
        database.clock.now += SECOND
        await store.identities.create(str(number), display_name=name, organization="acme" if number % 2 else "other")
    assert await people(store) == ["4", "3", "2", "1", "0"]
    assert [one.id async for one in store.identities.list(name="ANNA", limit=1)] == ["0", "4", "1"]
    assert [one.id async for one in store.identities.list(name="anna-" + "x" * 50)] == ["4"]
    assert [one.id async for one in store.identities.list(name="anna-" + "x" * 50 + "y")] == []
    assert [one.id async for one in store.identities.list(organization="acme", limit=1)] == ["3", "1"]
    await store.identities.merge("1", into="0")
    await store.identities.delete("2")
    assert await people(store) == ["4", "3", "0"]
    assert [one.id async for one in store.identities.list(name="b")] == []
    assert [one.id async for one in store.identities.list(organization="acme")] == ["3"]
    with pytest.raises(Invalid):
        store.identities.list(name="a", organization="acme")


async def test_people_are_found_by_the_ids_of_other_systems(store: Store):
    await store.identities.create("a", external_ids={"crm": "1", "other": "2"})
    await store.identities.create("b", external_ids={"crm": ["1", "3"]})
    found = store.identities

    async def by(system: str, value: str) -> list[str]:
        return sorted([one.id async for one in found.list(external_id=(system, value), limit=1)])

    assert await by("crm", "1") == ["a", "b"]
    assert await by("crm", "2") == []
    await found.update("b", external_ids={"crm": "4"})
    assert (await by("crm", "1"), await by("crm", "4")) == (["a"], ["b"])
    await found.merge("a", into="b")
    assert (await by("crm", "1"), await by("other", "2"), await by("crm", "4")) == (["b"], ["b"], ["b"])
    merged = await found.get("b")
    assert merged is not None
    assert merged.external_ids == {"crm": ("4", "1"), "other": ("2",)}
    await found.delete("b")
    assert await by("crm", "1") == []


# --- resolve ---------------------------------------------------------------------------------------------------------


async def test_resolve_creates_once_and_then_finds(store: Store):
    made = await store.identities.resolve("sms", "+1", display_name="Jane", metadata={"n": 1})
    again = await store.identities.resolve("sms", "+1", display_name="Other")
    assert again == made
    assert (made.display_name, made.metadata) == ("Jane", {"n": 1})
    assert await store.identities.find("sms", "+1") == made
    assert await spots(store, made.id) == [("sms", "+1")]
    assert (await store.identities.resolve("email", "+1")).id != made.id


async def test_resolve_without_create_writes_nothing(store: Store):
    with pytest.raises(NotFound):
        await store.identities.resolve("sms", "+1", create=False)
    assert await store.identities.find("sms", "+1") is None
    made = await store.identities.resolve("sms", "+1")
    assert await store.identities.resolve("sms", "+1", create=False) == made


async def test_fifty_who_resolve_a_new_address_at_once_get_one_person(database: Database):
    stores = [await database.open() for _ in range(5)]
    found = await asyncio.gather(
        *[stores[n % 5].identities.resolve("sms", "+1", metadata={f"n{n}": n}) for n in range(50)]
    )
    assert len({one.id for one in found}) == 1
    assert await people(stores[0]) == [found[0].id]
    assert await spots(stores[0], found[0].id) == [("sms", "+1")]


RESOLVER = """
import asyncio, sys
from agentkeep import Store

async def main():
    async with Store.open(sys.argv[1]) as store:
        print("ready", flush=True)
        sys.stdin.readline()
        found = await asyncio.gather(*[store.identities.resolve("sms", str(n // 10)) for n in range(50)])
        print(" ".join(one.id for one in found), flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("template", ENGINES[1:], ids=["sqlite", "postgresql"])
async def test_several_processes_that_resolve_at_once_get_one_person(template: str, tmp_path: Path):
    database = Database(template, tmp_path)
    store = await database.open()
    command = [sys.executable, "-c", RESOLVER, database.url]
    workers = [subprocess.Popen(command, stdin=-1, stdout=-1, text=True) for _ in range(4)]
    for worker in workers:
        assert worker.stdout is not None
        assert await asyncio.to_thread(worker.stdout.readline) == "ready\n"
    told = await asyncio.gather(*[asyncio.to_thread(worker.communicate, "go\n", 60) for worker in workers])
    found = [out.split() for out, _ in told]
    assert len({tuple(ids) for ids in found}) == 1
    assert len(set(found[0])) == 5
    assert sorted(await people(store)) == sorted(set(found[0]))
    await database.close()


async def test_what_the_first_knows_of_a_person_is_kept_whoever_completes_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    one, other = await database.open(), await database.open()
    commit = one.commit

    async def late(partition: str, ops: Any, **options: Any) -> Any:
        if any(op.kind == "identity" for op in ops):
            monkeypatch.undo()
            await other.identities.resolve("sms", "+1", metadata={"b": 2})
        return await commit(partition, ops, **options)

    monkeypatch.setattr(one, "commit", late)
    made = await one.identities.resolve("sms", "+1", display_name="Jane", external_ids={"crm": "1"}, metadata={"a": 1})
    assert made.display_name == "Jane"
    assert await other.identities.find("sms", "+1") == made
    assert [person.id async for person in other.identities.list(external_id=("crm", "1"))] == [made.id]


async def test_a_resolve_that_breaks_off_is_finished_by_the_next(database: Database, monkeypatch: pytest.MonkeyPatch):
    async def act(store: Store, name: str) -> Identity:
        return await store.identities.resolve("sms", name, display_name="Jane")

    async def check(store: Store, name: str) -> None:
        found = await act(store, name)
        assert await spots(store, found.id) == [("sms", name)]
        assert await store.identities.find("sms", name) == found == await store.identities.get(found.id)

    assert await broken_off(database, monkeypatch, nothing, act, check) == 2


async def test_an_address_whose_person_is_not_made_yet_is_taken(database: Database, monkeypatch: pytest.MonkeyPatch):
    store, other = await database.open(), await database.open()
    with monkeypatch.context() as patched:
        Breaking(store, 1, written=False, monkeypatch=patched)
        with pytest.raises(Unavailable):
            await store.identities.resolve("sms", "1")
    await other.identities.create("b")
    with pytest.raises(Conflict):
        await other.identities.link("b", "sms", "1")
    found = await other.identities.find("sms", "1")
    assert found is not None
    assert await store.identities.resolve("sms", "1") == found


# --- organizations and tenants ---------------------------------------------------------------------------------------


async def test_an_organization_makes_an_address_its_own(store: Store):
    found = [
        await store.identities.resolve("sms", "1"),
        await store.identities.resolve("sms", "1", organization="a"),
        await store.identities.resolve("sms", "1", organization="b"),
        await store.identities.resolve("sms", "1a"),
        await store.identities.resolve("sms1", "a"),
    ]
    assert len({one.id for one in found}) == 5
    assert await store.identities.find("sms", "1", organization="a") == found[1]
    assert found[1].organization == "a"
    await store.identities.link(found[0].id, "email", "x", organization="a")
    assert await store.identities.find("email", "x") is None
    (_, address) = [one async for one in store.identities.addresses(found[0].id)][::-1]
    assert (address.channel_type, address.organization) == ("email", "a")
    await store.identities.unlink(found[0].id, "email", "x", organization="a")
    assert await store.identities.find("email", "x", organization="a") is None


async def test_a_tenant_sees_and_guesses_nothing_of_another(database: Database):
    store = await database.open(tenants="required")
    one, other = store.scope("one"), store.scope("other")
    jane = await one.identities.resolve("sms", "+1", display_name="Jane", organization="o", external_ids={"crm": "1"})
    await one.conversations.create("c")
    await one.identities.attach(jane.id, "c")
    assert await other.identities.find("sms", "+1", organization="o") is None
    assert await other.identities.get(jane.id) is None
    assert await people(other) == []
    assert [x async for x in other.identities.list(name="Jane")] == []
    assert [x async for x in other.identities.list(organization="o")] == []
    assert [x async for x in other.identities.list(external_id=("crm", "1"))] == []
    for call in (
        other.identities.link(jane.id, "sms", "2"),
        other.identities.delete(jane.id),
        other.identities.history(jane.id).page(),
        other.identities.unlink(jane.id, "sms", "+1", organization="o"),
    ):
        with pytest.raises(NotFound):
            await call
    bob = await other.identities.create(jane.id, display_name="Bob")
    await other.identities.link(bob.id, "sms", "+1", organization="o")
    assert await talks(other, bob.id) == []
    assert await one.identities.get(jane.id) == jane
    assert await one.identities.find("sms", "+1", organization="o") == jane
    with pytest.raises(NotFound):
        await other.identities.attach(bob.id, "c")
    with pytest.raises(Invalid):
        await store.identities.get(jane.id)


# --- link, unlink ----------------------------------------------------------------------------------------------------


async def test_a_person_has_many_addresses(store: Store):
    await store.identities.create("a")
    for number in range(10):
        made = await store.identities.link("a", "sms", str(number))
        assert isinstance(made, Address)
        assert (made.identity, made.channel_type, made.address) == ("a", "sms", str(number))
    assert await spots(store, "a") == [("sms", str(number)) for number in range(10)]
    assert await store.identities.link("a", "sms", "1") == await store.identities.link("a", "sms", "1")
    await store.identities.unlink("a", "sms", "1")
    with pytest.raises(NotFound):
        await store.identities.unlink("a", "sms", "1")
    assert await owned(store, "sms", "1") is None
    assert len(await spots(store, "a")) == 9


async def test_an_address_that_someone_has_is_a_conflict_that_does_not_say_who(store: Store):
    secret = await store.identities.resolve("sms", "1", display_name="Secret")
    await store.identities.create("b")
    with pytest.raises(Conflict) as caught:
        await store.identities.link("b", "sms", "1")
    assert "Another person has this address" in caught.value.hint
    said = f"{caught.value} {caught.value.__dict__}"
    assert secret.id not in said
    assert secret.life not in said
    with pytest.raises(NotFound):
        await store.identities.unlink("b", "sms", "1")
    assert await owned(store, "sms", "1") == secret.id
    assert await spots(store, "b") == []


async def test_of_many_who_link_an_address_at_once_one_does(database: Database):
    stores = [await database.open() for _ in range(3)]
    for number in range(9):
        await stores[0].identities.create(str(number))
    done = await asyncio.gather(
        *[stores[n % 3].identities.link(str(n), "sms", "1") for n in range(9)], return_exceptions=True
    )
    won = [one for one in done if isinstance(one, Address)]
    assert len(won) == 1
    assert all(isinstance(one, (Address, Conflict)) for one in done)
    for number in range(9):
        assert len(await spots(stores[0], str(number))) == (str(number) == won[0].identity)


async def test_links_and_unlinks_at_once_leave_a_list_that_is_true(database: Database):
    stores = [await database.open() for _ in range(3)]
    for id in "ab":
        await stores[0].identities.create(id)

    async def try_it(number: int) -> None:
        of, id = stores[number % 3].identities, "ab"[number % 2]
        try:
            if number % 5 < 3:
                await of.link(id, "sms", str(number % 4))
            else:
                await of.unlink(id, "sms", str(number % 4))
        except (Conflict, NotFound):
            return

    for start in range(0, 200, 20):
        await asyncio.gather(*[try_it(number) for number in range(start, start + 20)])
        lists = {id: await spots(stores[0], id) for id in "ab"}
        for number in range(4):
            holder = await owned(stores[0], "sms", str(number))
            assert [id for id in "ab" if ("sms", str(number)) in lists[id]] == ([] if holder is None else [holder])


async def test_a_link_that_breaks_off_is_whole_or_nothing_to_see(database: Database, monkeypatch: pytest.MonkeyPatch):
    async def begin(store: Store, name: str) -> None:
        await store.identities.create(name)

    async def act(store: Store, name: str) -> Address:
        return await store.identities.link(name, "sms", name)

    async def check(store: Store, name: str) -> None:
        there = await owned(store, "sms", name) is not None
        assert await spots(store, name) == ([("sms", name)] if there else [])
        await act(store, name)
        assert await owned(store, "sms", name) == name
        assert await spots(store, name) == [("sms", name)]

    assert await broken_off(database, monkeypatch, begin, act, check) == 3


async def test_an_unlink_that_breaks_off_is_whole_or_nothing_to_see(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    async def begin(store: Store, name: str) -> None:
        await store.identities.create(name)
        await store.identities.link(name, "sms", name)

    async def act(store: Store, name: str) -> None:
        await store.identities.unlink(name, "sms", name)

    async def check(store: Store, name: str) -> None:
        there = await owned(store, "sms", name) is not None
        assert await spots(store, name) == ([("sms", name)] if there else [])
        other = await store.identities.create()
        if not there:
            await store.identities.link(other.id, "sms", name)
            assert await spots(store, name) == []
            assert await spots(store, other.id) == [("sms", name)]

    assert await broken_off(database, monkeypatch, begin, act, check) == 2


async def test_a_link_that_an_unlink_overtakes_keeps_its_place_in_the_list(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    linking, other = await database.open(), await database.open()
    await other.identities.create("a")
    commit, unlink_commit = linking.commit, other.commit
    unlinking: list[asyncio.Task[None]] = []
    freed, linked = asyncio.Event(), asyncio.Event()

    async def late_unlink(partition: str, ops: Any, **options: Any) -> Any:
        if ops[0].kind == "contact":  # the address is free, its contact is about to go
            freed.set()
            await linked.wait()
        return await unlink_commit(partition, ops, **options)

    async def late_link(partition: str, ops: Any, **options: Any) -> Any:
        if not unlinking and ops[0].kind == "address":  # the contact is written, the address is not
            await other.identities.link("a", "sms", "1")
            monkeypatch.setattr(other, "commit", late_unlink)
            unlinking.append(asyncio.create_task(other.identities.unlink("a", "sms", "1")))
            await freed.wait()
        return await commit(partition, ops, **options)

    monkeypatch.setattr(linking, "commit", late_link)
    await linking.identities.link("a", "sms", "1")
    linked.set()
    await unlinking[0]
    assert await owned(linking, "sms", "1") == "a"
    assert await spots(linking, "a") == [("sms", "1")]


async def test_verification_stays_with_the_address(store: Store, database: Database):
    await store.identities.create("a")
    await store.identities.link("a", "sms", "1")
    (address,) = await store.identities.addresses("a")
    assert (address.verified_at, address.verified_by) == (None, None)
    database.clock.now += SECOND
    await store.identities.verify("a", "sms", "1", method="otp")
    await store.identities.create("b")
    await store.identities.merge("a", into="b")
    (address,) = await store.identities.addresses("a")
    assert (address.identity, address.verified_us, address.verified_by) == ("b", database.clock(), "otp")
    with pytest.raises(NotFound):
        await store.identities.verify("b", "sms", "2", method="otp")
    await store.identities.unlink("b", "sms", "1")
    assert (await store.identities.link("b", "sms", "1")).verified_at is None


# --- delete ----------------------------------------------------------------------------------------------------------


async def left(store: Store, *kinds: str) -> list[Key]:
    """The keys of all rows of these kinds."""
    found: list[Key] = []
    for kind in kinds:
        found += [row.key for row in (await store.engine.scan(Scan(kind, limit=1_000))).rows]
    return found


async def test_deleting_frees_the_addresses_and_leaves_nothing(store: Store):
    await store.conversations.create("c")
    await store.identities.create("a", display_name="Jane", external_ids={"crm": "1"}, metadata={"x": 1})
    for number in range(50):
        await store.identities.link("a", "sms", str(number))
    await store.identities.attach("a", "c")
    await store.identities.delete("a")
    assert await store.identities.get("a") is None
    assert await left(store, "address", "contact", "external_id", "membership") == []
    (row,) = await store.engine.get([Key("identity", "a", "")])
    assert row is not None
    assert b"Jane" not in row.doc
    assert (await store.identities.resolve("sms", "1")).id != "a"
    with pytest.raises(NotFound):
        await store.identities.delete("a")


async def test_an_id_that_is_given_again_is_another_person(store: Store):
    await store.conversations.create("c")
    first = await store.identities.create("a")
    await store.identities.link("a", "sms", "1")
    await store.identities.attach("a", "c")
    await store.identities.create("old")
    await store.identities.merge("old", into="a")
    await store.identities.delete("a")
    second = await store.identities.create("a", display_name="Second")
    assert second.life != first.life
    assert await store.identities.get("a") == second
    assert await store.identities.get("old") is None
    assert (await spots(store, "a"), await talks(store, "a")) == ([], [])
    assert await owned(store, "sms", "1") is None


async def test_of_many_who_give_a_deleted_id_again_one_does(database: Database, monkeypatch: pytest.MonkeyPatch):
    stores = [await database.open() for _ in range(3)]
    for number in range(6):
        id = str(number)
        await stores[0].identities.create(id, external_ids={"crm": id})
        with monkeypatch.context() as patched:
            Breaking(stores[0], 1, written=False, monkeypatch=patched)
            with pytest.raises(Unavailable):
                await stores[0].identities.delete(id)
        done = await asyncio.gather(
            *[stores[n % 3].identities.create(id, external_ids={"crm": f"{n}"}) for n in range(9)],
            return_exceptions=True,
        )
        (made,) = [one for one in done if isinstance(one, Identity)]
        assert await stores[0].identities.get(id) == made
        assert len([key for key in await left(stores[0], "external_id") if key.partition == id]) == 1


async def test_a_deletion_that_breaks_off_is_over_and_is_finished_later(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    async def begin(store: Store, name: str) -> None:
        await store.identities.create(name, external_ids={"crm": name})
        await store.identities.link(name, "sms", name)
        await store.conversations.ensure("c")
        await store.identities.attach(name, "c")

    async def act(store: Store, name: str) -> None:
        await store.identities.delete(name)

    async def check(store: Store, name: str) -> None:
        if await store.identities.get(name) is not None:
            await act(store, name)
        assert await owned(store, "sms", name) is None
        assert [one async for one in store.identities.list(external_id=("crm", name))] == []
        if len(name) % 2:
            await store.identities.finish()
        else:
            with pytest.raises(NotFound):
                await act(store, name)
        rest = await left(store, "address", "contact", "external_id", "membership")
        assert rest == []

    assert await broken_off(database, monkeypatch, begin, act, check) >= 5


async def test_a_link_to_a_person_deleted_meanwhile_is_not_found_and_frees_the_address(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    store, other = await database.open(), await database.open()
    await other.identities.create("a")
    commit = store.commit

    async def late(partition: str, ops: Any, **options: Any) -> Any:
        if ops[0].kind == "address":
            monkeypatch.undo()
            await other.identities.delete("a")
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", late)
    with pytest.raises(NotFound):
        await store.identities.link("a", "sms", "1")
    assert await left(store, "address", "contact") == []


async def test_a_late_resolver_makes_nobody_anew(database: Database, monkeypatch: pytest.MonkeyPatch):
    store, other = await database.open(), await database.open()
    commit = store.commit
    gone: list[str] = []

    async def late(partition: str, ops: Any, **options: Any) -> Any:
        if not gone and any(op.kind == "identity" for op in ops):
            gone.append((await other.identities.resolve("sms", "1")).id)
            await other.identities.delete(gone[0])
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", late)
    made = await store.identities.resolve("sms", "1")
    assert made.id != gone[0]
    assert await people(store) == [made.id]
    assert await store.identities.get(gone[0]) is None


# --- merge -----------------------------------------------------------------------------------------------------------


async def pair(store: Store, name: str = "") -> tuple[str, str]:
    """Two people with addresses, external ids and conversations, one of them in common."""
    for talk in "cde":
        await store.conversations.ensure(talk)
    for who, mine in (("a", "cd"), ("b", "de")):
        id = f"{who}{name}"
        await store.identities.create(id, external_ids={"crm": id}, metadata={who: 1, "who": who})
        for channel in ("sms", "email"):
            await store.identities.link(id, channel, id)
        for talk in mine:
            await store.identities.attach(id, talk)
    return f"a{name}", f"b{name}"


async def is_merged(store: Store, source: str, into: str) -> None:
    """All that was the source's is the target's, whoever asks."""
    person = await store.identities.get(into)
    assert person is not None
    assert (person.id, person.merge) == (into, None)
    assert await store.identities.get(source) == person
    assert person.external_ids == {"crm": (into, source)}
    assert person.metadata == {"a": 1, "b": 1, "who": into[0]}
    both = sorted([(channel, id) for channel in ("sms", "email") for id in (source, into)])
    assert await spots(store, source) == await spots(store, into) == both
    for channel, id in both:
        assert await owned(store, channel, id) == into
        assert {one.identity async for one in store.identities.addresses(into)} == {into}
    assert sorted(await talks(store, source)) == sorted(await talks(store, into)) == ["c", "d", "e"]
    for id in (source, into):
        assert [one.id async for one in store.identities.list(external_id=("crm", id))] == [into]
    assert source not in await people(store)
    there = await store.identities.get(source, follow=False)
    assert there is not None
    assert (there.merged_into, there.metadata) == (into, {})


async def is_two(store: Store, source: str, into: str) -> None:
    """Nothing was merged."""
    for id in (source, into):
        person = await store.identities.get(id)
        assert person is not None
        assert (person.id, person.merge) == (id, None)
        assert len(await spots(store, id)) == 2


@pytest.mark.parametrize("swapped", [False, True])
async def test_a_merge_makes_two_people_one(store: Store, swapped: bool):
    source, into = (await pair(store))[:: -1 if swapped else 1]
    merged = await store.identities.merge(source, into)
    assert merged.id == into
    assert await store.identities.get(into) == merged
    await is_merged(store, source, into)
    assert await store.identities.merge(source, into) == merged


async def test_a_merge_into_oneself_is_invalid(store: Store):
    await store.identities.create("a")
    with pytest.raises(Invalid):
        await store.identities.merge("a", into="a")


@pytest.mark.parametrize("swapped", [False, True])
async def test_of_two_merged_into_each_other_one_merge_wins(database: Database, swapped: bool):
    stores = [await database.open() for _ in range(2)]
    for number in range(6):
        one, other = await pair(stores[0], str(number))
        calls = [(stores[0], one, other), (stores[1], other, one)][:: -1 if swapped else 1]
        done = await asyncio.gather(
            *[store.identities.merge(source, into) for store, source, into in calls], return_exceptions=True
        )
        (won,) = [one for one in done if isinstance(one, Identity)]
        (lost,) = [one for one in done if isinstance(one, Conflict)]
        assert "merged" in lost.hint
        await is_merged(stores[0], other if won.id == one else one, won.id)


async def test_a_ring_of_merges_leaves_one_person(database: Database):
    stores = [await database.open() for _ in range(3)]
    for start in range(4):
        ids = [f"{start}{n}" for n in range(6)]
        for id in ids:
            await stores[0].identities.create(id)
            await stores[0].identities.link(id, "sms", id)
        ring = [(id, ids[(n + 1) % 6]) for n, id in enumerate(ids)]
        done = await asyncio.gather(
            *[stores[n % 3].identities.merge(*two) for n, two in enumerate(ring)], return_exceptions=True
        )
        assert sum(isinstance(one, Identity) for one in done) == 5
        assert sum(isinstance(one, Conflict) for one in done) == 1
        (left,) = {await owned(stores[0], "sms", id) for id in ids}
        assert left is not None
        assert len(await spots(stores[0], left)) == 6


async def test_of_two_targets_of_one_source_one_wins(database: Database):
    stores = [await database.open() for _ in range(2)]
    for number in range(5):
        for who in "abc":
            await stores[0].identities.create(f"{who}{number}")
        done = await asyncio.gather(
            stores[0].identities.merge(f"b{number}", f"a{number}"),
            stores[1].identities.merge(f"b{number}", f"c{number}"),
            return_exceptions=True,
        )
        assert sorted(type(one).__name__ for one in done) == ["Conflict", "Identity"]


async def test_merges_follow_each_other(store: Store):
    for id in "abc":
        await store.identities.create(id)
        await store.identities.link(id, "sms", id)
    await store.identities.merge("a", into="b")
    await store.identities.merge("b", into="c")
    assert [await owned(store, "sms", id) for id in "abc"] == ["c"] * 3
    assert len(await spots(store, "a")) == 3
    await store.identities.create("d")
    assert (await store.identities.merge("d", into="a")).id == "c"
    with pytest.raises(Conflict):
        await store.identities.merge("a", into=(await store.identities.create("e")).id)
    await store.identities.link("a", "email", "a")
    assert await owned(store, "email", "a") == "c"
    await store.identities.update("b", display_name="All")
    await store.identities.delete("a")
    assert [await store.identities.get(id) for id in "abcd"] == [None] * 4
    assert await left(store, "address", "contact") == []


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("by", ["merge", "get", "resolve", "finish"])
async def test_a_merge_that_breaks_off_anywhere_is_finished(
    database: Database, monkeypatch: pytest.MonkeyPatch, swapped: bool, by: str
):
    def ids(name: str) -> tuple[str, str]:
        return (f"b{name}", f"a{name}") if swapped else (f"a{name}", f"b{name}")

    async def begin(store: Store, name: str) -> None:
        await pair(store, name)

    async def act(store: Store, name: str) -> Identity:
        return await store.identities.merge(*ids(name))

    async def check(store: Store, name: str) -> None:
        source, into = ids(name)
        rows = await store.engine.get([Key("identity", f"{who}{name}", "") for who in "ab"])
        begun = any(row is not None and (b'"merge"' in row.doc or b"merged_into" in row.doc) for row in rows)
        match by:
            case "merge":
                await act(store, name)
                begun = True
            case "get":
                await store.identities.get(into)
            case "resolve":
                await store.identities.resolve("sms", source)
            case _:
                await store.identities.finish()
                (row,) = await store.engine.get([Key("identity", f"a{name}", "")])
                assert row is not None
                assert b"pending" not in row.doc
        if by == "get" and begun:
            await store.identities.get(source)
        merged = (await store.identities.get(source)) == (await store.identities.get(into))
        assert merged == begun or by in ("get", "resolve")
        if merged:
            await is_merged_or_finished(store, source, into)
        else:
            await act(store, name)
            await is_merged(store, source, into)

    async def is_merged_or_finished(store: Store, source: str, into: str) -> None:
        await store.identities.finish()
        await is_merged(store, source, into)

    assert await broken_off(database, monkeypatch, begin, act, check) >= 10


async def test_links_to_both_while_they_are_merged_are_the_targets(database: Database):
    stores = [await database.open() for _ in range(3)]
    for number in range(4):
        one, other = f"a{number}", f"b{number}"
        for id in (one, other):
            await stores[0].identities.create(id)
        await asyncio.gather(
            *[stores[n % 3].identities.link((one, other)[n % 2], "sms", f"{number}-{n}") for n in range(10)],
            stores[0].identities.merge(one, other),
            *[stores[n % 3].identities.update((one, other)[n % 2], metadata={f"n{n}": n}) for n in range(6)],
        )
        assert sorted(await spots(stores[0], one)) == [("sms", f"{number}-{n}") for n in range(10)]
        assert {await owned(stores[0], "sms", f"{number}-{n}") for n in range(10)} == {other}
        person = await stores[0].identities.get(one)
        assert person is not None
        assert person.metadata == {f"n{n}": n for n in range(6)}


async def test_a_link_overtaken_by_a_merge_is_the_targets(database: Database, monkeypatch: pytest.MonkeyPatch):
    store, other = await database.open(), await database.open()
    commit = store.commit
    for name, broken in (("x", False), ("y", True)):
        one, two = await pair(other, name)

        async def late(
            partition: str, ops: Any, *, one: str = one, two: str = two, broken: bool = broken, **options: Any
        ) -> Any:
            if ops[0].kind == "address":
                monkeypatch.undo()
                await other.identities.merge(one, two)
                answer = await commit(partition, ops, **options)
                if broken:
                    raise Unavailable("cut", retryable=False)
                return answer
            return await commit(partition, ops, **options)

        monkeypatch.setattr(store, "commit", late)
        if broken:
            with pytest.raises(Unavailable):
                await store.identities.link(one, "fax", name)
        else:
            assert (await store.identities.link(one, "fax", name)).identity == two
        assert await owned(other, "fax", name) == two
        assert ("fax", name) in await spots(other, two)


async def test_who_is_merged_between_two_reads_is_not_taken_for_another(database: Database):
    meetings: list[Meeting] = []

    def wrap(engine: Engine) -> Engine:
        meetings.append(Meeting(engine, "get", "address"))
        return cast(Engine, meetings[0])

    store, other = await database.open(wrap=wrap), await database.open()
    calls: dict[str, Callable[[str, str], Awaitable[Any]]] = {
        "link": lambda id, address: store.identities.link(id, "sms", address),
        "verify": lambda id, address: store.identities.verify(id, "sms", address, method="otp"),
        "list": lambda id, address: spots(store, id),
        "unlink": lambda id, address: store.identities.unlink(id, "sms", address),
    }
    for name, call in calls.items():
        one, two = await pair(other, name)
        met: list[Identity] = []

        async def meet(one: str = one, two: str = two, met: list[Identity] = met) -> None:
            met.append(await other.identities.merge(one, two))

        meetings[0].meet = meet
        answer = await call(one, one)
        assert met
        assert await owned(other, "sms", one) == (None if name == "unlink" else two)
        if name == "list":
            assert len(answer) == 4


async def test_a_mover_that_comes_late_writes_nothing(database: Database, monkeypatch: pytest.MonkeyPatch):
    store, other = await database.open(), await database.open()
    one, two = await pair(other)
    commit = store.commit
    met = False

    async def late(partition: str, ops: Any, **options: Any) -> Any:
        nonlocal met
        if not met and len(ops) > 1 and ops[1].kind == "contact":
            met = True
            await other.identities.finish()
            await other.identities.delete(two)
        return await commit(partition, ops, **options)

    monkeypatch.setattr(store, "commit", late)
    with pytest.raises(NotFound):
        await store.identities.merge(one, two)
    assert met
    assert await left(other, "address", "contact", "external_id", "membership") == []


async def test_a_merge_and_a_deletion_at_once_leave_one_or_none(database: Database):
    stores = [await database.open() for _ in range(2)]
    for number in range(8):
        one, other = await pair(stores[0], str(number))
        done = await asyncio.gather(
            stores[0].identities.merge(one, other),
            stores[1].identities.delete((one, other)[number % 2]),
            return_exceptions=True,
        )
        assert all(found is None or isinstance(found, (Identity, NotFound)) for found in done)
        await stores[0].identities.finish()
        alive = [id for id in (one, other) if await stores[0].identities.get(id) is not None]
        for id in alive:
            person = await stores[0].identities.get(id)
            assert person is not None
            assert person.merge is None
            for spot in await spots(stores[0], id):
                assert await owned(stores[0], *spot) == id
        if not alive:
            assert [key for key in await left(stores[0], "contact") if str(number) in key.partition] == []


async def test_records_that_do_not_fit_together_are_not_merged(store: Store):
    await store.identities.create("a", metadata={"a": "x" * 150_000})
    await store.identities.create("b", metadata={"b": "x" * 150_000})
    with pytest.raises(TooLarge):
        await store.identities.merge("a", into="b")
    for id in "ab":
        person = await store.identities.get(id)
        assert person is not None
        assert (person.id, person.merge, person.pending) == (id, None, None)


async def test_many_rows_are_merged(store: Store):
    await store.identities.create("a")
    await store.identities.create("b")
    for number in range(90):
        await store.identities.link("a", "sms", f"{number:02d}")
    await store.identities.merge("a", into="b")
    assert await spots(store, "b") == [("sms", f"{number:02d}") for number in range(90)]
    assert {key.partition for key in await left(store, "contact")} == {"b"}


# --- candidates ------------------------------------------------------------------------------------------------------


async def test_candidates_are_suggested_rejected_and_confirmed(store: Store):
    for id in "abc":
        await store.identities.create(id)
    of = store.identities
    await of.suggest("sms", "1", {"a": 0.2, "b": 0.9})
    await of.suggest("sms", "1", {"a": 0.4, "c": 0.1})
    found = await of.candidates("sms", "1")
    assert [(one.identity, one.confidence) for one in found] == [("b", 0.9), ("a", 0.4), ("c", 0.1)]
    assert await of.candidates("sms", "2") == []
    assert [one.identity for one in await of.reject("b", "sms", "1") if one] == ["a", "c"]
    await of.suggest("sms", "1", {"b": 1.0})
    assert [one.identity for one in await of.candidates("sms", "1")] == ["a", "c"]
    address = await of.confirm("a", "sms", "1", method="asked")
    assert (address.identity, address.verified_by) == ("a", "asked")
    assert await of.candidates("sms", "1") == []
    assert await owned(store, "sms", "1") == "a"
    with pytest.raises(Conflict):
        await of.confirm("c", "sms", "1", method="asked")


async def test_candidates_are_who_they_are_now(store: Store):
    for id in "abcd":
        await store.identities.create(id)
    await store.identities.suggest("sms", "1", {"a": 0.9, "b": 0.5, "c": 0.4, "d": 0.3})
    await store.identities.merge("a", into="b")
    await store.identities.delete("c")
    found = await store.identities.candidates("sms", "1")
    assert [(one.identity, one.confidence) for one in found] == [("b", 0.9), ("d", 0.3)]
    await store.identities.create("c")
    assert len(await store.identities.candidates("sms", "1")) == 2


async def test_concurrent_suggestions_are_all_kept(store: Store):
    for number in range(10):
        await store.identities.create(str(number))
    await asyncio.gather(*[store.identities.suggest("sms", "1", {str(n): n / 10}) for n in range(10)])
    assert [one.identity for one in await store.identities.candidates("sms", "1")] == list("9876543210")


async def test_a_confirmation_that_breaks_off_is_finished_by_the_same_call(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    async def begin(store: Store, name: str) -> None:
        await store.identities.create(name)
        await store.identities.suggest("sms", name, {name: 0.5})

    async def act(store: Store, name: str) -> Address:
        return await store.identities.confirm(name, "sms", name, method="otp")

    async def check(store: Store, name: str) -> None:
        assert (await act(store, name)).verified_by == "otp"
        assert await store.identities.candidates("sms", name) == []
        assert await owned(store, "sms", name) == name

    assert await broken_off(database, monkeypatch, begin, act, check) == 5


# --- conversations ---------------------------------------------------------------------------------------------------


async def test_conversations_come_with_the_one_attached_last_first(store: Store, database: Database):
    await store.identities.create("a")
    await store.identities.create("b")
    for id in "cdef":
        database.clock.now += SECOND
        await store.conversations.create(id, title=id)
        await store.identities.attach("a", id)
    await store.identities.attach("b", "c")
    assert await talks(store, "a") == ["f", "e", "d", "c"]
    database.clock.now += SECOND
    await store.identities.attach("a", "d")
    assert await talks(store, "a") == ["d", "f", "e", "c"]
    await store.identities.detach("a", "f")
    assert await talks(store, "a") == ["d", "e", "c"]
    (first,) = await store.identities.conversations("a", limit=1)
    assert first.title == "d"


async def test_a_conversation_that_is_deleted_is_not_seen_nor_one_that_has_its_id_later(store: Store):
    await store.identities.create("a")
    for id in "cd":
        talk = await store.conversations.create(id)
        await store.identities.attach("a", id)
        await talk.append(id)
    await store.conversations.delete("c")
    assert await talks(store, "a") == ["d"]
    again = await store.conversations.create("c")
    await again.append("secret")
    assert await talks(store, "a") == ["d"]
    assert [event.conversation async for event in store.identities.history("a")] == ["d"]
    await store.identities.attach("a", "c")
    assert sorted(await talks(store, "a")) == ["c", "d"]


async def test_history_is_all_events_in_order_of_time(store: Store, database: Database):
    await store.identities.create("a")
    names = ["c", "d", "e", "x" * 600]
    handles = [await store.conversations.create(name) for name in names]
    for name in names:
        await store.identities.attach("a", name)
    order: list[tuple[str, int]] = []
    for number in range(60):
        database.clock.now += SECOND
        event = await handles[(number * number) % 4].append(str(number), channel=("sms", "email")[number % 2])
        order.append((event.conversation, event.index))
    for limit in (1, 7, 60, 1000):
        found = [event async for event in store.identities.history("a", limit=limit)]
        assert [(event.conversation, event.index) for event in found] == order
    assert [event.created_us for event in found] == sorted(event.created_us for event in found)
    page = await store.identities.history("a", limit=25)
    more = await store.identities.history("a", limit=100, after=page.cursor)
    assert len(page) + len(more) == 60
    assert more.cursor is None


async def test_history_goes_on_over_clocks_that_differ_gaps_and_what_comes_meanwhile(store: Store, database: Database):
    await store.identities.create("a")
    one, other = await store.conversations.create("c"), await store.conversations.create("d")
    for id in "cd":
        await store.identities.attach("a", id)
    for number in range(20):
        database.clock.now += SECOND * (-3 if number % 3 == 0 else 2)
        await (one, other)[number % 2].append(str(number))
    await one.clear()
    for number in range(20, 30):
        database.clock.now += SECOND
        await one.append(str(number))
    seen: list[tuple[str, int]] = []
    after: str | None = None
    while True:
        page = await store.identities.history("a", limit=3, after=after)
        seen += [(event.conversation, event.index) for event in page]
        after = page.cursor
        if after is None:
            break
        if len(seen) < 15:
            await other.append("more")
    assert len(seen) == len(set(seen))
    assert [index for id, index in seen if id == "c"] == list(range(11, 21))
    assert [index for id, index in seen if id == "d"] == list(range(1, await other.length() + 1))


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "AAAAAAAAAAAA"])
async def test_a_cursor_that_is_damaged_is_refused(store: Store, cursor: str):
    await store.identities.create("a")
    with pytest.raises(Invalid):
        await store.identities.history("a", after=cursor)


async def test_attaching_while_two_are_merged_loses_nothing(database: Database):
    stores = [await database.open() for _ in range(3)]
    for number in range(10):
        await stores[0].conversations.create(str(number))
    for id in "ab":
        await stores[0].identities.create(id)
    await asyncio.gather(
        *[stores[n % 3].identities.attach("ab"[n % 2], str(n)) for n in range(10)],
        stores[1].identities.merge("a", into="b"),
    )
    assert sorted(await talks(stores[0], "a")) == sorted(map(str, range(10)))


# --- any text --------------------------------------------------------------------------------------------------------


@case("S5", "F1", "F2", "S6")
async def test_ids_and_addresses_of_any_text_are_their_own(store: Store):
    for id in HOSTILE:
        await store.identities.create(id, display_name=id, organization=id, external_ids={id: id}, metadata={"x": id})
        await store.identities.link(id, id, id)
        await store.identities.link(id, id, id, organization=id)
        await store.conversations.create(id)
        await store.identities.attach(id, id)
    for id in HOSTILE:
        found = await store.identities.get(id)
        assert found is not None
        assert (found.id, found.display_name, found.metadata) == (id, id, {"x": id})
        assert await store.identities.find(id, id) == found
        assert await store.identities.find(id, id, organization=id) == found
        listed = {(one.address, one.organization) async for one in store.identities.addresses(id)}
        assert listed == {(id, None), (id, id)}
        assert await talks(store, id) == [id]
        assert [one.id async for one in store.identities.list(external_id=(id, id))] == [id]
        assert [one.id async for one in store.identities.list(organization=id)] == [id]
        assert id in [one.id async for one in store.identities.list(name=id)]
    for one, other in zip(HOSTILE[::2], HOSTILE[1::2], strict=False):
        await store.identities.merge(one, into=other)
        assert await owned(store, one, one) == other
    for id in HOSTILE[1::2]:
        await store.identities.delete(id)
        assert await store.identities.find(id, id) is None


@case("S5", "S6")
@pytest.mark.parametrize("length", [380, 381, 382, 400, 512, 600, 5000])
async def test_long_texts_that_differ_at_the_end_stay_apart(store: Store, length: int):
    for last in "ab":
        text = "x" * length + last
        await store.identities.create(text, external_ids={"crm": text})
        await store.identities.link(text, "sms", text)
    for last in "ab":
        text = "x" * length + last
        assert await owned(store, "sms", text) == text
        assert await spots(store, text) == [("sms", text)]
        assert [one.id async for one in store.identities.list(external_id=("crm", text))] == [text]


def test_addresses_of_different_parts_are_different_rows():
    parts = [(a, b) for pair in SEPARATED for a, b in [pair, pair[::-1]]]
    made = {Spot(a, b) for a, b in parts} | {Spot(a, b, c) for a, b in parts for c in (a, b, "")}
    assert len({spot.packed for spot in made}) == len(made)
    assert len({spot.partition for spot in made}) == len(made)


def test_a_digest_in_an_index_cannot_be_faked():
    texts = ["x" * 121, "x" * 120, "\ud800" * 100, "\U0010ffff", short("x" * 121)]
    assert len({short(text) for text in texts}) == len(texts)
    assert short("x" * 120) == "x" * 120


# --- the sync API ----------------------------------------------------------------------------------------------------


def test_the_sync_twin():
    with SyncStore.open("memory://") as store:
        assert isinstance(store.identities, SyncIdentities)
        jane = store.identities.resolve("sms", "1")
        store.identities.link(jane.id, "email", "x")
        assert [one.channel_type for one in store.identities.addresses(jane.id)] == ["email", "sms"]
        talk = store.conversations.create("c")
        talk.append("hi")
        store.identities.attach(jane.id, "c")
        assert [text_of(event.content) for event in store.identities.history(jane.id)] == ["hi"]
        assert [one.id for one in store.identities.list()] == [jane.id]


# --- everything at once ----------------------------------------------------------------------------------------------


class Unreliable:
    """A store some of whose commits fail: before they are written, or with their answer lost."""

    def __init__(self, store: Store, chance: Random, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("commit", "commit_all"):
            monkeypatch.setattr(store, name, self._wrap(getattr(store, name), chance))

    def _wrap(self, commit: Callable[..., Awaitable[Any]], chance: Random) -> Callable[..., Awaitable[Any]]:
        async def unreliable(*args: Any, **options: Any) -> Any:
            drawn = chance.random()
            if drawn < 0.03:
                raise Unavailable("cut", retryable=False)
            answer = await commit(*args, **options)
            if drawn > 0.97:
                raise Unavailable("cut", retryable=False)
            return answer

        return unreliable


async def any_of(store: Store, chance: Random) -> None:
    """One call of any kind, on one of six people and eight addresses."""
    of = store.identities
    one, other = chance.sample("012345", 2)
    at = ("sms", str(chance.randrange(8)))
    match chance.randrange(10):
        case 0:
            await of.create(one, external_ids={"crm": one})
        case 1:
            await of.resolve(*at)
        case 2 | 3 | 4:
            await of.link(one, *at)
        case 5:
            await of.unlink(one, *at)
        case 6:
            await of.merge(one, into=other)
        case 7:
            await of.attach(one, chance.choice("cd"))
        case 8:
            await of.update(one, metadata={other: other})
        case _:
            await (of.delete(one) if chance.random() < 0.4 else of.addresses(one).page())


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_done_and_breaks_off_at_once_the_people_are_whole(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
):
    healthy, chance = await database.open(), Random(seed)
    stores = [await database.open() for _ in range(3)]
    for id in "cd":
        await healthy.conversations.create(id)

    async def try_it(store: Store, own: Random) -> None:
        try:
            await any_of(store, own)
        except (Conflict, NotFound, Unavailable):
            return

    for _ in range(8):
        with monkeypatch.context() as patched:
            for store in stores:
                Unreliable(store, Random(chance.random()), patched)
            await asyncio.gather(*[try_it(stores[n % 3], Random(chance.random())) for n in range(25)])
        await are_whole(healthy)
    await healthy.identities.finish()
    await are_whole(healthy)
    for id in await people(healthy):
        await healthy.identities.delete(id)
    await healthy.identities.finish()
    assert [await owned(healthy, "sms", str(number)) for number in range(8)] == [None] * 8
    assert await left(healthy, "contact", "external_id", "membership") == []


async def are_whole(store: Store) -> None:
    """Each address is in the list of the person who has it, and in no other list."""
    holders = {number: await owned(store, "sms", str(number)) for number in range(8)}
    lists: dict[tuple[str, str], str] = {}
    for id in await people(store):
        person = await store.identities.get(id)
        if person is not None and person.id == id:
            for spot in await spots(store, id):
                assert spot not in lists
                lists[spot] = id
    assert lists == {("sms", str(number)): id for number, id in holders.items() if id is not None}
