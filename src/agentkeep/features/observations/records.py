"""The record of observations: one row each, in the partition of what it is about."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct

from ...codec import Json
from ...ids import to_datetime
from ...records import record


@record(
    "observation",
    partition="home",
    sort="place",
    indexes={
        "by_type": ("type", "created_us"),
        "by_agent": ("agent", "created_us"),
        "by_about": ("about", "created_us"),
        "by_about_type": ("about", "type", "created_us"),
        "by_about_agent": ("about", "agent", "created_us"),
    },
    facets=("type", "agent", "confidence", "event", "metadata.*"),
    within="conversation",
)
class Observation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent noticed. It is about a conversation, or about a subject of another kind.

    `confidence` is from 0 to 1, `event` the index of the event it was drawn from. Times are microseconds since 1970,
    UTC. `home` and `place` are where its row lies, `about` stands for its subject, or its conversation in one life, in
    indexes; `said` tells two uses of its `key` apart.
    """

    id: str
    type: str
    content: Json
    conversation: str | None = None
    subject: str | None = None
    confidence: float = 1.0
    agent: str | None = None
    event: int | None = None
    metadata: dict[str, Any] = {}
    key: str | None = None
    created_us: int = 0
    updated_us: int = 0
    home: str = ""
    place: str = ""
    about: str = ""
    said: str | None = None

    @property
    def created_at(self) -> datetime:
        """When it was added."""
        return to_datetime(self.created_us)

    @property
    def updated_at(self) -> datetime:
        """When it was changed last."""
        return to_datetime(self.updated_us)


RECORDS = (Observation,)
