"""Dialogues in the Schema-Guided Dialogue format come out as they went in."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentkeep import ConversationRecord, Handoff, StateChange, Store, Text, ToolCall, ToolResult
from agentkeep.transfer import sgd
from agentkeep.transfer.lines import canonical
from transfers import SGD, dump_bytes, dump_with_failures, load_file, load_lines

RIDE = {
    "dialogue_id": "1_00007",
    "services": ["Trains_9", "Hotels_3"],
    "turns": [
        {
            "speaker": "user",
            "text": "A train to Basel at 9, please.",
            "frames": [{"service": "Trains_9", "intent": "FindTrain", "slots": {"time": "09:00", "to": "Basel"}}],
        },
        {
            "speaker": "system",
            "text": "The 09:12 gets there at noon.",
            "frames": [
                {
                    "service": "Trains_9",
                    "call": {"method": "FindTrain", "parameters": {"to": "Basel", "time": "09:00"}},
                    "results": [{"train": "IC 61", "departs": "09:12"}, {"train": "IR 36", "departs": "09:40"}],
                }
            ],
        },
        {
            "speaker": "user",
            "text": "Good. I need a room there, too.",
            "frames": [
                {"service": "Trains_9", "intent": "NONE", "slots": {"time": "09:12", "to": "Basel"}},
                {"service": "Hotels_3", "intent": "FindHotel", "slots": {}},
            ],
        },
        {"speaker": "system", "text": "For how many nights?", "frames": [{"service": "Hotels_3"}]},
        {
            "speaker": "user",
            "text": "Two.",
            "frames": [{"service": "Hotels_3", "intent": "FindHotel", "slots": {"nights": "2"}}],
        },
        {
            "speaker": "system",
            "text": "I found none.",
            "frames": [{"service": "Hotels_3", "call": {"method": "FindHotel", "parameters": {}}, "results": []}],
        },
    ],
}
ODD = {
    "dialogue_id": "odd \x00 \N{PILE OF POO}",
    "services": [],
    "turns": [
        {"speaker": "system", "text": "", "frames": []},
        {"speaker": "system", "text": "x", "frames": [{"service": "A", "slots": {"n": 1}}, {"service": "A"}]},
        {
            "speaker": "user",
            "text": "y",
            "frames": [{"service": "A"}, {"service": "A", "slots": {"n": 1.0, "m": [True]}}],
        },
        {"speaker": "user", "text": "z", "frames": [{"service": "A", "slots": {"m": [True]}, "results": [None, 2]}]},
        {"speaker": "user", "text": "", "frames": [{"service": "B", "intent": "", "slots": {}}]},
    ],
}


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _there_and_back(dialogue: dict[str, Any]) -> bytes:
    events, _ = sgd.events_of(sgd.decode(_line(dialogue).encode(), sgd.Dialogue), 0)
    record = ConversationRecord(id=dialogue["dialogue_id"], metadata={"services": dialogue["services"]})
    return sgd.line(record, None, events)


@pytest.mark.parametrize("dialogue", [RIDE, ODD], ids=["ride", "odd"])
async def test_export_gives_back_the_lines_in_their_order(dialogue: dict[str, Any], tmp_path: Path):
    later = {**RIDE, "dialogue_id": "0_first_by_id"}
    async with Store.open("memory://") as store:
        loaded, failures = await load_lines(store, tmp_path, "sgd", _line(dialogue), "", _line(later))
        assert (loaded.stored, failures) == (2, [])
        lines = (await dump_bytes(store, tmp_path, "sgd")).splitlines()
    assert [canonical(json.loads(line)) for line in lines] == [canonical(dialogue), canonical(later)]


async def test_a_dialogue_becomes_a_conversation(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", _line(RIDE))
        talk = await store.conversations.get("1_00007")
        assert talk is not None
        events = [event async for event in talk.events()]
        state = await talk.state()
    assert (talk.record.agent, talk.record.metadata["services"]) == ("Trains_9", ["Trains_9", "Hotels_3"])
    assert [event.type for event in events] == [
        *("message", "state"),
        *("tool_call", "tool_result", "message"),
        *("message", "state"),
        *("handoff", "message"),
        *("message", "state"),
        *("tool_call", "tool_result", "message"),
    ]
    first, changed, call, result, said = events[:5]
    assert (first.sender, first.role, first.agent) == ("user", "user", None)
    assert changed.content == StateChange({"time": "09:00", "to": "Basel"})
    assert call.content == ToolCall("call-1", "FindTrain", {"to": "Basel", "time": "09:00"})
    assert isinstance(result.content, ToolResult)
    assert (said.agent, said.role, said.content) == ("Trains_9", "assistant", Text("The 09:12 gets there at noon."))
    assert events[6].content == StateChange({"time": "09:12"})
    assert events[7].content == Handoff("Hotels_3", "Trains_9")
    assert (state.active_agent, state.previous_agent, state.handoffs) == ("Hotels_3", "Trains_9", 1)
    assert state.data == {"Trains_9": {"time": "09:12", "to": "Basel"}, "Hotels_3": {"nights": "2"}}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "not JSON"),
        ('{"dialogue_id": "a", "services": []}', "turns"),
        (_line({**RIDE, "more": 1}), "more"),
        (_line({**RIDE, "dialogue_id": ""}), "empty"),
        (_line(RIDE).replace('"Basel"', "NaN", 1), "NaN"),
        (_line(RIDE).replace('"Basel"', "null", 1), "slots"),
        (_line(RIDE).replace('{"to":"Basel","time":"09:00"}', '{"to":' + "[" * 200 + "]" * 200 + "}"), "nests"),
        (b"\xff", "UTF-8"),
    ],
)
async def test_a_line_that_is_no_dialogue_is_named_and_the_rest_goes_on(line: str, reason: str, tmp_path: Path):
    async with Store.open("memory://") as store:
        loaded, failures = await load_lines(
            store, tmp_path, "sgd", _line({**RIDE, "dialogue_id": "b"}), line, _line(RIDE)
        )
    assert (loaded.stored, loaded.failed, failures[0].line) == (2, 1, 2)
    assert reason in failures[0].reason


async def test_what_was_said_later_cannot_be_written_as_a_dialogue(tmp_path: Path):
    async with Store.open("memory://") as store:
        await load_lines(store, tmp_path, "sgd", _line(RIDE))
        talk = await store.conversations.get("1_00007")
        assert talk is not None
        await talk.append("One more thing", sender="user")
        written, (failure,) = await dump_with_failures(store, tmp_path, "sgd")
    assert (written, failure.id) == (b"", "1_00007")
    assert "did not come from a dialogue" in failure.reason


_names = st.sampled_from(["A", "B", ""])
_values = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.lists(st.integers(), max_size=2))
_frames = st.fixed_dictionaries(
    {"service": _names},
    optional={
        "intent": _names,
        "slots": st.dictionaries(_names, _values, max_size=3),
        "call": st.fixed_dictionaries({"method": _names, "parameters": st.dictionaries(_names, _values, max_size=2)}),
        "results": st.lists(st.dictionaries(_names, _values, max_size=2), max_size=2),
    },
)
_turns = st.fixed_dictionaries(
    {
        "speaker": st.sampled_from(["user", "system"]),
        "text": st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
        "frames": st.lists(_frames, max_size=3),
    }
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(_turns, max_size=5))
def test_any_dialogue_comes_back(turns: list[dict[str, Any]]):
    dialogue = {"dialogue_id": "x", "services": ["A"], "turns": turns}
    assert canonical(json.loads(_there_and_back(dialogue))) == canonical(dialogue)


if SGD.exists():

    async def test_the_whole_data_set_comes_back_byte_for_byte(tmp_path: Path):
        async with Store.open("memory://") as store:
            loaded, failures = await load_file(store, SGD, "sgd")
            assert (loaded.stored, failures) == (2_098, [])
            assert await dump_bytes(store, tmp_path, "sgd") == gzip.decompress(SGD.read_bytes())
            again, _ = await load_file(store, SGD, "sgd")
            assert (again.stored, again.there) == (0, 2_098)
            types = Counter[str]()
            async for item in store.conversations.list(limit=500):
                talk = await store.conversations.get(item.id)
                assert talk is not None
                types.update([event.type async for event in talk.events()])
        assert (types["message"], types["tool_call"], types["tool_result"]) == (38_768, 6_027, 6_027)
