"""Keys: order, injectivity, bounds of logs, digests of long ids, cursors."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentkeep.errors import Invalid
from agentkeep.keys import (
    ABOVE,
    END,
    MAX_ID,
    SHORT,
    WIDEST,
    cursor,
    escape,
    pack,
    partition,
    position,
    seq_bound,
    seq_of,
    seq_sort,
    short,
    size,
    unescape,
    unpack,
)
from agentkeep.predicates import Compare
from agentkeep.testing.values import FLOATS, INTEGERS, SEPARATED, STRINGS
from agentkeep.waist import MAX_PARTITION, Scan

edges = st.sampled_from(
    "\x00\x01\x02\x03\x04\x05\x06\ud7fe\ud7ff\ud800\udbff\udc00\udfff\ue000\uffff\U00010000\U0010ffff\u0803ab~"
)
texts = st.one_of(st.text(st.characters(exclude_categories=())), st.text(edges, max_size=5))
integers = st.integers(-(2**53), 2**53)
floats = st.floats(allow_nan=False, allow_infinity=False)
fields = st.one_of(texts.map(lambda a: (a,)), st.tuples(texts, texts), st.tuples(texts, integers, texts))


@given(texts)
@pytest.mark.case("F1", "F2", "F6")
def test_an_escaped_text_is_utf8_without_nul_and_terminator_and_comes_back(text: str):
    escaped = escape(text)
    raw = escaped.encode()
    assert b"\x00" not in raw
    assert END not in escaped
    assert unescape(escaped) == text
    assert size(text) == len(raw)
    assert len(raw) <= len(text) * WIDEST


@given(texts, texts)
@pytest.mark.case("F6", "S5")
def test_escaping_keeps_the_order_of_code_points_and_is_injective(a: str, b: str):
    assert (escape(a).encode() < escape(b).encode()) is (a < b)
    assert (escape(a) == escape(b)) is (a == b)


def test_nothing_that_has_to_be_escaped_is_printable():
    odd = [chr(point) for point in (0, 1, 2, *range(0xD7FF, 0xE000))]
    assert not any(char.isprintable() for char in odd)
    assert all(escape(f"a{char}b") != f"a{char}b" for char in odd)


def test_every_code_point_near_the_edges_is_in_order():
    points = [*map(chr, range(0x200)), *map(chr, range(0xD700, 0xE100)), "\uffff", "\U00010000", "\U0010ffff"]
    assert [escape(one).encode() for one in points] == sorted(escape(one).encode() for one in points)
    assert {unescape(escape(one)) for one in points} == set(points)


@given(
    st.one_of(st.tuples(texts, texts), st.tuples(texts, st.tuples(texts, texts)).map(lambda p: (p[0], *p[1]))),
    st.data(),
)
@pytest.mark.case("S5")
def test_packed_texts_are_in_order_field_by_field(a: tuple[str, ...], data: st.DataObject):
    b = tuple(data.draw(texts) for _ in a)
    assert (pack(a).encode() < pack(b).encode()) is (a < b)
    assert unpack(pack(a)) == a


@given(integers, integers)
def test_packed_integers_are_in_order(a: int, b: int):
    assert (pack((a,)) < pack((b,))) is (a < b)
    assert unpack(pack((a, b))) == (a, b)


@given(floats, floats)
@example(0.0, -0.0)
@example(5e-324, -5e-324)
def test_packed_floats_are_in_order(a: float, b: float):
    assert (pack((a,)) < pack((b,))) is (a < b)
    assert (pack((a,)) == pack((b,))) is (a == b)
    assert unpack(pack((a, b))) == (a, b)


def test_packed_booleans_are_in_order():
    assert pack((False,)) < pack((True,))
    assert unpack(pack((True, False))) == (True, False)
    assert unpack(pack((True,)))[0] is True


@given(fields, texts)
def test_a_prefix_is_bounded_by_above(values: tuple[Any, ...], more: str):
    low, high = pack(values), pack(values) + ABOVE
    assert low < pack((*values, more)) < high
    assert (
        not low
        < pack((*values[:-1], *([values[-1] + "x"] if isinstance(values[-1], str) else [values[-1] - 1]), more))
        < high
    )


def test_pairs_that_joined_ids_would_confuse_are_distinct():
    pairs = set(SEPARATED)
    assert len({pack(pair) for pair in pairs}) == len(pairs)
    assert len(set(map(escape, STRINGS))) == len(STRINGS)


@pytest.mark.parametrize(
    "wrong", [2**53 + 1, -(2**53) - 1, float("nan"), float("inf"), float("-inf"), None, b"x", (1,)]
)
@pytest.mark.case("F3", "F4")
def test_what_cannot_be_packed_is_invalid(wrong: Any):
    with pytest.raises(Invalid):
        pack((wrong,))


def test_corpora_pack_and_come_back():
    for values in (STRINGS, INTEGERS, FLOATS):
        assert unpack(pack(values)) == values
        assert [unpack(one)[0] for one in sorted(pack((value,)) for value in values)] == sorted(values)


@given(st.integers(0, 10**16 - 1))
def test_a_number_of_a_log_and_its_sort_key(seq: int):
    assert seq_of(seq_sort(seq)) == seq
    assert seq_bound(seq_sort(seq)) == seq


@pytest.mark.parametrize(
    "wrong", ["", "1", "000000000000000x", "00000000000000001", "-000000000000001", "٠" * 16, " " * 16]
)
def test_what_is_no_number_of_a_log_is_invalid(wrong: str):
    with pytest.raises(Invalid):
        seq_of(wrong)


@given(
    st.one_of(texts, st.text("0123456789", max_size=20), st.text("0129x/:", max_size=18)), st.integers(0, 10**16 - 1)
)
@example("0000000000000007", 7)
@example("0000000000000007x", 8)
@example("9999999999999999x", 10**16 - 1)
def test_a_bound_of_a_log_is_the_first_number_at_or_above_any_text(bound: str, seq: int):
    assert (seq_sort(seq) >= bound) is (seq >= seq_bound(bound))
    near = seq_bound(bound)
    for number in (near - 1, near, near + 1):
        if 0 <= number < 10**16:
            assert (seq_sort(number) >= bound) is (number >= near)


@given(st.lists(st.one_of(texts, texts.map(lambda text: text * 200)), unique=True, max_size=5))
@pytest.mark.case("F5", "S6")
def test_partitions_of_ids_are_distinct_and_leave_room_for_a_tenant(ids: list[str]):
    made = [partition(one) for one in ids]
    assert len(set(made)) == len(ids)
    assert all(size(one) <= MAX_ID < MAX_PARTITION for one in made)


def test_no_id_pretends_to_be_a_digest():
    long = "x" * 5_000
    digest = partition(long)
    assert digest != long
    assert partition(digest) not in (digest, long)
    assert partition("x" * MAX_ID) == "x" * MAX_ID
    assert partition("x" * (MAX_ID + 1)) != "x" * (MAX_ID + 1)
    assert partition("\udfff" * (MAX_ID // 6 + 1)).startswith("\U0010ffff")


@given(st.tuples(texts, texts), st.booleans())
def test_a_cursor_comes_back_as_its_position(place: tuple[str, str], reverse: bool):
    scan = Scan("note", prefix=("p",), reverse=reverse)
    assert position(msgspec.structs.replace(scan, after=cursor(scan, place))) == place
    assert position(scan) is None


def test_a_cursor_is_bound_to_every_argument_but_limit_and_budget():
    scan = Scan("note", "by_x", ("p",), lo=1, hi=5, where=Compare("x", "eq", 1))
    given_ = cursor(scan, ("a", "b", "c"))
    replace = msgspec.structs.replace
    assert position(replace(scan, after=given_, limit=7, budget=9)) == ("a", "b", "c")
    for other in (
        {"kind": "event"}, {"index": "by_y"}, {"index": None}, {"prefix": ("q",)}, {"prefix": ("p", 1)}, {"lo": None},
        {"lo": 1.0}, {"lo": True}, {"hi": 6}, {"reverse": True}, {"where": None}, {"where": Compare("x", "eq", True)},
        {"where": Compare("x", "eq", 1.0)},
    ):  # fmt: skip
        with pytest.raises(Invalid):
            position(replace(scan, after=given_, **other))


@given(st.one_of(st.text(), st.binary().map(lambda raw: urlsafe_b64encode(raw).decode())))
def test_no_text_is_a_cursor_by_chance(text: str):
    with pytest.raises(Invalid):
        position(Scan("note", prefix=("p",), after=text))


def test_short_ids_are_apart_and_fit_and_have_no_slash():
    ids = [*dict.fromkeys([*STRINGS, "a", "a/", "a/b", "/", "x" * 96, "x" * 97, "x" * 5_000, "\U0010ffff" + "0" * 64])]
    found = [short(id) for id in ids]
    assert len(set(found)) == len(ids)
    assert all(size(one) <= SHORT and "/" not in one for one in found)
    assert short("x" * 96) == "x" * 96
