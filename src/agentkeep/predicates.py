"""Filters over facets: the tree, its evaluator (the specification of every engine), and the split for push-down.

A facet is a scalar or several. A comparison holds if it holds for one of the facet's values; on a missing facet it
is false. Text compares with text, numbers with numbers (1 == 1.0), booleans with booleans; across types a comparison
is false. User text is data: it is never part of a query's syntax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, cast

import msgspec

from .errors import Invalid

Value: TypeAlias = str | int | float | bool
Facet: TypeAlias = Value | tuple[Value, ...]
Facets: TypeAlias = Mapping[str, Facet]
Operator: TypeAlias = Literal["eq", "ne", "lt", "le", "gt", "ge", "in", "exists"]

OPERATORS: frozenset[str] = frozenset({"eq", "ne", "lt", "le", "gt", "ge", "in", "exists"})
MAX_TERMS = 100
MAX_DEPTH = 10


class Compare(msgspec.Struct, frozen=True):
    """One comparison. `value` is a tuple for "in" and a bool for "exists"."""

    path: str
    op: Operator
    value: Value | tuple[Value, ...]


class All(msgspec.Struct, frozen=True):
    """True if every part is."""

    parts: tuple[Predicate, ...]


class Some(msgspec.Struct, frozen=True):
    """True if one part is."""

    parts: tuple[Predicate, ...]


class Not(msgspec.Struct, frozen=True):
    """True if its part is not."""

    part: Predicate


Predicate: TypeAlias = Compare | All | Some | Not


def evaluate(predicate: Predicate | None, facets: Facets) -> bool:
    """Whether a row with these facets is wanted."""
    match predicate:
        case None:
            return True
        case Compare(path, op, value):
            return _compare(facets.get(path), op, value)
        case All(parts):
            return all(evaluate(part, facets) for part in parts)
        case Some(parts):
            return any(evaluate(part, facets) for part in parts)
        case Not(part):
            return not evaluate(part, facets)


def _compare(facet: Facet | None, op: Operator, value: Value | tuple[Value, ...]) -> bool:
    if facet is None or facet == ():
        return op == "exists" and value is False
    if op == "exists":
        return value is True
    holds = _HOLDS[op]
    return any(holds(found, value) for found in (facet if isinstance(facet, tuple) else (facet,)))


def comparable(a: object, b: object) -> bool:
    """Whether two values are of one family: text, numbers, booleans."""
    if isinstance(a, bool) or isinstance(b, bool):
        return isinstance(a, bool) and isinstance(b, bool)
    return isinstance(a, str) == isinstance(b, str)


_HOLDS: Mapping[str, Callable[[Value, object], bool]] = {
    "eq": lambda a, b: comparable(a, b) and a == b,
    "ne": lambda a, b: not (comparable(a, b) and a == b),
    "lt": lambda a, b: comparable(a, b) and a < b,  # type: ignore[operator]
    "le": lambda a, b: comparable(a, b) and a <= b,  # type: ignore[operator]
    "gt": lambda a, b: comparable(a, b) and a > b,  # type: ignore[operator]
    "ge": lambda a, b: comparable(a, b) and a >= b,  # type: ignore[operator]
    "in": lambda a, b: any(comparable(a, one) and a == one for one in b),  # type: ignore[attr-defined]
}


def split(
    predicate: Predicate | None, pushable: Callable[[Compare], bool]
) -> tuple[Predicate | None, Predicate | None]:
    """The AND-parts an engine evaluates, and the rest that core evaluates on what comes back.

    A part is pushed whole or not at all, so what the engine returns is never narrower than what is asked.
    """
    if predicate is None:
        return None, None
    parts = predicate.parts if isinstance(predicate, All) else (predicate,)
    whole = [_whole(part, pushable) for part in parts]
    pushed = tuple(part for part, ours in zip(parts, whole, strict=True) if ours)
    kept = tuple(part for part, ours in zip(parts, whole, strict=True) if not ours)
    return _conjoin(pushed), _conjoin(kept)


def _whole(predicate: Predicate, pushable: Callable[[Compare], bool]) -> bool:
    match predicate:
        case Compare():
            return pushable(predicate)
        case All(parts) | Some(parts):
            return all(_whole(part, pushable) for part in parts)
        case Not(part):
            return _whole(part, pushable)


def _conjoin(parts: tuple[Predicate, ...]) -> Predicate | None:
    return None if not parts else parts[0] if len(parts) == 1 else All(parts)


# --- what users write --------------------------------------------------------------------------------------------

Where: TypeAlias = Mapping[str, object] | Predicate


def parse(where: Where | None) -> Predicate | None:
    """What users write, as a tree.

    {"type": "message"} compares for equality; {"score": {"ge": 3, "lt": 9}} names operators; a list is "in";
    "$or" and "$and" take a list of filters, "$not" takes one. Raises Invalid for anything else, so that a
    mistyped filter never widens a result.
    """
    if where is None or isinstance(where, (Compare, All, Some, Not)):
        return where
    tree = _parse(where, 1)
    if _terms(tree) > MAX_TERMS:
        raise Invalid(f"a filter has at most {MAX_TERMS} comparisons", operation="where")
    return tree


def _parse(where: object, depth: int) -> Predicate | None:
    if not isinstance(where, Mapping):
        raise Invalid(f"a filter is a mapping of field to value, not {type(where).__name__}", operation="where")
    if depth > MAX_DEPTH:
        raise Invalid(f"a filter nests at most {MAX_DEPTH} levels", operation="where")
    parts: list[Predicate] = []
    for field, asked in cast("Mapping[object, object]", where).items():
        if not isinstance(field, str) or not field:
            raise Invalid("a filter's field is a non-empty string", operation="where")
        match field:
            case "$or" | "$and":
                nested = [p for p in (_parse(one, depth + 1) for one in _list(field, asked)) if p is not None]
                parts.append(Some(tuple(nested)) if field == "$or" else All(tuple(nested)))
            case "$not":
                inner = _parse(asked, depth + 1)
                if inner is None:
                    raise Invalid("$not needs a filter that is not empty", operation="where")
                parts.append(Not(inner))
            case _ if field.startswith("$"):
                raise Invalid(f"unknown operator {field!r}: use $and, $or, $not", operation="where")
            case _:
                parts += _comparisons(field, asked)
    return _conjoin(tuple(parts))


def _comparisons(field: str, asked: object) -> list[Predicate]:
    if isinstance(asked, Mapping):
        found: list[Predicate] = []
        for op, value in cast("Mapping[object, object]", asked).items():
            if not isinstance(op, str) or op not in OPERATORS:
                known = ", ".join(sorted(OPERATORS))
                raise Invalid(f"unknown operator {op!r} for {field!r}: use one of {known}", operation="where")
            found.append(_comparison(field, cast(Operator, op), value))
        if not found:
            raise Invalid(f"the filter for {field!r} is empty", operation="where")
        return found
    if isinstance(asked, (list, tuple, set, frozenset)):
        return [_comparison(field, "in", cast("Sequence[object]", asked))]
    return [_comparison(field, "eq", asked)]


def _comparison(field: str, op: Operator, value: object) -> Compare:
    if op == "in":
        return Compare(field, op, tuple(_value(field, one) for one in _list(field, value)))
    if op == "exists" and not isinstance(value, bool):
        raise Invalid(f"exists for {field!r} takes True or False", operation="where")
    return Compare(field, op, _value(field, value))


def _value(field: str, value: object) -> Value:
    if isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and value == value:
        return value
    raise Invalid(
        f"the filter for {field!r} must be text, a number or a boolean, not {type(value).__name__}",
        operation="where",
        hint='To ask for a missing field, use {"exists": False}.' if value is None else "",
    )


def _list(field: str, value: object) -> list[object]:
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(cast("Sequence[object]", value))
    raise Invalid(f"{field!r} takes a list", operation="where")


def _terms(predicate: Predicate | None) -> int:
    match predicate:
        case None:
            return 0
        case Compare(_, _, value):
            return len(value) if isinstance(value, tuple) else 1
        case All(parts) | Some(parts):
            return sum(map(_terms, parts)) or 1
        case Not(part):
            return _terms(part)
