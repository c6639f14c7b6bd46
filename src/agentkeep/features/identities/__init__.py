"""Identities: people, the addresses that reach them, and the conversations they are in."""

from .identities import Identities
from .records import Address, Candidate, Identity

__all__ = ["Address", "Candidate", "Identities", "Identity"]
