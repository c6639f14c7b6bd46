"""What callers pass to features: checked, and ids as short as an index needs them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from hashlib import blake2b
from typing import Any, cast

from ..errors import Invalid, TooLarge
from ..ids import to_micros
from ..keys import escape, fitted, size

MAX_LABEL = 128
"""Bytes, after encoding, of a name that stands in an index: a queue, an owner, a type."""


def short(id: str) -> str:
    """An id as an index value or a sort key: itself, or a digest where it is longer than MAX_LABEL."""
    return fitted(id, MAX_LABEL)


def id_of(key: str) -> str:
    """The id of what is created under an idempotency key: the same wherever and whenever it is asked."""
    return "key-" + blake2b(escape(key).encode(), digest_size=16).hexdigest()


def text(value: object, name: str) -> str:
    """A text that is not blank. Raises Invalid."""
    if not isinstance(value, str) or not value.strip():
        raise Invalid(f"{name} is a text that is not empty", hint=f"Pass {name}=...")
    return value


def identifier(value: object, name: str) -> str:
    """An id: any text but the empty one. Raises Invalid."""
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name} is a non-empty string")
    return value


def label(value: object, name: str) -> str:
    """A name that stands in an index. Raises Invalid, and TooLarge over MAX_LABEL bytes."""
    given = identifier(value, name)
    if (length := size(given)) > MAX_LABEL:
        raise TooLarge(name, limit=MAX_LABEL, size=length, hint=f"Use a shorter {name}.")
    return given


def integer(value: object, name: str, least: int, most: int) -> int:
    """A whole number in a range, both ends included. Raises Invalid."""
    if type(value) is not int or not least <= value <= most:
        raise Invalid(f"{name} is a whole number from {least} to {most}")
    return value


def seconds(value: object, name: str, most: float) -> int:
    """A span of up to `most` seconds as microseconds. Raises Invalid for what is no finite number over 0."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise Invalid(f"{name} is a number of seconds")
    if not 0 < value <= most:
        raise Invalid(f"{name} is more than 0 and at most {most:,.0f} seconds, not {value}")
    return max(1, round(value * 1_000_000))


def moment(value: object, name: str) -> int:
    """An aware datetime as microseconds since 1970. Raises Invalid."""
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise Invalid(f"{name} is a datetime with a time zone")
    return to_micros(value)


def mapping(value: object, name: str) -> dict[str, Any]:
    """Free data, {} for None. Raises Invalid for what is no mapping."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(f"{name} is a mapping of names to values, not {type(value).__name__}")
    return dict(cast("Mapping[str, Any]", value))


def merged(old: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Free data with changes; a value of None removes its name."""
    return {name: value for name, value in {**old, **more}.items() if value is not None}
