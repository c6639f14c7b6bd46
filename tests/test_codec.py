"""Documents: they come back as given, what JSON would change is refused by path, and damage is found at every byte."""

from __future__ import annotations

import dataclasses
import math
import sys
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeep.codec import (
    HEADER,
    MAX_DEPTH,
    MAX_DIGITS,
    MOVED,
    ODD,
    PLAIN,
    check,
    decode,
    encode,
    frame,
    is_moved,
    plain,
    unframe,
)
from agentkeep.errors import Corrupt, Invalid, Key
from agentkeep.testing.values import DOCUMENTS, FLOATS, HUGE, STRINGS

texts = st.text(st.characters(exclude_categories=()), max_size=8)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), texts)
documents = st.recursive(
    leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)


class Note(msgspec.Struct):
    title: str
    data: Any = None


@given(documents)
@pytest.mark.case("F1", "F2", "F4")
def test_free_data_comes_back_type_for_type(value: Any):
    check(value, "value")
    assert repr(decode(encode(value), object)) == repr(value)
    assert encode(value) == encode(value), "one document, one form"


@pytest.mark.parametrize("value", [*DOCUMENTS, *STRINGS, *HUGE, *FLOATS, -0.0, 1, 1.0, 1e2, "1e2", 10**3999])
@pytest.mark.case("F1", "F2", "F4")
def test_hostile_values_come_back_type_for_type(value: Any):
    for given_ in (value, {"x": [value]}, Note("t", value)):
        if not isinstance(given_, Note):
            check(given_, "value")
            assert repr(decode(encode(given_), object)) == repr(given_)
        else:
            assert repr(decode(encode(given_), Note)) == repr(given_)


def test_literal_escapes_are_left_alone():
    for text in ("\\u0000", "\\ud800", "\\\\u0000", "\\", '"'):
        assert decode(encode(text), str) == text


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "meta"),
        ([1, math.inf], "meta[1]"),
        ({"a": {"b": [0, {"c": -math.inf}]}}, "meta.a.b[1].c"),
        ({1: 2}, "meta"),
        ({"a": {None: 2}}, "meta.a"),
        ({"a": (1, 2)}, "meta.a"),
        ([b"x"], "meta[0]"),
        ({"s": {1}}, "meta.s"),
        ({"t": datetime(2020, 1, 1)}, "meta.t"),
        ({"d": Decimal("1.5")}, "meta.d"),
        ({"o": object()}, "meta.o"),
        ({"n": 10**MAX_DIGITS}, "meta.n"),
        ({"n": -(10**MAX_DIGITS)}, "meta.n"),
    ],
)
@pytest.mark.case("F3", "F4")
def test_what_json_would_change_is_refused_by_path(value: Any, path: str):
    with pytest.raises(Invalid) as caught:
        check(value, "meta")
    told = str(caught.value)
    assert told.startswith(path + " ") or told.startswith(path + ":"), told


def test_a_subclass_is_not_taken_for_its_base():
    class Shout(str):
        pass

    for value in ([Shout("x")], [True, type("Int", (int,), {})(1)]):
        with pytest.raises(Invalid):
            check(value, "meta")


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.case("S11")
def test_nesting_is_bounded_before_the_interpreter_is():
    check(_nested(MAX_DEPTH), "meta")
    assert decode(encode(_nested(MAX_DEPTH)), object) == _nested(MAX_DEPTH)
    for levels in (MAX_DEPTH + 1, 50_000):
        with pytest.raises(Invalid, match=f"{MAX_DEPTH} levels"):
            check(_nested(levels), "meta")


@pytest.mark.case("S11")
def test_a_cycle_is_refused():
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(Invalid):
        check(value, "meta")


@pytest.mark.case("S11")
def test_a_deep_document_that_somebody_else_wrote_is_corrupt():
    for body in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 100_000):
        for how in (PLAIN, ODD):
            with pytest.raises(Corrupt):
                decode(frame(how, body), object)


@pytest.mark.parametrize("value", [{"text": "hello"}, {"odd": "\ud800"}])
@pytest.mark.case("C9")
def test_damage_at_every_byte_is_corrupt(value: Any):
    whole = encode(value)
    for at in range(1, len(whole)):
        for bit in (1, 0x80):
            damaged = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
            with pytest.raises(Corrupt):
                decode(damaged, object)
        with pytest.raises(Corrupt):
            decode(whole[:at], object)
    with pytest.raises(Corrupt):
        decode(whole + b"\x00", object)
    for how in (0, 4, 9, 255, MOVED):
        with pytest.raises(Corrupt):
            decode(bytes([how]) + whole[1:], object)


@pytest.mark.case("C10")
def test_an_unknown_form_says_that_a_newer_version_may_have_written_it():
    key = Key("note", "p", "a")
    with pytest.raises(Corrupt) as caught:
        decode(frame(9, b"{}"), object, key)
    assert caught.value.key == key
    assert "newer" in str(caught.value)


@given(st.binary())
@pytest.mark.case("S1")
def test_any_bytes_decode_or_are_corrupt(raw: bytes):
    for doc in (raw, frame(PLAIN, raw), frame(ODD, raw), frame(MOVED, raw)):
        try:
            decode(doc, dict[str, Any])
        except Corrupt:
            continue


@pytest.mark.case("S1")
def test_reading_imports_nothing():
    before = set(sys.modules)
    for body in (
        b"\x80\x04cos\nsystem\n.",
        b'{"lc":1,"id":["os","system"]}',
        b'{"__reduce__":["antigravity"]}',
        b"NaN",
        b"Infinity",
    ):
        for how in (PLAIN, ODD):
            try:
                decode(frame(how, body), object)
            except Corrupt:
                continue
    assert set(sys.modules) == before


@pytest.mark.parametrize("how", [PLAIN, ODD])
@pytest.mark.parametrize("body", [b"NaN", b"[Infinity]", b'{"a":-Infinity}', b"1e999"])
@pytest.mark.case("F3")
def test_no_number_that_is_not_finite_is_ever_read(how: int, body: bytes):
    try:
        value: Any = decode(frame(how, body), object)
    except Corrupt:
        return
    check(value, "read")


def test_a_document_of_another_type_is_corrupt_and_shows_no_content():
    with pytest.raises(Corrupt) as caught:
        decode(encode({"title": 3, "data": "canary-text"}), Note, Key("note", "p", "a"))
    assert "canary-text" not in str(caught.value)
    assert "Note" in str(caught.value)


def test_the_header():
    doc = encode({"a": 1})
    how, body = unframe(doc)
    assert (how, bytes(body)) == (PLAIN, b'{"a":1}')
    assert len(doc) == HEADER + len(body)
    assert not is_moved(doc)
    assert is_moved(frame(MOVED, b"{}"))
    assert encode("\ud800")[0] == ODD


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Model(pydantic.BaseModel):
    name: str
    at: datetime


def test_payloads_of_other_kinds_become_free_data():
    assert plain(Point(1, 2.0), "p") == {"x": 1, "y": 2.0}
    assert plain(Note("t", [1]), "p") == {"title": "t", "data": [1]}
    assert plain(Model(name="n", at=datetime(2020, 1, 1)), "p") == {"name": "n", "at": "2020-01-01T00:00:00"}
    assert plain(MappingProxyType({"a": 1}), "p") == {"a": 1}
    assert plain({"a": 1}, "p") == {"a": 1}
    with pytest.raises(Invalid, match=r"p\.y"):
        plain(Point(1, math.nan), "p")
    with pytest.raises(Invalid):
        plain(MappingProxyType({1: 1}), "p")
