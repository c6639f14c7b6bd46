"""Time and ids, as arguments: everything that needs them takes a `Clock` and an `Ids`."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import Struct

Clock = Callable[[], int]
"""Gives the current time as microseconds since 1970-01-01 UTC."""

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR

_POOL = Struct(">256Q")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> int:
    """The wall clock in microseconds."""
    return time.time_ns() // 1000


def to_datetime(micros: int) -> datetime:
    """Microseconds since 1970 as an aware UTC datetime."""
    return _EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """An aware datetime as microseconds since 1970. Raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a datetime without a time zone is ambiguous: pass an aware one")
    delta = moment - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * SECOND + delta.microseconds


class Ids:
    """Mints uuid7 strings: 48 bits of milliseconds, then a counter that keeps one process's ids ascending.

    RFC 9562, section 5.7 with method 1 of 6.2: the 12 bits after the version hold a counter that starts anew,
    at random, in each millisecond. A clock that goes back does not make ids go back.
    """

    def __init__(self, clock: Clock = system_clock, random: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._last = 0
        self._noise: list[int] = []

    def __call__(self) -> str:
        """A new id in the usual form: 36 characters, lower case."""
        with self._lock:
            stamp = (self._clock() // 1000) << 12
            if not self._noise:
                self._noise = list(_POOL.unpack(self._random(_POOL.size)))
            noise = self._noise.pop()
            last = self._last + 1 if stamp <= self._last else stamp | (noise >> 54 & 0x3FF)
            self._last = last
        front = (last & ~0xFFF) << 4 | 0x7000 | last & 0xFFF
        text = (front << 64 | noise & 0x3FFFFFFFFFFFFFFF | 0x8000000000000000).to_bytes(16).hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def time_of(rev: str) -> int:
    """The microseconds (to the millisecond) at which a uuid7 was minted."""
    return int(rev[:8] + rev[9:13], 16) * 1000
