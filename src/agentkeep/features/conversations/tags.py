"""Ids of participants and channels as index values: themselves, or a digest where they are long."""

from __future__ import annotations

from hashlib import blake2b

from ...keys import escape, size

LONGEST = 80
"""Bytes of an index value: two of them, with a time and any tenant, fit an index."""

DIGEST = "\U0010ffff"
"""What a digest starts with: no character, and an id that starts with it is digested too."""


def tag(id: str) -> str:
    """The index value of an id: two ids have two."""
    if not id.startswith(DIGEST) and size(id) <= LONGEST:
        return id
    return f"{DIGEST}{blake2b(escape(id).encode(), digest_size=32).hexdigest()}"
