"""An import can be stopped anywhere and run again: it goes on, and nothing is there twice or overwritten."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentkeep import NotFound, Store, Unavailable
from agentkeep.engines.memory import Memory
from agentkeep.waist import Batch
from transfers import dump_bytes, load_lines


def _dialogue(id: str, turns: int) -> dict[str, Any]:
    frame = {"service": "A", "intent": "I"}
    said = [
        {"speaker": "user", "text": f"{n} of {id}", "frames": [{**frame, "slots": {"n": str(n)}}]} for n in range(turns)
    ]
    return {"dialogue_id": id, "services": ["A"], "turns": said}


def _lines(*dialogues: dict[str, Any]) -> list[str]:
    return [json.dumps(dialogue, separators=(",", ":")) for dialogue in dialogues]


CHATS = _lines(_dialogue("a", 100), _dialogue("b", 1), _dialogue("c", 50), _dialogue("d", 0))


class Stops(Memory):
    """A database that goes away after a number of batches."""

    left = 1_000_000

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> Any:
        """Commit as many as are left; the others, and the answers, are lost."""
        answers: list[Any] = []
        for batch in batches:
            if self.left == 0:
                raise Unavailable("gone", outcome="unknown", retryable=False)
            answers += await super().commit([batch], restore=restore)
            self.left -= 1
        return answers


async def _stopped(place: Path, format: str, lines: Sequence[str | bytes], after: int) -> tuple[Store, bool]:
    """A store into which an import was stopped after a number of batches, and whether that was before its end."""
    engine = Stops()
    store = await Store.on(engine)
    engine.left = after
    try:
        await load_lines(store, place, format, *lines)
    except Unavailable:
        engine.left = 1_000_000
        return store, True
    return store, False


@pytest.mark.parametrize("format", ["sgd", "agentkeep"])
async def test_an_import_stopped_after_any_batch_goes_on(format: str, tmp_path: Path):
    async with Store.open("memory://") as whole:
        await load_lines(whole, tmp_path, "sgd", *CHATS)
        expected = await dump_bytes(whole, tmp_path, format)
    lines: Sequence[str | bytes] = CHATS if format == "sgd" else expected.splitlines()
    stopped, after = True, 0
    while stopped:
        store, stopped = await _stopped(tmp_path, format, lines, after)
        loaded, failures = await load_lines(store, tmp_path, format, *lines)
        assert (loaded.stored + loaded.there, failures) == (4, [])
        assert await dump_bytes(store, tmp_path, format) == expected
        await store.close()
        after += 1
    assert after > 7


async def test_an_id_that_comes_again_in_the_file_is_named_with_both_lines(tmp_path: Path):
    async with Store.open("memory://") as store:
        loaded, (failure,) = await load_lines(store, tmp_path, "sgd", *_lines(_dialogue("a", 1), _dialogue("a", 2)))
        assert (loaded.stored, failure.line, failure.id) == (1, 2, "a")
        assert "line 1" in failure.reason


async def test_another_conversation_with_the_id_is_left_as_it_is(tmp_path: Path):
    async with Store.open("memory://") as store:
        talk = await store.conversations.create("a")
        await talk.append("mine")
        before = await dump_bytes(store, tmp_path, "agentkeep")
        loaded, (failure,) = await load_lines(store, tmp_path, "sgd", *_lines(_dialogue("a", 1), _dialogue("b", 1)))
        assert (loaded.stored, loaded.failed, failure.line) == (1, 1, 1)
        assert "other content" in failure.reason
        await store.conversations.delete("b")
        assert await dump_bytes(store, tmp_path, "agentkeep") == before


async def test_a_line_that_was_changed_since_is_other_content(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", *_lines(_dialogue("a", 3)))
        changed = CHATS[0].replace("1 of a", "one of a")
        loaded, (failure,) = await load_lines(store, tmp_path, "sgd", changed)
        assert (loaded.stored, loaded.there) == (0, 0)
        assert "other content" in failure.reason


async def test_a_conversation_that_went_on_is_there_all_the_same(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", *CHATS)
        talk = await store.conversations.get("a")
        assert talk is not None
        await talk.append("more")
        await talk.update(title="renamed")
        loaded, failures = await load_lines(store, tmp_path, "sgd", *CHATS)
        assert (loaded.stored, loaded.there, failures) == (0, 4, [])
        assert (await talk.length(), (await talk.refresh()).title) == (202 - 1, "renamed")


async def test_somebody_who_wrote_into_a_half_imported_conversation_is_not_overwritten(tmp_path: Path):
    store, _ = await _stopped(tmp_path, "sgd", CHATS, 1)
    talk = await store.conversations.get("a")
    assert talk is not None
    mine = await talk.append("mine")
    loaded, (failure,) = await load_lines(store, tmp_path, "sgd", *CHATS)
    assert (loaded.stored, failure.line, await talk.length()) == (3, 1, mine.index)
    await store.close()


async def test_a_backup_brings_back_what_was_deleted_under_new_numbers(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", *CHATS)
        backup = (await dump_bytes(store, tmp_path, "agentkeep")).splitlines()
        await store.conversations.delete("a")
        for lines, format in ((backup, "agentkeep"), (backup, "agentkeep"), (CHATS, "sgd")):
            loaded, failures = await load_lines(store, tmp_path, format, *lines)
            assert (loaded.stored + loaded.there, failures) == (4, [])
        talk = await store.conversations.get("a")
        assert talk is not None
        assert [event.index async for event in talk.events()] == list(range(201, 401))
        assert (await dump_bytes(store, tmp_path, "sgd")).decode().splitlines() == CHATS


async def _used(store: Store) -> None:
    """Keys used in what was imported, then all of it deleted."""
    for id in "abcd":
        talk = await store.conversations.get(id)
        assert talk is not None
        assert (await talk.append("mine", key="k")).index == await talk.length()
        await talk.delete()


@pytest.mark.parametrize("format", ["sgd", "agentkeep"])
async def test_what_is_imported_after_a_deletion_knows_no_key_of_before(format: str, tmp_path: Path):
    """Time and again, and wherever an import is stopped: it ends as one that was not, and export and keys with it."""
    async with Store.open("memory://") as first:
        for id in "abcd":
            await first.conversations.create(id)
            await first.conversations.delete(id)
        await load_lines(first, tmp_path, "sgd", *CHATS)
        for id in "abcd":
            talk = await first.conversations.get(id)
            assert talk is not None
            await talk.append("end", key="k")
        backup = (await dump_bytes(first, tmp_path, "agentkeep")).splitlines()
    lines: Sequence[str | bytes] = CHATS if format == "sgd" else backup
    expected: list[bytes] = []
    stopped, after = True, 0
    while stopped:
        engine = Stops()
        store = await Store.on(engine, clock=lambda: 1_700_000_000_000_000)
        got: list[bytes] = []
        for round in range(3):
            engine.left = after if round else engine.left
            stopped = False
            try:
                await load_lines(store, tmp_path, format, *lines)
            except Unavailable:
                stopped = True
            engine.left = 1_000_000
            for stored in (4, 0):
                loaded, failures = await load_lines(store, tmp_path, format, *lines)
                assert (loaded.stored + loaded.there, failures) == (4, [])
                assert loaded.stored in (stored, 0) or stopped
            got.append(await dump_bytes(store, tmp_path, "sgd" if format == "sgd" else "agentkeep"))
            await _used(store)
        await store.close()
        expected = expected or got
        assert got == expected
        after += 1
    assert after > 7


async def test_imports_at_once_after_a_deletion_agree_on_the_life(tmp_path: Path):
    async with Store.open("memory://") as store:
        talk = await store.conversations.create("x")
        await talk.append("one", key="k")
        backup = await dump_bytes(store, tmp_path, "agentkeep")
        lives = [talk.record.life]
        for _ in range(3):
            await store.conversations.delete("x")
            places = [tmp_path / "1", tmp_path / "2"]
            for place in places:
                place.mkdir(exist_ok=True)
            both = await asyncio.gather(*(load_lines(store, place, "agentkeep", backup) for place in places))
            assert [failures for _, failures in both] == [[], []]
            again = await store.conversations.get("x")
            assert again is not None
            length = await again.length()
            assert (await again.append("two", key="k")).index == length + 1
            assert [one.life for one in await store.conversations.list()] == [again.record.life]
            lives.append(again.record.life)
        assert len(set(lives)) == 4
        assert {life.partition("@")[0] for life in lives} == {talk.record.life}
        with pytest.raises(NotFound):
            await talk.append("late")


async def test_a_cleared_conversation_is_not_filled_again(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", *CHATS)
        talk = await store.conversations.get("b")
        assert talk is not None
        await talk.clear()
        loaded, (failure,) = await load_lines(store, tmp_path, "sgd", *CHATS)
        assert (loaded.there, failure.id, [event async for event in talk.events()]) == (3, "b", [])


async def test_an_older_backup_changes_nothing_and_a_newer_one_is_named(tmp_path: Path):
    async with Store.open("memory://") as store, Store.open("memory://") as other:
        talk = await store.conversations.create("x")
        await talk.append("one")
        old = await dump_bytes(store, tmp_path, "agentkeep")
        await load_lines(other, tmp_path, "agentkeep", old)
        await talk.update(title="new")
        await talk.append("two")
        new = await dump_bytes(store, tmp_path, "agentkeep")
        loaded, failures = await load_lines(store, tmp_path, "agentkeep", old)
        assert (loaded.there, failures) == (1, [])
        assert await dump_bytes(store, tmp_path, "agentkeep") == new
        _, (failure,) = await load_lines(other, tmp_path, "agentkeep", new)
        assert "other content" in failure.reason
        assert await dump_bytes(other, tmp_path, "agentkeep") == old


async def test_two_imports_at_once_write_everything_once(tmp_path: Path):
    async with Store.open("memory://") as store, Store.open("memory://") as whole:
        await load_lines(whole, tmp_path, "sgd", *CHATS)
        places = [tmp_path / "1", tmp_path / "2"]
        for place in places:
            place.mkdir()
        both = await asyncio.gather(*(load_lines(store, place, "sgd", *CHATS) for place in places))
        assert [failures for _, failures in both] == [[], []]
        assert await dump_bytes(store, tmp_path, "sgd") == await dump_bytes(whole, tmp_path, "sgd")


async def test_an_event_over_a_limit_leaves_nothing_of_its_conversation(tmp_path: Path):
    chat = {"id": "x", "messages": [{"role": "user", "content": "hi", "name": "n"} for _ in range(60)]}
    chat["messages"][-1]["name"] = "n" * 5_000
    async with Store.open("memory://") as store:
        _, (failure,) = await load_lines(store, tmp_path, "openai", json.dumps(chat))
        assert "4,096" in failure.reason
        assert await store.conversations.get("x") is None


async def test_imports_into_tenants_do_not_meet(tmp_path: Path):
    async with Store.open("memory://", tenants="required") as store:
        for tenant in ("a", "b"):
            loaded, failures = await load_lines(store.scope(tenant), tmp_path, "sgd", *CHATS)
            assert (loaded.stored, failures) == (4, [])
            assert (await dump_bytes(store.scope(tenant), tmp_path, "sgd")).decode().splitlines() == CHATS


async def test_an_import_that_is_killed_again_and_again_ends_in_the_same_export(tmp_path: Path):
    lines = _lines(*(_dialogue(f"{n:05}", 40 + n % 50) for n in range(400)))
    source, url = tmp_path / "in.jsonl", f"sqlite:///{tmp_path}/db.sqlite"
    source.write_text("\n".join(lines))
    command = [sys.executable, "-m", "agentkeep", "import", str(source), "--format", "sgd", "--to", url]
    chance, killed = random.Random(7), 0
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            process.wait(0.2 + chance.random())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
    done = subprocess.run([*command, "--json"], capture_output=True, check=True)
    assert (json.loads(done.stdout)["failed"], killed > 0) == (0, True)
    async with Store.open(url) as store:
        assert (await dump_bytes(store, tmp_path, "sgd")).decode().splitlines() == lines
