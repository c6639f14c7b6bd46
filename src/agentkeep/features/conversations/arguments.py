"""Arguments of callers, parsed: free data, and ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from ...errors import Invalid


def mapping(value: object, name: str) -> dict[str, Any]:
    """Free data that a caller passed, {} for None. Raises Invalid for what is no mapping."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise Invalid(f"{name} is a mapping of names to values, not {type(value).__name__}", operation="conversations")
    return dict(cast("Mapping[str, Any]", value))


def text(value: object, name: str) -> str:
    """An id that a caller passed. Raises Invalid for an empty one, and for what is no text."""
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name} is a non-empty string", operation="conversations")
    return value
