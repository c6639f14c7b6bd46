"""Makes what a PostgreSQL store lacks, or says so: one process at a time, and nothing where it cannot make all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import NamedTuple

from ..errors import SchemaMismatch
from ._postgres_ddl import EXISTING, Part
from ._postgres_errors import ENGINE
from ._postgres_pool import BEGIN, Attempt, Source, call, transaction
from ._postgres_sql import lock_of
from ._sql import FORMAT

AGAIN = 0.5
"""Seconds after which a process asks again whether another one has built its indexes."""


class Wanted(NamedTuple):
    """What a store needs, the name of the table of its format among it, and a name for the place it is in."""

    parts: list[Part]
    meta: str
    place: str


class _Lack(NamedTuple):
    part: Part
    broken: bool
    big: bool


async def make(
    source: Source, aside: Callable[[], AbstractAsyncContextManager[Source]], wanted: Wanted, create: bool
) -> None:
    """See that everything is there, and make what is missing if `create`.

    Raises SchemaMismatch where something is missing that cannot be made, or may not be, and where the database is
    of a newer version; then nothing was made. `aside` gives a connection that is not one of `source`.
    """
    missing = await call(source, "open", partial(_look, wanted))
    if missing and not create:
        raise _lacks(missing)
    if missing and (left := await call(source, "open", partial(_create, wanted))):
        async with aside() as guard:
            await _build_alone(source, guard, left, lock_of(f"build {wanted.place}"))


async def _look(wanted: Wanted, attempt: Attempt) -> list[_Lack]:
    """What is missing. Raises SchemaMismatch for what cannot be added to, and for a newer version."""
    missing = await _missing(wanted.parts, attempt)
    tables = {lack.part.name for lack in missing if lack.part.what == "table"}
    if wanted.meta not in tables:
        await _compatible(wanted.meta, attempt)
    for part, *_ in missing:
        if not part.sql and part.name not in tables:
            raise SchemaMismatch(
                f"the table {part.name} is there without the column {part.detail}",
                engine=ENGINE,
                operation="open",
                hint="A kind cannot become a log, nor cease to be one: give it another name.",
            )
    return missing


async def _missing(parts: list[Part], attempt: Attempt) -> list[_Lack]:
    columns = [list(column) for column in zip(*((part.what, part.name, part.detail) for part in parts), strict=True)]
    rows = await attempt.connection.fetch(EXISTING, *columns)
    return [_Lack(part, broken, big) for part, (there, broken, big) in zip(parts, rows, strict=True) if not there]


async def _compatible(meta: str, attempt: Attempt) -> None:
    rows = await attempt.connection.fetch(f"SELECT value FROM {meta} WHERE name = 'format'")
    if not rows or int(rows[0][0]) > FORMAT:
        found = rows[0][0] if rows else "missing"
        raise SchemaMismatch(
            f"the database has format {found}, this version knows {FORMAT}",
            engine=ENGINE,
            operation="open",
            hint="Update agentkeep.",
        )


def _lacks(missing: list[_Lack]) -> SchemaMismatch:
    what = [f"{part.what} {part.name} {part.detail if part.what == 'column' else ''}".rstrip() for part, *_ in missing]
    more = f" and {len(what) - 3} more" if len(what) > 3 else ""
    hint = "Let a role that may create objects run agentkeep.engines.postgres.print_ddl()."
    return SchemaMismatch(f"the database lacks {', '.join(what[:3])}{more}", engine=ENGINE, operation="open", hint=hint)


async def _create(wanted: Wanted, attempt: Attempt) -> list[Part]:
    """Make what is missing in one transaction. Gives the indexes that are left for `_build`.

    It is decided by what is seen under the lock: before, another process may be in the middle of the same.
    """
    lock = lock_of(f"ddl {wanted.place}")
    attempt.patient()
    begin = f"{BEGIN}; SET LOCAL lock_timeout = '10s'; SELECT pg_advisory_xact_lock({lock:d})"
    async with transaction(attempt.connection, begin):
        later: list[Part] = []
        for part, broken, big in await _look(wanted, attempt):
            if broken or big:
                later.append(part)
                continue
            for statement in part.sql:
                await attempt.connection.execute(statement)
        if wrong := [lack for lack in await _look(wanted, attempt) if lack.part not in later]:
            raise _lacks(wrong)
    return later


async def _build_alone(source: Source, guard: Source, indexes: list[Part], lock: int) -> None:
    """Build indexes, one process at a time; when this returns, they are there.

    `guard` has the connection that holds the lock, since CREATE INDEX CONCURRENTLY takes no part in a transaction.
    It also waits for every snapshot that is older, so nobody may wait for the lock within a statement, and the one
    that takes it leaves nothing open: it is sent as text, not fetched.
    """
    locked = f"SELECT 1 WHERE pg_try_advisory_xact_lock({lock:d})"

    async def work(attempt: Attempt) -> bool:
        attempt.patient()
        async with transaction(attempt.connection):
            held = await attempt.connection.execute(locked) == "SELECT 1"
            if held:
                await call(source, "open", partial(_build, indexes))
        return held

    while True:
        if await call(guard, "open", work):
            return
        await asyncio.sleep(AGAIN)


async def _build(indexes: list[Part], attempt: Attempt) -> None:
    """Build indexes beside those who write, and again those whose building was cut off."""
    attempt.patient()
    for part, broken, _ in await _missing(indexes, attempt):
        if broken:
            await attempt.connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part.name}")
        await attempt.connection.execute(part.online)
    if wrong := await _missing(indexes, attempt):
        raise _lacks(wrong)
