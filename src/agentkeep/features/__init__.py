"""Features: what agents need, written once on the store. No engine is named here."""

from ..records import record_of
from .conversations.companions import RECORDS as COMPANIONS
from .conversations.records import RECORDS as CONVERSATIONS

RECORDS = tuple(record_of(one) for one in (*CONVERSATIONS, *COMPANIONS))
"""The records of every feature: what a store opens with."""
