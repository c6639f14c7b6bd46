"""Ids of participants and channels as index values: themselves, or a digest where they are long."""

from __future__ import annotations

from ...keys import fitted

LONGEST = 80
"""Bytes of an index value: two of them, with a time and any tenant, fit an index."""


def tag(id: str) -> str:
    """The index value of an id: two ids have two."""
    return fitted(id, LONGEST)
