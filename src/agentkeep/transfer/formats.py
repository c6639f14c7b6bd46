"""The formats by name, each as one value."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..errors import Corrupt, StoreError
from ..features.conversations import ConversationRecord, Event, State
from ..features.conversations.originals import EVENT, RECORD, STATE, Original
from ..waist import Row
from . import native, openai, sgd
from .lines import Failure, Found, Line

Rows = AsyncIterator[list[Row | Corrupt]]
"""The events of a conversation, page by page; those that cannot be read are errors."""

Written = AsyncIterator[bytes | StoreError]
"""The lines of a conversation, and what could not be written."""


class Format(NamedTuple):
    """How conversations are read from lines and written as lines.

    `own`: only conversations that were imported in this format can be written. `sorted`: they are written in the
    order of the lines they came from; those that came from none follow, by id.
    """

    name: str
    read: Callable[[Iterable[Line], int], Iterator[Found | Failure]]
    write: Callable[[Original, Rows], Written]
    header: Callable[[], bytes] | None = None
    own: bool = False
    sorted: bool = True


async def _native(original: Original, rows: Rows) -> Written:
    """Line by line, however long the conversation is."""
    yield native.opening(original)
    count = 0
    async for page in rows:
        for row in page:
            try:
                text = row if isinstance(row, Corrupt) else native.event(row)
            except Corrupt as error:
                text = error
            count += isinstance(text, bytes)
            yield text
    yield native.ending(count)


def _whole(
    line: Callable[[ConversationRecord, State | None, Sequence[Event]], bytes],
) -> Callable[[Original, Rows], Written]:
    """Conversations of which each is one line."""

    async def write(original: Original, rows: Rows) -> Written:
        events: list[Event] = []
        async for page in rows:
            for row in page:
                try:
                    if isinstance(row, Corrupt):
                        raise row
                    events.append(EVENT.decode(row))
                except Corrupt as error:
                    yield error
        state = None if original.state is None else STATE.decode(original.state)
        yield line(RECORD.decode(original.record), state, events)

    return write


FORMATS: Mapping[str, Format] = {
    native.NAME: Format(native.NAME, native.read, _native, native.header, sorted=False),
    sgd.NAME: Format(sgd.NAME, sgd.read, _whole(sgd.line), own=True),
    openai.NAME: Format(openai.NAME, openai.read, _whole(openai.line)),
}
