"""Filters: what users may write, what it means, and the split for push-down."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeep.errors import Invalid
from agentkeep.predicates import (
    MAX_DEPTH,
    MAX_TERMS,
    OPERATORS,
    All,
    Compare,
    Facets,
    Not,
    Predicate,
    Some,
    evaluate,
    parse,
    split,
)
from agentkeep.testing.histories import wheres


@pytest.mark.parametrize(
    ("where", "tree"),
    [
        (None, None),
        ({}, None),
        ({"type": "message"}, Compare("type", "eq", "message")),
        ({"n": {"ge": 3, "lt": 9}}, All((Compare("n", "ge", 3), Compare("n", "lt", 9)))),
        ({"n": [1, 2]}, Compare("n", "in", (1, 2))),
        ({"n": {"in": []}}, Compare("n", "in", ())),
        ({"n": {"exists": False}}, Compare("n", "exists", False)),
        ({"a": 1, "b": 2}, All((Compare("a", "eq", 1), Compare("b", "eq", 2)))),
        ({"$or": [{"a": 1}, {"b": 2}]}, Some((Compare("a", "eq", 1), Compare("b", "eq", 2)))),
        ({"$or": []}, Some(())),
        ({"$and": [{"a": 1}, {}]}, All((Compare("a", "eq", 1),))),
        ({"$not": {"a": 1}}, Not(Compare("a", "eq", 1))),
        ({"a.$b": "$where"}, Compare("a.$b", "eq", "$where")),
        (Compare("a", "eq", 1), Compare("a", "eq", 1)),
    ],
)
def test_what_users_write_becomes_a_tree(where: Any, tree: Predicate | None):
    assert parse(where) == tree


@pytest.mark.parametrize(
    "where",
    [
        [],
        "type=message",
        {"": 1},
        {1: 1},
        {"a": None},
        {"a": {}},
        {"a": {"eq": {}}},
        {"a": {"eq": [1]}},
        {"a": {"eq": None}},
        {"a": {"ge": float("nan")}},
        {"a": {"in": 3}},
        {"a": {"in": "abc"}},
        {"a": {"in": [None]}},
        {"a": [[1]]},
        {"a": {"exists": 1}},
        {"a": b"x"},
        {"a": {"equals": 3}},
        {"a": {"$gt": 3}},
        {"a": {"GE": 3}},
        {"a": {"regex": "(a+)+$"}},
        {"a": {1: 3}},
        {"$where": "1"},
        {"$nor": []},
        {"$or": {"a": 1}},
        {"$or": "a"},
        {"$or": [1]},
        {"$not": {}},
        {"$not": []},
        {"$not": [{"a": 1}]},
    ],
)
def test_a_mistyped_filter_is_refused_and_never_widens(where: Any):
    with pytest.raises(Invalid):
        parse(where)


def test_a_mistyped_operator_is_named_with_those_there_are():
    with pytest.raises(Invalid) as caught:
        parse({"a": {"gte": 3}})
    assert "'gte'" in str(caught.value)
    assert all(op in str(caught.value) for op in OPERATORS)


def test_a_filter_has_bounds():
    parse({"a": list(range(MAX_TERMS))})
    with pytest.raises(Invalid):
        parse({"a": list(range(MAX_TERMS + 1))})
    with pytest.raises(Invalid):
        parse({f"f{n}": 1 for n in range(MAX_TERMS + 1)})
    nested: dict[str, Any] = {"a": 1}
    for _ in range(MAX_DEPTH - 1):
        nested = {"$not": nested}
    parse(nested)
    for _ in range(10_000):
        nested = {"$not": nested}
    with pytest.raises(Invalid):
        parse(nested)


@pytest.mark.parametrize(
    ("facet", "op", "value", "holds"),
    [
        (1, "eq", 1, True), (1, "eq", 1.0, True), (1, "eq", True, False), (True, "eq", 1, False), (1, "eq", "1", False),
        (True, "eq", True, True), ("a", "eq", "A", False), ("a", "eq", "a", True), (-0.0, "eq", 0, True),
        (1, "ne", 2, True), (1, "ne", 1.0, False), (1, "ne", "1", True), (True, "ne", 1, True), ((1, 2), "ne", 1, True),
        (1, "lt", 1.5, True), (1, "lt", "2", False), ("a", "lt", "b", True), ("a", "lt", 5, False),
        (False, "lt", True, True),
        (False, "lt", 1, False), (2, "le", 2, True), (2, "gt", 2, False), (2, "ge", 2, True), ("b", "gt", "a", True),
        (10**400, "gt", 1e308, True), (2**53 + 1, "eq", 2.0**53, False), (2**53 + 1, "gt", 2.0**53, True),
        (1, "in", (2, 1.0), True), (1, "in", (True,), False), (True, "in", (1,), False), ("a", "in", (), False),
        ((1, "a"), "eq", "a", True), ((1, "a"), "eq", 2, False), ((1, 5), "gt", 4, True), ((), "eq", 1, False),
        ((), "exists", True, False), ((), "exists", False, True), (0, "exists", True, True),
        ("", "exists", False, False),
        (None, "exists", False, True), (None, "exists", True, False), (None, "ne", 1, False), (None, "eq", 1, False),
        (None, "in", (1,), False), (None, "lt", 1, False),
    ],
)  # fmt: skip
def test_a_comparison(facet: Any, op: Any, value: Any, holds: bool):
    facets = {} if facet is None else {"x": facet}
    assert evaluate(Compare("x", op, value), facets) is holds


def test_trees():
    yes, no = Compare("x", "eq", 1), Compare("x", "eq", 2)
    facets: Facets = {"x": 1}
    for tree, holds in (
        (None, True), (All(()), True), (Some(()), False), (Not(no), True), (Not(yes), False),
        (All((yes, no)), False), (All((yes, yes)), True), (Some((yes, no)), True), (Some((no, no)), False),
        (Not(Compare("missing", "eq", 1)), True),
    ):  # fmt: skip
        assert evaluate(tree, facets) is holds


@given(wheres, st.sets(st.sampled_from(sorted(OPERATORS))), st.dictionaries(st.just("n"), st.integers(-2, 2)))
def test_a_split_is_the_whole_and_what_is_pushed_is_not_narrower(where: Predicate, ops: set[str], facets: Facets):
    pushed, kept = split(where, lambda compare: compare.op in ops)
    assert (evaluate(pushed, facets) and evaluate(kept, facets)) is evaluate(where, facets)
    assert evaluate(pushed, facets) or not evaluate(where, facets)


def test_a_split_does_not_take_true_for_1():
    pushed, kept = split(
        All((Compare("x", "eq", 1), Compare("x", "eq", True))), lambda compare: not isinstance(compare.value, bool)
    )
    assert (pushed, kept) == (Compare("x", "eq", 1), Compare("x", "eq", True))
    assert isinstance(kept, Compare)
    assert kept.value is True
