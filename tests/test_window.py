"""The window over a history: never half a tool exchange, never too much, and the longest such end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkeep import Context, Event, Store, Text, ToolCall, ToolResult
from agentkeep.features.conversations import Content, estimate, window
from agentkeep.features.conversations.window import LOOK_BACK, is_settled

_contents = st.one_of(
    st.builds(Text, st.sampled_from(["", "hi", "a long sentence about nothing", "x" * 90])),
    st.builds(ToolCall, st.sampled_from("abc"), st.just("search"), st.sampled_from([None, {"q": "x" * 50}])),
    st.builds(ToolResult, st.sampled_from("abcd"), st.sampled_from(["ok", "y" * 120])),
)
_histories = st.lists(_contents, max_size=14)


def events_of(contents: Sequence[Content], start: int = 1) -> list[Event]:
    return [Event(conversation="c", type="t", content=one, index=n) for n, one in enumerate(contents, start)]


def calls_of(events: Sequence[Event]) -> dict[int, int | None]:
    """For each result, by position, its call: the last one before it with its id."""
    found: dict[int, int | None] = {}
    for at, event in enumerate(events):
        if isinstance(event.content, ToolResult):
            before = [n for n in range(at) if isinstance(c := events[n].content, ToolCall) and c.id == event.content.id]
            found[at] = before[-1] if before else None
    return found


def is_whole(events: Sequence[Event], start: int) -> bool:
    """Whether an end of a history breaks no tool exchange and no turn of calls."""
    links = calls_of(events)
    in_turn = 0 < start < len(events) and all(isinstance(events[n].content, ToolCall) for n in (start - 1, start))
    return not in_turn and all(call is None or call >= start for at, call in links.items() if at >= start)


def without_orphans(events: Sequence[Event], start: int) -> list[Event]:
    links = calls_of(events)
    return [events[at] for at in range(start, len(events)) if links.get(at, 0) is not None]


@given(_histories, st.integers(0, 160))
@settings(max_examples=400, deadline=None)
def test_it_is_the_longest_end_that_fits_and_breaks_no_exchange(contents: list[Content], most: int):
    events = events_of(contents)
    found = window(events, most)
    fitting = [
        start
        for start in range(len(events) + 1)
        if is_whole(events, start) and sum(map(estimate, without_orphans(events, start))) <= most
    ]
    expected = without_orphans(events, min(fitting))
    assert sorted(e.index for e in found.events) == [e.index for e in expected]
    assert found.tokens == sum(map(estimate, expected)) <= most
    assert found.start == (expected[0].index if expected else 0)
    assert found.complete == (min(fitting) == 0)


@given(_histories, st.integers(0, 160))
@settings(max_examples=400, deadline=None)
def test_no_call_loses_its_result_and_no_result_its_call(contents: list[Content], most: int):
    events = events_of(contents)
    found = window(events, most)
    kept = {event.index for event in found.events}
    for at, call in calls_of(events).items():
        if call is not None:
            assert (events[at].index in kept) == (events[call].index in kept)
        else:
            assert events[at].index not in kept
    answered = {events[call].index for call in calls_of(events).values() if call is not None}
    open_calls = [e.content for e in found.events if isinstance(e.content, ToolCall) and e.index not in answered]
    assert list(found.pending) == open_calls


@given(_histories, st.integers(0, 200))
@settings(max_examples=400, deadline=None)
def test_order_is_kept_and_results_stand_behind_their_turn(contents: list[Content], most: int):
    events = events_of(contents)
    found = list(window(events, most).events)
    others = [e.index for e in found if not isinstance(e.content, ToolResult)]
    assert others == sorted(others)
    links = {events[at].index: events[call].index for at, call in calls_of(events).items() if call is not None}
    place = {event.index: at for at, event in enumerate(found)}
    for at, event in enumerate(found):
        if not isinstance(event.content, ToolResult):
            continue
        # From its call to the result there are only the calls of the call's own turn, and results of that turn.
        between = found[place[links[event.index]] + 1 : at]
        calls = [e.index for e in between if isinstance(e.content, ToolCall)]
        assert calls == list(range(links[event.index] + 1, links[event.index] + 1 + len(calls)))
        assert all(isinstance(e.content, ToolCall | ToolResult) for e in between)


def test_two_turns_of_one_call_each_stay_two_turns():
    contents = ToolCall("a", "t"), ToolResult("a", 1), ToolCall("b", "t"), ToolResult("b", 2)
    assert [e.index for e in window(events_of(contents), 10_000).events] == [1, 2, 3, 4]


def test_a_late_result_moves_up_to_its_turn():
    contents = ToolCall("a", "t"), ToolCall("b", "t"), Text("wait"), ToolResult("b", 2), ToolResult("a", 1)
    assert [e.index for e in window(events_of(contents), 10_000).events] == [1, 2, 5, 4, 3]


def test_an_id_that_comes_again_is_another_call():
    contents = ToolCall("a", "t"), ToolResult("a", 1), ToolCall("a", "t"), ToolResult("a", 2)
    assert [e.index for e in window(events_of(contents), 18).events] == [3, 4]


def test_nothing_fits_into_nothing():
    assert window(events_of([Text("hello")]), 0) == Context((), 0, 0, False, ())
    assert window([], 0) == Context((), 0, 0, True, ())


def test_a_result_whose_call_may_stand_further_back_settles_nothing():
    events = events_of([Text("x"), ToolResult("a", 1), Text("y" * 400)], start=500)
    assert not is_settled(events, 106, estimate)
    assert is_settled(events, 50, estimate)
    assert is_settled([*events_of([Text("z")] * LOOK_BACK), *events], 5, estimate)


@given(st.lists(_contents, max_size=30), st.integers(0, 300))
@settings(max_examples=30, deadline=None)
async def test_a_context_is_the_window_over_the_whole_history(contents: list[Content], most: int):
    async with Store.open("memory://") as store:
        talk = await store.conversations.ensure("c")
        if contents:
            await talk.append_many(contents)
        every = [event async for event in talk.events()]
        assert await talk.context(max_tokens=most) == window(every, most)


@pytest.mark.parametrize("gap", [30, 99, 100, 101, 250, 700])
async def test_a_context_finds_a_call_that_stands_pages_before_its_result(store: Store, gap: int):
    talk = await store.conversations.ensure("c")
    await talk.append_many(["first", ToolCall("a", "search")])
    for first in range(0, gap, 40):
        await talk.append_many(["word"] * min(40, gap - first))
    await talk.append_many([ToolResult("a", "r" * 400), "last"])
    every = [event async for event in talk.events()]
    for most in (5, 50, 110, 120, 5 * gap, 5 * gap + 200, 10_000):
        assert await talk.context(max_tokens=most) == window(every, most), most


async def test_a_context_counts_an_event_once(store: Store):
    talk = await store.conversations.ensure("c")
    for _ in range(5):
        await talk.append_many(["word"] * 45)
    counted: list[int] = []
    await talk.context(max_tokens=10**6, tokens=lambda event: counted.append(event.index) or 1)
    assert sorted(counted) == list(range(1, 226))


async def test_a_context_reads_no_more_than_it_needs(store: Store):
    talk = await store.conversations.ensure("c")
    for _ in range(20):
        await talk.append_many(["word"] * 45)
    counted: list[int] = []
    await talk.context(max_tokens=50, tokens=lambda event: counted.append(event.index) or 1)
    assert len(counted) <= 100
