"""A restoring batch can be repeated as it is, whatever it expects."""

from __future__ import annotations

import msgspec

from agentkeep import Conflict, Store
from agentkeep.features.conversations.records import ConversationRecord
from agentkeep.keys import seq_sort
from agentkeep.records import record_of
from agentkeep.waist import Batch, Put, Receipt

RECORD = record_of(ConversationRecord)


async def test_a_restoring_batch_with_expectations_can_be_repeated():
    async with Store.open("memory://") as store:
        put = RECORD.put(ConversationRecord(id="a"), "absent")
        event = Put("event", seq_sort(3), b"x", expect="absent", rev=store.ids())
        batch = Batch("a", (put, event), store.ids())
        for _ in range(2):
            (answer,) = await store.commit_all([batch], restore=True)
            assert isinstance(answer, Receipt)


async def test_another_restoring_batch_with_expectations_is_a_conflict():
    async with Store.open("memory://") as store:
        batch = Batch("a", (RECORD.put(ConversationRecord(id="a"), "absent"),), store.ids())
        await store.commit_all([batch], restore=True)
        (answer,) = await store.commit_all([msgspec.structs.replace(batch, id=store.ids())], restore=True)
        assert isinstance(answer, Conflict)


async def test_a_batch_that_does_not_restore_meets_its_own_rev_with_a_conflict():
    async with Store.open("memory://") as store:
        event = Put("conversation", "", b"x", expect="absent")
        first = Batch("a", (event,), store.ids())
        await store.commit_all([first])
        (answer,) = await store.commit_all([msgspec.structs.replace(first, once="k", digest=bytes(16))])
        assert isinstance(answer, Conflict)
