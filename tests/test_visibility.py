"""Who may see what: the rules as a function, and as they hold in every way of reading."""

from __future__ import annotations

from typing import Any

import pytest

from agentkeep import Conversation, Event, Invalid, Store, Text, TooLarge, ToolCall, ToolResult, Viewer, Visibility
from agentkeep.features.conversations import may_see
from agentkeep.features.conversations.visibility import JUDGED, as_visibility, audience, wanted
from agentkeep.predicates import evaluate
from agentkeep.testing.values import STRINGS
from engines import Database, Unfiltered

ALICE = Viewer(id="alice", role="customer", channel="sms")
BILLING = Viewer(id="billing", agent=True)
BOSS = Viewer(id="bo", role="supervisor", channel="web")
NOBODY = Viewer()
VIEWERS = [ALICE, BILLING, BOSS, NOBODY]

RULES: dict[str, tuple[Visibility | str | None, list[Viewer]]] = {
    "all": (None, VIEWERS),
    "none": ("none", []),
    "alice and billing": (Visibility("participants", ("alice", "billing")), [ALICE, BILLING]),
    "all agents": ("agents", [BILLING]),
    "one agent": (Visibility("agents", ("billing", "bo")), [BILLING]),
    "another agent": (Visibility("agents", ("triage",)), []),
    "no agent": (Visibility("agents", ()), []),
    "no participant": (Visibility("participants", ()), []),
    "sms": (Visibility("channels", ("sms", "mail")), [ALICE]),
    "supervisors": (Visibility("roles", ("supervisor",)), [BOSS]),
    "a custom rule": (Visibility("custom", ("odd", "not registered")), [ALICE]),
    "an unknown custom rule": (Visibility("custom", ("not registered",)), []),
    "a rule of a later version": (Visibility("planets", ("alice",)), []),
    "many": (Visibility("participants", (*(f"someone-{n}" for n in range(500)), "alice")), [ALICE]),
    "long": (Visibility("participants", ("x" * 5_000, "\ud800" * 60)), []),
}


def is_alice(viewer: Viewer, event: Event) -> bool:
    return viewer.id == "alice"


def event_of(rule: Visibility | None) -> Event:
    return Event(conversation="c", type="message", content=Text("x"), visibility=rule)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("viewer", VIEWERS, ids=lambda viewer: str(viewer.id))
def test_a_rule_shows_to_whom_it_names_and_the_filter_hides_from_no_one_else(name: str, viewer: Viewer):
    given, seers = RULES[name]
    rule = Visibility(given) if isinstance(given, str) else given
    event = event_of(rule)
    assert may_see(rule, viewer, event, {"odd": is_alice}) is (viewer in seers)
    tokens = audience(rule)
    let_in = evaluate(wanted(None, viewer), {} if tokens is None else {"audience": tokens})
    assert let_in is (viewer in seers or tokens == (JUDGED,))


def test_only_true_shows():
    rule = Visibility("custom", ("r",))
    answers: list[Any] = [1, "yes", None, [ALICE]]
    for answer in answers:
        assert not may_see(rule, ALICE, event_of(rule), {"r": lambda viewer, event, a=answer: a})


@pytest.mark.parametrize("id", [*STRINGS, "participants:a", "a,b", "agents", JUDGED, "x" * 400 + "a", "x" * 400 + "b"])
async def test_ids_of_any_text_are_apart(store: Store, id: str):
    talk = await store.conversations.create("c")
    if not id:
        return
    await talk.append("secret", visibility=Visibility("participants", (id,)))
    assert len(await talk.history(visible_to=Viewer(id=id))) == 1
    for other in (id + "x", id[:-1], f"participants:{id}", "agents", "judged", "none"):
        if other != id:
            assert len(await talk.history(visible_to=Viewer(id=other, agent=True))) == 0


async def told(store: Store) -> Conversation:
    """A conversation with an event under each rule that can be written."""
    store.conversations.add_rule("odd", is_alice)
    talk = await store.conversations.create("c")
    for name, (rule, _) in RULES.items():
        if name != "a rule of a later version":
            await talk.append(name, visibility=rule)
    return talk


def names_for(viewer: Viewer) -> list[str]:
    return [name for name, (_, seers) in RULES.items() if viewer in seers and name != "a rule of a later version"]


def names(events: Any) -> list[str]:
    return [event.content.text for event in events]


@pytest.mark.parametrize("viewer", VIEWERS, ids=lambda viewer: str(viewer.id))
async def test_every_way_of_reading_shows_the_same(store: Store, viewer: Viewer):
    talk = await told(store)
    expected = names_for(viewer)
    assert names(await talk.history(visible_to=viewer)) == expected
    assert names([event async for event in talk.events(visible_to=viewer)]) == expected
    assert names([event async for event in talk.tail(after=0, visible_to=viewer, idle=0)]) == expected
    assert names((await talk.context(max_tokens=9_000, visible_to=viewer)).events) == expected
    assert names(await talk.chat(visible_to=viewer)) == expected
    assert await talk.count(visible_to=viewer) == (len(expected), True)
    assert await talk.unread("r", visible_to=viewer) == (len(expected), True)
    for index in range(1, await talk.length() + 1):
        event = await talk.get(index, visible_to=viewer)
        assert (event is not None) is (names([await talk.get(index)])[0] in expected)


async def test_without_a_viewer_everything_is_read(store: Store):
    talk = await told(store)
    assert await talk.count() == (len(RULES) - 1, True)
    assert len(await talk.history()) == len(RULES) - 1


