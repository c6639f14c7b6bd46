"""Features: what agents need, written once on the store. No engine is named here."""

from ..records import record_of
from .conversations.records import RECORDS as CONVERSATIONS

RECORDS = tuple(record_of(one) for one in CONVERSATIONS)
"""The records of every feature: what a store opens with."""
