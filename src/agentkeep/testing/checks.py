"""What must hold of a database after workers wrote to it, whatever happened to them: linear-time checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ..codec import decode
from ..keys import seq_of
from ..waist import Engine, Row
from .tasks import Told
from .verbs import head, rows


class Said(msgspec.Struct, frozen=True):
    """The document of each row of a turn."""

    worker: int
    number: int


class Seen(NamedTuple):
    """What is in one partition, read while nothing changed."""

    last: int
    events: list[Row]
    notes: list[Row]
    states: list[Row]


async def check_turns(engine: Engine, partitions: Iterable[str], told: Iterable[Told]) -> int:
    """Turns that `tasks.append` wrote: logs dense, each turn whole and once, every acknowledged one at its place.

    Gives the number of turns found. Turns that were tried and never acknowledged may be there, whole, or not.
    """
    said = list(told)
    tried = {one.id for one in said if one.what == "trying"}
    return sum([_check(await _seen(engine, one), one, tried, said) for one in partitions])


async def _seen(engine: Engine, partition: str) -> Seen:
    """Read until the head stands still: a server may yet be at the work of a client that was killed."""
    for _ in range(100):
        before = await head(engine, "event", partition)
        found = [await rows(engine, kind, partition, limit=1000) for kind in ("event", "note", "state")]
        if await head(engine, "event", partition) == before:
            return Seen(0 if before is None else before.seq, *found)
    raise AssertionError("somebody is still writing")


def _check(seen: Seen, partition: str, tried: set[str], told: list[Told]) -> int:
    places = [seq_of(row.key.sort) for row in seen.events]
    assert places == list(range(1, len(places) + 1)), "the log is not dense"
    assert seen.last == len(places), "the head is not where the log ends"
    by_rev: dict[str, list[int]] = defaultdict(list)
    for row in seen.events:
        by_rev[row.rev].append(seq_of(row.key.sort))
    assert set(by_rev) <= tried, "a row that nobody wrote"
    for seqs in by_rev.values():
        assert seqs == [seqs[0], seqs[0] + 1], "half a turn, or one torn apart"
    notes = {row.rev: decode(row.doc, Said) for row in seen.notes}
    assert set(notes) == set(by_rev), "rows of one batch are not together"
    turns = [(said.worker, said.number) for said in notes.values()]
    assert len(turns) == len(set(turns)), "a turn was written twice"
    for one in told:
        if one.what == "done" and one.partition == partition:
            assert tuple(by_rev[one.id]) == one.seqs, "what was acknowledged is not there, or elsewhere"
    for state in seen.states:
        said = decode(state.doc, Said)
        newest = max(number for worker, number in turns if worker == said.worker)
        assert said.number == newest, "the state is older than the log"
    return len(by_rev)