async def test_an_engine_that_filters_nothing_shows_the_same(database: Database):
    talk = await told(await database.open(wrap=Unfiltered))
    for viewer in VIEWERS:
        assert names(await talk.history(visible_to=viewer)) == names_for(viewer)
        assert (await talk.count(visible_to=viewer))[0] == len(names_for(viewer))


async def test_pages_are_short_and_go_on(store: Store):
    store.conversations.add_rule("odd", is_alice)
    talk = await store.conversations.create("c")
    rules = [Visibility("custom", ("odd",)), None, Visibility("custom", ("other",))]
    for n in range(30):
        await talk.append(str(n), visibility=rules[n % 3])
    for viewer, expected in ((ALICE, [n for n in range(30) if n % 3 != 2]), (BOSS, list(range(1, 30, 3)))):
        found: list[str] = []
        cursor, pages = None, 0
        while True:
            page = await talk.history(after=0, limit=7, visible_to=viewer, cursor=cursor)
            found += names(page)
            cursor, pages = page.cursor, pages + 1
            if cursor is None:
                break
        assert found == [str(n) for n in expected]
        assert pages > 1


async def test_a_budget_ends_a_count(store: Store):
    talk = await store.conversations.create("c")
    await talk.append_many(["x"] * 40)
    assert await talk.count(budget=25) == (25, False)
    assert await talk.count(where={"type": "message"}, budget=25, visible_to=ALICE) == (25, False)


async def test_a_context_has_no_result_of_a_call_that_is_hidden(store: Store):
    talk = await store.conversations.create("c")
    await talk.append("hi")
    await talk.append(ToolCall("1", "f"), visibility="agents")
    await talk.append(ToolResult("1", "secret"))
    window = await talk.context(max_tokens=1_000, visible_to=ALICE)
    assert names(window.events) == ["hi"]
    assert len((await talk.context(max_tokens=1_000, visible_to=BILLING)).events) == 3


async def test_judged_events_at_the_end_do_not_end_a_context(store: Store):
    talk = await store.conversations.create("c")
    await talk.append("hi")
    for _ in range(3):
        await talk.append_many([{"content": "x", "visibility": Visibility("custom", ("gone",))}] * 45)
    assert names((await talk.context(max_tokens=1_000, visible_to=ALICE)).events) == ["hi"]


async def test_a_rule_is_part_of_what_a_key_stands_for(store: Store):
    talk = await store.conversations.create("c")
    first = await talk.append("x", key="k", visibility=Visibility("roles", ("a",)))
    again = await talk.append("x", key="k", visibility=Visibility("roles", ("a",)))
    assert again == first
    with pytest.raises(Exception, match="idempotency key"):
        await talk.append("x", key="k")


async def test_rules_are_registered_for_all_scopes_of_a_store(database: Database):
    store = await database.open(tenants="required")
    store.scope("a").conversations.add_rule("odd", is_alice)
    talk = await store.scope("b").conversations.create("c")
    await talk.append("x", visibility=Visibility("custom", ("odd",)))
    assert len(await talk.history(visible_to=ALICE)) == 1
    other = await (await database.open(tenants="required")).scope("b").conversations.get("c")
    assert other is not None
    assert len(await other.history(visible_to=ALICE)) == 0


@pytest.mark.parametrize(
    "rule",
    [
        *("everyone", 5, "participants", Visibility("participants"), Visibility("all", ("a",))),
        *(Visibility("planets", ("a",)), Visibility("roles", ("",))),
        *(Visibility("roles", "ab"), Visibility("roles", (5,))),  # type: ignore[arg-type]
    ],
)
async def test_a_rule_that_is_none_is_refused(store: Store, rule: Any):
    talk = await store.conversations.create("c")
    with pytest.raises(Invalid):
        await talk.append("x", visibility=rule)
    assert await talk.length() == 0


@pytest.mark.parametrize("viewer", ["alice", 5, Viewer(id=5), Viewer(agent="yes"), Viewer(role=["a"])])  # type: ignore[arg-type]
async def test_a_viewer_of_a_wrong_type_is_refused(store: Store, viewer: Any):
    talk = await store.conversations.create("c")
    with pytest.raises(Invalid):
        await talk.history(visible_to=viewer)
    with pytest.raises(Invalid):
        await talk.count(visible_to=viewer)


def test_a_rule_is_written_short_or_with_a_list():
    assert as_visibility("all") is None
    assert as_visibility(Visibility()) is None
    names: Any = ["a"]
    assert as_visibility(Visibility("roles", names)) == Visibility("roles", ("a",))


async def test_many_long_names_are_kept_and_do_not_fill_the_facets(store: Store):
    talk = await store.conversations.create("c")
    ids = tuple(f"{'x' * 80}{n}" for n in range(1_000))
    await talk.append("x", visibility=Visibility("channels", ids), metadata={"a": "y" * 1_000})
    assert len(await talk.history(visible_to=Viewer(channel=ids[-1]))) == 1
    assert len(await talk.history(visible_to=Viewer(channel="x"))) == 0
    with pytest.raises(TooLarge):
        await talk.append("x", metadata={"a": "y" * 5_000})


async def test_a_fork_keeps_the_rules(store: Store):
    talk = await told(store)
    copy = await talk.fork()
    for viewer in VIEWERS:
        assert names(await copy.history(visible_to=viewer)) == names_for(viewer)
