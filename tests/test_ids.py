"""Ids: ascending in one process whatever the clock does, and uuid7 in form; times as microseconds."""

from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeep.ids import DAY, HOUR, SECOND, Ids, system_clock, time_of, to_datetime, to_micros

FORM = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
START = 1_700_000_000 * SECOND


def test_an_id_is_a_uuid7():
    for _ in range(1000):
        made = Ids()()
        assert FORM.fullmatch(made)
        assert (UUID(made).version, UUID(made).variant) == (7, "specified in RFC 4122")


@given(st.lists(st.integers(-HOUR, HOUR), max_size=200))
@pytest.mark.case("F7")
def test_ids_ascend_whatever_the_clock_does(steps: list[int]):
    now = START
    ids = Ids(lambda: now)
    made = [ids()]
    for step in steps:
        now = max(now + step, 0)
        made.append(ids())
    assert made == sorted(made)
    assert len(set(made)) == len(made)


@pytest.mark.case("F7")
def test_a_frozen_clock_gives_many_distinct_ascending_ids():
    ids = Ids(lambda: START)
    made = [ids() for _ in range(20_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)
    assert all(FORM.fullmatch(one) for one in made)


def test_a_clock_that_goes_back_is_caught_up_with():
    now = START
    ids = Ids(lambda: now)
    first = ids()
    now -= HOUR
    second = ids()
    assert second > first
    now = START + DAY
    assert time_of(ids()) == START + DAY


def test_the_time_of_an_id():
    assert time_of(Ids(lambda: START + 999)()) == START
    assert abs(time_of(Ids()()) - system_clock()) < 10 * SECOND


def test_two_mints_do_not_meet():
    made = [ids() for ids in (Ids(lambda: START), Ids(lambda: START)) for _ in range(5_000)]
    assert len(set(made)) == len(made)


def test_threads_share_a_mint():
    ids = Ids(lambda: START)
    made: list[list[str]] = []
    threads = [threading.Thread(target=lambda: made.append([ids() for _ in range(2_000)])) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    every = [one for some in made for one in some]
    assert len(set(every)) == 12_000
    assert all(some == sorted(some) for some in made)


def test_randomness_is_an_argument():
    made = [Ids(lambda: START, lambda count: bytes(count))() for _ in range(2)]
    assert made[0] == made[1]


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC)))
def test_a_moment_comes_back(moment: datetime):
    assert to_datetime(to_micros(moment)) == moment


def test_moments_of_other_zones_are_the_same_moment():
    moment = datetime(2024, 3, 1, 12, tzinfo=timezone(timedelta(hours=5, minutes=30)))
    assert to_datetime(to_micros(moment)) == moment
    assert to_micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
    with pytest.raises(ValueError, match="time zone"):
        to_micros(datetime(2024, 3, 1))
