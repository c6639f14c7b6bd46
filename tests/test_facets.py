"""The facets column: what is read back is what was written, and a filter in SQL holds where the evaluator says."""

from __future__ import annotations

from typing import Any

import apsw
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agentkeep.engines._facets import facets_text, filter_sql, text_facets
from agentkeep.predicates import Compare, evaluate

words = st.text(max_size=3) | st.sampled_from(["a", "a\x00", "\ud800", "é", '"', "\\", "sa", "n0", "\x01", "\x02", ""])
numbers = st.integers(-3, 3) | st.floats(allow_nan=False) | st.integers() | st.sampled_from([0.1, 1.5, -0.0, 2**53 + 1])
values = words | st.booleans() | numbers
facets = st.dictionaries(words, values | st.lists(values, max_size=3).map(tuple), max_size=3)
ordered = st.sampled_from(["eq", "ne", "lt", "le", "gt", "ge"])
compares = (
    st.builds(Compare, words, ordered, values)
    | st.builds(Compare, words, st.just("exists"), st.booleans())
    | st.builds(Compare, words, st.just("in"), st.lists(values, max_size=3).map(tuple))
)
connection = apsw.Connection(":memory:")


def _exact(value: Any) -> bool:
    return all(type(one) is not int or abs(one) <= 2**53 for one in (value if isinstance(value, tuple) else (value,)))


@given(facets)
def test_facets_are_read_back_as_they_were_given(given_: dict[str, Any]) -> None:
    column = facets_text(given_)
    if column is None:
        assert not all(map(_exact, given_.values()))
    else:
        assert repr(text_facets(column)) == repr(given_)


@settings(max_examples=500)
@given(facets, compares, st.data())
@example({"a": 1.0}, Compare("a", "eq", 1), None)
@example({"a": True}, Compare("a", "eq", 1), None)
@example({"a": ()}, Compare("a", "ne", "x"), None)
@example({"": "a"}, Compare("", "exists", True), None)
def test_a_filter_in_sql_holds_where_the_evaluator_says(given_: dict[str, Any], compare: Compare, data: Any) -> None:
    if data is not None and given_ and data.draw(st.booleans()):
        compare = Compare(data.draw(st.sampled_from(sorted(given_))), compare.op, compare.value)
    args: list[Any] = [facets_text(given_)]
    if args[0] is None:
        return

    def bind(value: str) -> str:
        args.append(value)
        return f"?{len(args)}"

    sql = filter_sql(compare, bind)
    if sql is None:
        assert not _exact(compare.value)
        return
    found = connection.execute(f"SELECT {sql} FROM (SELECT ?1 AS facets) t", args).fetchone()
    assert bool(found[0]) == evaluate(compare, given_)
