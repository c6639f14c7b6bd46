"""Features: what agents need, written once on the store. No engine is named here."""

from ..records import record_of
from .conversations.bindings import RECORDS as BINDINGS
from .conversations.participants import RECORDS as PARTICIPANTS
from .conversations.records import RECORDS as CONVERSATIONS
from .locks import RECORDS as LOCKS

RECORDS = tuple(record_of(one) for one in (*CONVERSATIONS, *PARTICIPANTS, *BINDINGS, *LOCKS))
"""The records of every feature: what a store opens with."""
