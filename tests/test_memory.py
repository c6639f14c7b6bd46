"""What the memory engine does beyond the conformance suite."""

from __future__ import annotations

from agentkeep.engines.memory import Memory
from agentkeep.testing.verbs import batch, commit, doc, done, read
from agentkeep.waist import KindSpec, Put, Schema


async def test_a_restoring_batch_is_not_remembered_where_no_kind_is_a_log():
    engine = Memory()
    await engine.open(Schema((KindSpec("note"),)))
    one = batch("p", Put("note", "a", doc(1)))
    await done(engine, one, restore=True)
    await commit(engine, "p", Put("note", "a", doc(2)))
    assert not (await done(engine, one, restore=True)).replayed
    row = await read(engine, "note", "p", "a")
    assert row is not None
    assert row.doc == doc(1)
