"""Features: what agents need, written once on the store. No engine is named here."""

from ..records import record_of
from .conversations.bindings import RECORDS as BINDINGS
from .conversations.companions import RECORDS as COMPANIONS
from .conversations.participants import RECORDS as PARTICIPANTS
from .conversations.records import RECORDS as CONVERSATIONS
from .identities.records import RECORDS as IDENTITIES
from .locks import RECORDS as LOCKS
from .observations.records import RECORDS as OBSERVATIONS
from .tasks.records import RECORDS as TASKS

_ALL = (*CONVERSATIONS, *COMPANIONS, *PARTICIPANTS, *BINDINGS, *LOCKS, *IDENTITIES, *OBSERVATIONS, *TASKS)

RECORDS = tuple(record_of(one) for one in _ALL)
"""The records of every feature: what a store opens with."""
