"""An export in agentkeep's own format is the same conversation in another database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeep import Corrupt, Event, SchemaMismatch, Store, Text, ToolCall, ToolResult, Visibility
from agentkeep.keys import seq_sort
from agentkeep.transfer import Input, Output, native
from transfers import dump_bytes, load_lines

ODD = "\x00 \ud800 \\ud800 \N{PILE OF POO} \u2028"


async def _full(store: Store) -> None:
    """Conversations with everything that can be special about one."""
    talk = await store.conversations.create(ODD, user=ODD, title="t", metadata={"a": {"b": [1, 2.5]}, ODD: ODD})
    await talk.append(ODD, sender=ODD, channel="sms", key="k", metadata={"n": 2**60, "x": -0.0})
    await talk.append(ToolCall("c", "f", {"big": 10**30, "one": 1, "one.0": 1.0}), agent="x")
    await talk.append(ToolResult("c", error="no"), agent="x", parent=2)
    await talk.handoff("billing", reason="refund")
    await talk.append("x" * 300_000, correlation="large", run="r")
    await store.delete(Event, ODD, seq_sort(3))
    await talk.set_state(phase="p", data={"k": [None, {}]})
    fork = await talk.fork(id="fork", at=4)
    await fork.close()
    cleared = await store.conversations.create("cleared")
    await cleared.append_many([f"{n}" for n in range(10)])
    await cleared.clear()
    await cleared.append("after")
    await store.conversations.create("empty")
    long = await store.conversations.create("i" * 900)
    for start in range(0, 2_250, 45):
        await long.append_many([f"event {start + n}" for n in range(45)])


async def test_another_database_has_everything_and_exports_the_same(tmp_path: Path):
    async with Store.open("memory://") as here, Store.open("memory://") as there:
        await _full(here)
        written = await dump_bytes(here, tmp_path, "agentkeep")
        loaded, failures = await load_lines(there, tmp_path, "agentkeep", written)
        assert (loaded.stored, failures) == (5, [])
        assert await dump_bytes(there, tmp_path, "agentkeep") == written
        again, failures = await load_lines(there, tmp_path, "agentkeep", written)
        assert (again.stored, again.there, failures) == (0, 5, [])
        assert await dump_bytes(there, tmp_path, "agentkeep") == written
        for id, events in ((ODD, [1, 2, 4, 5]), ("fork", [1, 2, 4]), ("cleared", [11]), ("empty", [])):
            talk = await there.conversations.get(id)
            assert talk is not None
            assert [event.index async for event in talk.events()] == events
        talk = await there.conversations.get("cleared")
        assert talk is not None
        assert (await talk.append("next")).index == 12
        fork = await there.conversations.get("fork")
        assert fork is not None
        assert (fork.record.status, fork.record.origin.index if fork.record.origin else 0) == ("closed", 4)
        assert [item.id async for item in there.conversations.list(status="closed")] == ["fork"]
        found = await there.conversations.find({"metadata.a.b": 2.5})
        assert [item.id for item in found] == [ODD, "fork"]


async def test_gzip_is_by_suffix_and_found_by_its_first_bytes(tmp_path: Path):
    async with Store.open("memory://") as store:
        await store.conversations.create("a")
        plain = await dump_bytes(store, tmp_path, "agentkeep")
    with Output(str(tmp_path / "x.jsonl.gz")) as file:
        file.write(plain)
    packed = (tmp_path / "x.jsonl.gz").read_bytes()
    assert packed[:2] == b"\x1f\x8b"
    (tmp_path / "x.jsonl").write_bytes(packed)
    with Input(str(tmp_path / "x.jsonl")) as lines:
        assert [line.text for line in lines] == plain.splitlines()


async def test_a_file_appears_only_when_it_is_whole(tmp_path: Path):
    path = tmp_path / "x.jsonl"
    path.write_text("before")
    half = Output(str(path))
    half.write(b"half")
    half.__exit__(RuntimeError, RuntimeError(), None)
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["x.jsonl"]


async def _lines(place: Path) -> list[bytes]:
    async with Store.open("memory://") as store:
        for id in ("a", "b"):
            talk = await store.conversations.create(id)
            await talk.append_many(["one", "two", "three"])
            await talk.set_state(phase="p")
        return (await dump_bytes(store, place, "agentkeep")).splitlines()


@pytest.mark.parametrize(
    ("number", "change", "reason"),
    [
        (2, lambda line: line[:-9], "JSON"),
        (2, lambda line: line.replace(b'"rev"', b'"was"'), "no rev"),
        (2, lambda line: line.replace(b'"seq":3', b'"seq":-3'), "head"),
        (3, lambda line: line.replace(b'"conversation":"a"', b'"conversation":"z"'), "belongs"),
        (4, lambda line: line.replace(b'"text":"one"', b'"text":1'), "Expected `str`"),
        (4, lambda line: line.replace(b'"index":1', b'"index":9'), "number 9"),
        (5, lambda line: b"{}", "no conversation, state"),
        (5, lambda line: b"", "lines are missing"),
        (5, lambda line: line.replace(b'"index":2', b'"index":1'), "out of order"),
    ],
)
async def test_a_broken_line_takes_its_conversation_with_it_until_it_is_mended(
    number: int, change: Any, reason: str, tmp_path: Path
):
    lines = await _lines(tmp_path)
    broken = [*lines]
    broken[number - 1] = change(lines[number - 1])
    assert broken != lines
    async with Store.open("memory://") as store:
        loaded, (failure,) = await load_lines(store, tmp_path, "agentkeep", *broken)
        assert reason in failure.reason
        assert failure.line == number or (number, failure.line) == (5, 7)
        assert (loaded.stored, await store.conversations.get("a")) == (1, None)
        loaded, failures = await load_lines(store, tmp_path, "agentkeep", *lines)
        assert (loaded.stored, loaded.there, failures) == (1, 1, [])
        assert (await dump_bytes(store, tmp_path, "agentkeep")).splitlines() == lines


async def test_a_file_that_was_cut_says_so(tmp_path: Path):
    lines = await _lines(tmp_path)
    async with Store.open("memory://") as store:
        loaded, (failure,) = await load_lines(store, tmp_path, "agentkeep", *lines[:-1])
        assert (loaded.stored, failure.line, failure.id) == (1, 8, "b")
        assert "cut" in failure.reason


async def test_a_damaged_gzip_file_is_corrupt_after_what_came_before(tmp_path: Path):
    lines = await _lines(tmp_path)
    with Output(str(tmp_path / "in.jsonl.gz")) as file:
        file.write(b"\n".join(lines))
        file.write(b"\n" + b"%x" * 100_000)
    cut = (tmp_path / "in.jsonl.gz").read_bytes()[:-20]
    async with Store.open("memory://") as store:
        with pytest.raises(Corrupt, match="damaged after line"):
            await load_lines(store, tmp_path, "agentkeep", cut)
        assert len(await store.conversations.list()) == 2


async def test_another_file_and_a_later_version_are_refused(tmp_path: Path):
    async with Store.open("memory://") as store:
        for line in ('{"messages": []}', "hello", '{"end": {"events": 0}}'):
            with pytest.raises(Corrupt, match="not an agentkeep export"):
                await load_lines(store, tmp_path, "agentkeep", line)
        with pytest.raises(SchemaMismatch, match="version 2"):
            await load_lines(store, tmp_path, "agentkeep", native.header().replace(b"1", b"2"))


async def test_exports_can_be_joined(tmp_path: Path):
    lines = await _lines(tmp_path)
    half = 1 + (len(lines) - 1) // 2
    async with Store.open("memory://") as store:
        loaded, failures = await load_lines(store, tmp_path, "agentkeep", *lines[:half], lines[0], *lines[half:])
        assert (loaded.stored, failures) == (2, [])


_text = st.text(st.characters(), max_size=6)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=4,
)
_event = st.fixed_dictionaries(
    {"content": _text | _json},
    optional={
        "sender": _text,
        "channel": _text,
        "type": _text.filter(bool),
        "parent": st.integers(1, 9),
        "visibility": st.sampled_from(["agents", "none", Visibility("roles", ("a", "\ud800"))]),
        "metadata": st.dictionaries(_text, _json, max_size=2),
    },
)


def _answering(event: dict[str, Any], before: int) -> dict[str, Any]:
    """The event, answering one that is there."""
    return {name: value for name, value in event.items() if name != "parent" or value <= before}


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(st.dictionaries(_text.filter(bool), st.lists(_event, max_size=5), max_size=3))
async def test_any_conversations_come_back(tmp_path_factory: pytest.TempPathFactory, talks: dict[str, list[Any]]):
    place = tmp_path_factory.mktemp("any")
    async with Store.open("memory://") as here, Store.open("memory://") as there:
        for id, events in talks.items():
            talk = await here.conversations.create(id)
            if events:
                await talk.append_many([_answering(event, n) for n, event in enumerate(events)], after=0)
        written = await dump_bytes(here, place, "agentkeep")
        _, failures = await load_lines(there, place, "agentkeep", written)
        assert failures == []
        assert await dump_bytes(there, place, "agentkeep") == written


async def test_documents_stand_in_the_file_as_they_are_stored(tmp_path: Path):
    async with Store.open("memory://") as store:
        talk = await store.conversations.create("a")
        await talk.append(Text("hi"), sender="alice")
        lines = [json.loads(line) for line in (await dump_bytes(store, tmp_path, "agentkeep")).splitlines()]
    assert lines[0] == {"agentkeep": "conversations", "version": 1}
    assert (lines[1]["conversation"]["id"], lines[1]["head"]) == ("a", {"seq": 1, "floor": 0, "sealed": False})
    assert (lines[2]["event"]["content"], lines[2]["index"]) == ({"kind": "text", "text": "hi"}, 1)
    assert lines[3] == {"end": {"events": 1}}
