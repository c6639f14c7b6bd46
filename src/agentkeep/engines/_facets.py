"""Facets as a JSON array of strings in which every comparison of a filter is a range of text.

    path END s text             a text, `keys.escape`d
    path END n bits kind        a number: 16 digits of its float64 in order, then i (int), f (float) or z (-0.0)
    path END b 0 or 1           a boolean
    path END                    the path has several values, or none: those that follow

So filters are exact where JSON is not: U+0000, lone surrogates, quotes in paths, the last bit of a float, 1 == 1.0.
Only an integer that no float64 equals has no place here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

import msgspec

from ..keys import END, escape, unescape
from ..predicates import Compare, Facet, Facets, Value

MOST = 100
"""The longest list that "in" compares in SQL."""

_NEXT: Mapping[str, str] = {"b": "c", "n": "o", "s": "t"}
_decoder = msgspec.json.Decoder(list[str])
_encode = msgspec.json.Encoder().encode


def facets_text(facets: Facets) -> str | None:
    """The column of some facets; None if an integer has no place in it."""
    entries: list[str] = []
    for path, facet in facets.items():
        head = _head(path)
        if type(facet) is str:
            entries.append(f"{head}s{facet if facet.isprintable() else escape(facet)}")
            continue
        if isinstance(facet, tuple):
            entries.append(head)
        for value in facet if isinstance(facet, tuple) else (facet,):
            text = _text(value)
            if text is None:
                return None
            entries.append(head + text)
    return _encode(entries).decode()


@lru_cache(maxsize=1024)
def _head(path: str) -> str:
    return escape(path) + END


def text_facets(column: str) -> Facets:
    """The facets of a column, as they were given."""
    facets: dict[str, Facet] = {}
    for entry in _decoder.decode(column):
        head, _, text = entry.partition(END)
        path = unescape(head)
        if not text:
            facets[path] = ()
            continue
        value, several = _value(text), facets.get(path)
        facets[path] = (*several, value) if isinstance(several, tuple) else value
    return facets


def filter_sql(compare: Compare, bind: Callable[[str], str]) -> str | None:
    """A comparison as SQL over the column t.facets; None if SQL cannot decide it."""
    head = escape(compare.path) + END
    if compare.op == "exists":
        return f"{'' if compare.value else 'NOT '}{_any(_between(head + 'b', head + 't', bind))}"
    values = compare.value if isinstance(compare.value, tuple) else (compare.value,)
    texts = [text for text in map(_text, values) if text is not None]
    if len(texts) < len(values) or len(texts) > MOST:
        return None
    edges = [_edges(head + text) for text in texts]
    if compare.op in ("eq", "in"):
        return _any(" OR ".join([_between(low, high, bind) for low, high in edges]) or "FALSE")
    low, high = edges[0]
    if compare.op == "ne":
        return _any(f"{_between(head + 'b', head + 't', bind)} AND NOT ({_between(low, high, bind)})")
    family = head + texts[0][0]
    above = head + _NEXT[texts[0][0]]
    ranges = {"lt": (family, low), "le": (family, high), "gt": (high, above), "ge": (low, above)}
    return _any(_between(*ranges[compare.op], bind))


def _any(condition: str) -> str:
    return f"EXISTS (SELECT 1 FROM json_each(t.facets) e WHERE {condition})"


def _between(low: str, high: str, bind: Callable[[str], str]) -> str:
    return f"e.value >= {bind(low)} AND e.value < {bind(high)}"


def _edges(entry: str) -> tuple[str, str]:
    """The range of the entries equal to one: texts have no END, and numbers are equal whatever their last letter."""
    return (entry[:-1], entry[:-1] + "~") if _is_number(entry) else (entry, entry + END)


def _is_number(entry: str) -> bool:
    return entry[entry.rindex(END) + 1] == "n"


def _text(value: Value) -> str | None:
    if isinstance(value, str):
        return "s" + escape(value)
    if isinstance(value, bool):
        return f"b{value:d}"
    kind = "i" if isinstance(value, int) else "z" if str(value) == "-0.0" else "f"
    try:
        number = float(value)
    except OverflowError:
        return None
    if number != value:
        return None
    bits = int.from_bytes(struct.pack(">d", number + 0.0))
    return f"n{bits ^ 0xFFFFFFFFFFFFFFFF if bits >> 63 else bits | 1 << 63:016x}{kind}"


def _value(text: str) -> Value:
    tag, body = text[0], text[1:]
    if tag == "s":
        return unescape(body)
    if tag == "b":
        return body == "1"
    bits = int(body[:-1], 16)
    bits = bits & ~(1 << 63) if bits >> 63 else bits ^ 0xFFFFFFFFFFFFFFFF
    number: float = struct.unpack(">d", bits.to_bytes(8))[0]
    return int(number) if body[-1] == "i" else -0.0 if body[-1] == "z" else number
