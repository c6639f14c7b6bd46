"""Moves what a reader finds in a file into a store: many conversations to a commit, the next ones read meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct

from ..errors import StoreError
from ..features.conversations.bulk import Written, write
from ..store import Store
from .files import Input
from .formats import Format
from .lines import Failure, Found

WINDOW = 256
WINDOW_BYTES = 1_000_000
"""Conversations, and bytes of their documents, that are written at a time."""


class Loaded(Struct):
    """What an import did so far.

    `stored` conversations were written, wholly or the rest of them, `there` were complete before. `events` counts
    those of both. `shifted` were deleted here before: their events have new numbers, behind the deleted ones.
    """

    stored: int = 0
    there: int = 0
    events: int = 0
    shifted: int = 0
    failed: int = 0


class _Window(Struct):
    found: list[Found]
    failures: list[Failure]
    position: int = 0
    error: BaseException | None = None
    last: bool = False


async def load(
    store: Store,
    file: Input,
    format: Format,
    *,
    failed: Callable[[Failure], None] = lambda _: None,
    progress: Callable[[Loaded, int], None] = lambda _, __: None,
) -> Loaded:
    """Import a file. What does not parse or cannot be kept is given to `failed`, and the rest goes on.

    It may be stopped at any point and run again: what is there is found and not written again. `progress` gets the
    counts and the bytes of the file that were read. Raises Corrupt for a damaged file, after writing what
    came before the damage, and the errors of a database that does not answer.
    """
    done, hopeful = Loaded(), False
    reader = _Reader(file, format, store.clock())
    ahead = asyncio.create_task(asyncio.to_thread(reader.window))
    try:
        while True:
            window = await ahead
            if not window.last:
                ahead = asyncio.create_task(asyncio.to_thread(reader.window))
            answers = await write(store, [one.copy for one in window.found], hopeful=hopeful) if window.found else []
            hopeful = all(answer.new for answer in answers)
            failures = window.failures + [
                failure
                for one, answer in zip(window.found, answers, strict=True)
                if (failure := _count(done, one, answer))
            ]
            for failure in sorted(failures):
                failed(failure)
            done.failed += len(failures)
            progress(done, window.position)
            if window.error is not None:
                raise window.error
            if window.last:
                return done
    finally:
        await asyncio.gather(ahead, return_exceptions=True)


def _count(done: Loaded, one: Found, answer: Written) -> Failure | None:
    if answer.error is not None:
        return Failure(one.line, str(answer.error), one.copy.id)
    done.events += len(one.copy.events)
    if not one.copy.more:
        done.stored += answer.new
        done.there += not answer.new
        done.shifted += answer.new and answer.shift > 0
    return None


class _Reader:
    """What a file holds, in windows of different conversations. An id that comes again in the file is a failure."""

    def __init__(self, file: Input, format: Format, now: int) -> None:
        self._file = file
        self._items = format.read(file, now)
        self._held: Found | None = None
        self._lines: dict[str, int] = {}

    def window(self) -> _Window:
        """The next conversations. What the file raises is in the window, so that what came before is not lost."""
        window = _Window([], [])
        size = 0
        ids: set[str] = set()
        try:
            while len(window.found) < WINDOW and len(window.failures) < WINDOW and size <= WINDOW_BYTES:
                item = self._held or next(self._items, None)
                self._held = None
                if item is None:
                    window.last = True
                    break
                if isinstance(item, Failure):
                    window.failures.append(item)
                elif (line := self._lines.setdefault(item.copy.id, item.line)) != item.line:
                    window.failures.append(Failure(item.line, f"the id stands in line {line} already", item.copy.id))
                elif item.copy.id in ids:
                    self._held = item
                    break
                else:
                    window.found.append(item)
                    ids.add(item.copy.id)
                    size += sum([len(put.doc) for put in item.copy.events])
        except (StoreError, OSError) as error:
            window.error, window.last = error, True
        window.position = self._file.position
        return window
