"""Who may see an event: rules, their one evaluator, and the filter by which engines leave out most of the rest.

An event's rule becomes a facet of tokens, its audience; a viewer becomes the tokens that let it in. What tokens cannot
say (a custom rule, a very long list) has the token JUDGED, which lets everybody in, and is judged event by event.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

from msgspec import Struct

from ...errors import Invalid
from ...keys import escape, short
from ...predicates import All, Compare, Predicate, Some

if TYPE_CHECKING:
    from .records import Event

ALONE = ("all", "none", "agents")
"""What a rule may say without names."""

NAMED = ("participants", "agents", "channels", "roles", "custom")
"""What a rule may say with names."""

JUDGED = "judged"
AUDIENCE_BYTES = 2_000
"""Bytes of tokens above which an audience is JUDGED: facets have 4,096 bytes in all."""


class Visibility(Struct, frozen=True, omit_defaults=True):
    """A rule: to "all", "none", "participants", "agents", "channels", "roles", or "custom" rules, by their names.

    "agents" without names is every agent; an empty list of names is nobody. A rule that is not known hides.
    """

    to: str = "all"
    names: tuple[str, ...] | None = None


class Viewer(Struct, frozen=True, kw_only=True):
    """Who reads: an id, a role, whether it is an agent, and the channel it reads on."""

    id: str | None = None
    role: str | None = None
    agent: bool = False
    channel: str | None = None


Judge: TypeAlias = "Callable[[Viewer, Event], bool]"
"""A custom rule: True shows the event, anything else hides it."""


def may_see(rule: Visibility | None, viewer: Viewer, event: Event, judges: Mapping[str, Judge] | None = None) -> bool:
    """Whether a viewer may see an event under a rule; None is the rule "all".

    Participants are named by the viewer's id, agents or not. `judges` are the custom rules by name; one that is not
    among them hides.
    """
    if rule is None:
        return True
    names = rule.names or ()
    match rule.to:
        case "all":
            return True
        case "participants":
            return viewer.id in names
        case "agents":
            return viewer.agent and (rule.names is None or viewer.id in names)
        case "channels":
            return viewer.channel in names
        case "roles":
            return viewer.role in names
        case "custom":
            found = [judges[name] for name in names if judges and name in judges]
            return any(judge(viewer, event) is True for judge in found)
        case _:
            return False


def as_visibility(value: object) -> Visibility | None:
    """What a caller passed as a rule: a Visibility, or "all", "none", "agents". None is "all". Raises Invalid."""
    if value is None or value == "all" or value == Visibility():
        return None
    rule = Visibility(value) if isinstance(value, str) else value
    if not isinstance(rule, Visibility):
        raise _wrong(f"is a Visibility or one of {', '.join(ALONE)}, not {type(value).__name__}")
    if rule.names is None:
        if rule.to not in ALONE:
            raise _wrong(f"to {rule.to!r} needs names" if rule.to in NAMED else f"to {rule.to!r} is not known")
        return rule
    if rule.to not in NAMED:
        raise _wrong(f"to {rule.to!r} takes no names" if rule.to in ALONE else f"to {rule.to!r} is not known")
    names = cast("Sequence[object]", rule.names)
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise _wrong("has a list of non-empty names")
    return Visibility(rule.to, tuple(cast("Sequence[str]", names)))


def as_viewer(value: object) -> Viewer | None:
    """What a caller passed as `visible_to`. Raises Invalid for anything but a Viewer or None, and for a wrong field."""
    if value is None:
        return None
    if not isinstance(value, Viewer):
        hint = "For example Viewer(id='billing', agent=True)."
        raise Invalid(f"visible_to is a Viewer, not {type(value).__name__}", operation="visibility", hint=hint)
    for name in ("id", "role", "channel"):
        field = getattr(value, name)
        if field is not None and not isinstance(field, str):
            raise Invalid(f"a viewer's {name} is text or None, not {type(field).__name__}", operation="visibility")
    if not isinstance(cast(object, value.agent), bool):
        raise Invalid("a viewer's agent is True or False", operation="visibility")
    return value


def audience(rule: Visibility | None) -> tuple[str, ...] | None:
    """The tokens of a rule: None lets everybody in, JUDGED leaves it to `may_see`."""
    if rule is None or rule.to == "all":
        return None
    if rule.to == "agents" and rule.names is None:
        return ("agents",)
    if rule.to in ("participants", "agents", "channels", "roles"):
        tokens = tuple([_token(rule.to, name) for name in rule.names or ()]) or ("none",)
        return tokens if sum(len(escape(token).encode()) for token in tokens) <= AUDIENCE_BYTES else (JUDGED,)
    return ("none",) if rule.to == "none" else (JUDGED,)


def wanted(where: Predicate | None, viewer: Viewer | None) -> Predicate | None:
    """A filter, and that the viewer may see the event, as far as tokens say."""
    if viewer is None:
        return where
    seen = Some((Compare("audience", "exists", False), Compare("audience", "in", _tokens(viewer))))
    return seen if where is None else All((where, seen))


def _tokens(viewer: Viewer) -> tuple[str, ...]:
    """The tokens that let a viewer in."""
    given = [("participants", viewer.id), ("channels", viewer.channel), ("roles", viewer.role)]
    if viewer.agent:
        given.append(("agents", viewer.id))
    tokens = [_token(kind, name) for kind, name in given if name is not None]
    return (JUDGED, *(["agents"] if viewer.agent else []), *tokens)


def _token(kind: str, name: str) -> str:
    return f"{kind}:{short(name)}"


def _wrong(what: str) -> Invalid:
    hint = f"Alone: {', '.join(ALONE)}; with names: {', '.join(NAMED)}."
    return Invalid(f"visibility {what}", operation="visibility", hint=hint)
