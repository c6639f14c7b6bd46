"""Random histories of commits, for hypothesis: what is drawn, and how it becomes batches once revs are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
from hypothesis import strategies as st

from ..ids import SECOND
from ..keys import seq_sort
from ..predicates import All, Compare, Facets, Not, Predicate, Some
from ..waist import HEAD, Append, Batch, Check, Delete, Head, Key, Op, Put, Trim
from .verbs import digest, doc, new_id

PARTITIONS = ("p", "q", "p\x00", "é")
SORTS = ("a", "A", "a\x00", "b\ud800", "")
LOGS = ("event", "turn")
QUEUES = ("x", "x\x01", "y")
ODD_REV = "00000000-0000-7000-8000-000000000000"

Where: TypeAlias = Predicate | None


class Ask(NamedTuple):
    """One operation, before revs and times are known."""

    what: str
    kind: str
    sort: str
    expect: str
    values: Mapping[str, Any]
    after: int | None = None


class Drawn(NamedTuple):
    """One batch, before its id is minted."""

    partition: str
    asks: tuple[Ask, ...]
    once: str | None
    restore: bool


class Step(NamedTuple):
    """One step of a history: some batches in one call, earlier ones again, or time passing."""

    batches: tuple[Drawn, ...]
    again: tuple[int, ...]
    renewed: bool
    wait: float


_facet = st.one_of(
    st.sampled_from(["m", "M", "x\x00y", "\udc80", "%", 'a"b']),
    st.integers(-3, 3),
    st.sampled_from([2**63, -(2**70), 10**30]),
    st.sampled_from([0.5, -0.0, 1.0, 1e300, 5e-324]),
    st.booleans(),
)
_facets = st.dictionaries(
    st.sampled_from(["type", "n", "meta.\x00", 'meta."x', ""]),
    st.one_of(_facet, st.lists(_facet, max_size=3).map(tuple)),
    max_size=3,
)
_values = st.fixed_dictionaries(
    {
        "text": st.sampled_from([None, *QUEUES]),
        "due": st.sampled_from([None, -5, 0, 3, 2**53]),
        "weight": st.sampled_from([None, -1.5, -0.0, 0.0, 2.0, 1e300]),
        "facets": _facets,
        "ttl": st.sampled_from([None, None, None, 0, 5, 60]),
        "body": st.integers(0, 9),
    }
)
_expect = st.sampled_from(["any", "any", "any", "absent", "exists", "now", "odd"])
_row_ask = st.builds(
    Ask,
    st.sampled_from(["put", "put", "put", "delete", "check"]),
    st.sampled_from(["note", "state"]),
    st.sampled_from(SORTS),
    _expect,
    _values,
)
_append = st.builds(
    Ask,
    st.just("append"),
    st.sampled_from(["event", "event", "turn"]),
    st.just(""),
    st.sampled_from(["any", "any", "any", "exists"]),
    _values,
    st.sampled_from([None, None, None, None, 0, 1, 2, 5]),
)
_log_row = st.builds(
    Ask,
    st.sampled_from(["put", "delete", "check"]),
    st.sampled_from(LOGS),
    st.integers(1, 6).map(seq_sort),
    st.sampled_from(["exists", "exists", "now", "odd", "any", "absent"]),
    _values,
)
_trim = st.builds(
    Ask,
    st.just("trim"),
    st.sampled_from(LOGS),
    st.just(""),
    st.sampled_from(["keep", "keep", "keep", "seal", "unseal", "unseal"]),
    _values,
    st.sampled_from([None, 0, 1, 2, 3, 99]),
)
_head = st.builds(
    Ask, st.just("head"), st.sampled_from(LOGS), st.just(HEAD), st.sampled_from(["any", "absent", "exists"]), _values
)


def _append_key(ask: Ask) -> object:
    return object() if ask.what == "append" else ask[1:3]


_ordinary = st.builds(
    Drawn,
    st.sampled_from(PARTITIONS[:2] * 3 + PARTITIONS[2:]),
    st.lists(st.one_of(_append, _row_ask, _append, _log_row, _trim), min_size=1, max_size=4, unique_by=_append_key).map(
        tuple
    ),
    st.sampled_from([None, None, None, "k", "k\x00"]),
    st.just(False),
)
_restoring = st.builds(
    Drawn,
    st.sampled_from(PARTITIONS[:2]),
    st.lists(st.one_of(_row_ask, _log_row, _head, _append), min_size=1, max_size=3, unique_by=_append_key).map(tuple),
    st.none(),
    st.just(True),
)
_step = st.builds(
    Step,
    st.one_of(
        st.lists(_ordinary, min_size=1, max_size=4).map(tuple),
        st.lists(_ordinary, min_size=1, max_size=4).map(tuple),
        st.lists(_ordinary, min_size=1, max_size=4).map(tuple),
        st.lists(_restoring, min_size=1, max_size=2).map(tuple),
    ),
    st.lists(st.integers(0, 20), max_size=2).map(tuple),
    st.booleans(),
    st.sampled_from([0, 0, 0, 5, 60]),
)

histories = st.lists(_step, min_size=1, max_size=8)
"""Steps on a few partitions and keys, so that they meet."""

batches = st.lists(_ordinary, min_size=1, max_size=8)
"""Batches for one call."""

_compare = st.one_of(
    st.builds(
        Compare,
        st.sampled_from(["type", "n", "meta.\x00", 'meta."x', "", "none"]),
        st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"]),
        _facet,
    ),
    st.builds(
        Compare, st.sampled_from(["type", "n", "meta.\x00"]), st.just("in"), st.lists(_facet, max_size=3).map(tuple)
    ),
    st.builds(Compare, st.sampled_from(["type", "n", "", "none"]), st.just("exists"), st.booleans()),
)
wheres: st.SearchStrategy[Predicate] = st.recursive(
    _compare,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(All, st.lists(inner, max_size=3).map(tuple)),
        st.builds(Some, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=5,
)
"""Filters over the facets that histories write, and over some they do not."""


class Draft(NamedTuple):
    """A drawn batch in the partitions of one example, and how revs that stand now are found."""

    prefix: str
    now: int
    revs: Mapping[Key, str]


def build(drawn: Drawn, draft: Draft) -> Batch:
    """A drawn batch as one to commit."""
    partition = draft.prefix + drawn.partition
    ops = tuple(_op(ask, partition, draft, drawn.restore) for ask in drawn.asks)
    # The content of a batch is what was asked for. Two batches of one content have ops of the same shape.
    content = digest(drawn.asks) if drawn.once is not None else None
    return Batch(partition, ops, new_id(), drawn.once, content)


def _op(ask: Ask, partition: str, draft: Draft, restore: bool) -> Op:
    key = Key(ask.kind, partition, ask.sort)
    expect = {"now": draft.revs.get(key, ODD_REV), "odd": ODD_REV}.get(ask.expect, ask.expect)
    values = ask.values
    facets: Facets = values["facets"]
    expires = None if values["ttl"] is None else draft.now + values["ttl"] * SECOND
    body = doc(values["body"])
    match ask.what:
        case "append":
            return Append(
                ask.kind, body, index_of(ask.kind, draft.prefix, values), facets, expires, ask.after,
                "exists" if expect == "exists" else "any",
            )  # fmt: skip
        case "put":
            rev = ODD_REV if restore and values["body"] % 2 else None
            index = index_of(ask.kind, draft.prefix, values)
            return Put(ask.kind, ask.sort, body, index, facets, expires, expect, rev)
        case "delete":
            return Delete(ask.kind, ask.sort, expect)
        case "check":
            return Check(ask.kind, ask.sort, expect)
        case "head":
            given = Head(values["body"], values["body"] // 3, values["body"] == 9)
            return Put(ask.kind, HEAD, msgspec.json.encode(given))
        case _:
            return Trim(ask.kind, ask.after, {"seal": True, "unseal": False}.get(ask.expect))


def index_of(kind: str, prefix: str, values: Mapping[str, Any]) -> Mapping[str, tuple[str | int | float | bool, ...]]:
    """The index values that core would extract: an index has the row if it has all of its fields."""
    text, due, weight = values["text"], values["due"], values["weight"]
    queue = None if text is None else prefix + text
    if queue is None or kind not in ("note", "event"):
        return {}
    if kind == "event":
        return {} if due is None else {"by_agent": (queue, due)}
    index: dict[str, tuple[str | int | float | bool, ...]] = {"by_text": (queue,)}
    if due is not None:
        index["by_pair"] = queue, due
        index["by_all"] = queue, due > 0, due, queue
    if weight is not None:
        index["by_real"] = (queue, weight)
    return index
