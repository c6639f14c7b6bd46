"""What must hold of a database after workers wrote to it, whatever happened to them: linear-time checks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

import msgspec

from ..codec import decode
from ..keys import seq_of
from ..waist import Engine
from .tasks import Told
from .verbs import head, rows


class Said(msgspec.Struct, frozen=True):
    """The document of each row of a turn."""

    worker: int
    number: int


async def check_turns(engine: Engine, partitions: Iterable[str], told: Iterable[Told]) -> int:
    """Turns that `tasks.append` wrote: logs dense, each turn whole and once, every acknowledged one at its place.

    Gives the number of turns found. Turns that were tried and never acknowledged may be there, whole, or not.
    """
    done = [one for one in told if one.what == "done"]
    tried = {one.id for one in told if one.what == "trying"}
    found = 0
    for partition in partitions:
        events = await rows(engine, "event", partition, limit=1000)
        places = [seq_of(row.key.sort) for row in events]
        assert places == list(range(1, len(events) + 1)), "the log is not dense"
        last = await head(engine, "event", partition)
        assert (0 if last is None else last.seq) == len(events), "the head is not where the log ends"
        by_rev: dict[str, list[int]] = defaultdict(list)
        for row in events:
            by_rev[row.rev].append(seq_of(row.key.sort))
        assert set(by_rev) <= tried, "a row that nobody wrote"
        assert all(len(seqs) == 2 and seqs[1] == seqs[0] + 1 for seqs in by_rev.values()), (
            "half a turn, or one torn apart"
        )
        notes = {row.rev: decode(row.doc, Said) for row in await rows(engine, "note", partition, limit=1000)}
        assert set(notes) == set(by_rev), "rows of one batch are not together"
        twice = [
            said for said, times in Counter((said.worker, said.number) for said in notes.values()).items() if times > 1
        ]
        assert not twice, "a turn was written twice"
        for one in done:
            if one.partition == partition:
                assert tuple(by_rev[one.id]) == one.seqs, "what was acknowledged is not there, or elsewhere"
        for state in await rows(engine, "state", partition):
            said = decode(state.doc, Said)
            newest = max(other.number for other in notes.values() if other.worker == said.worker)
            assert said.number == newest, "the state is older than the log"
        found += len(by_rev)
    return found
