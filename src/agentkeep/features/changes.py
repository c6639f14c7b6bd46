"""Changing a row by compare-and-set, with other ops in the same batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from msgspec import Struct

from ..errors import Key, NotFound
from ..records import Record, record_of
from ..store import Store
from ..waist import Check, Op, Row

S = TypeVar("S", bound=Struct)

Decide: TypeAlias = Callable[[S], tuple[S, Sequence[Op]]]
"""Makes the new row of the old one, and the ops that go into the same batch. It may be called several times."""


async def change(store: Store, type: type[S], key: Key, decide: Decide[S]) -> S:
    """Read a row, decide, compare and set, again until it holds. What is not changed is checked, if ops go with it.

    Raises NotFound, Contention, and what `decide` raises.
    """
    record = record_of(type)

    async def attempt() -> S:
        found = await store.get_stored(key)
        if found is None:
            raise NotFound(f"there is no such {key.kind}", key=key)
        row, whole = found
        old = record.decode(whole)
        new, ops = decide(old)
        if new == old and not ops:
            return old
        await store.commit(
            key.partition, [_written(record, row, whole, old, new), *ops], replaced=_rows(new != old, row)
        )
        return new

    return await store.again(attempt, key)


def _written(record: Record[S], row: Row, whole: Row, old: S, new: S) -> Op:
    if new == old:
        return Check(row.key.kind, row.key.sort, row.rev)
    return record.put(new, row.rev, keep=record.unknown(whole), sort=row.key.sort)


def _rows(replaces: bool, row: Row) -> list[Row]:
    return [row] if replaces else []
