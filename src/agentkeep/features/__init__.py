"""Features: what agents need, written once on the store. No engine is named here."""

from ..records import record_of
from .conversations.records import RECORDS as CONVERSATIONS
from .identities.records import RECORDS as IDENTITIES

RECORDS = tuple(record_of(one) for one in (*CONVERSATIONS, *IDENTITIES))
"""The records of every feature: what a store opens with."""
