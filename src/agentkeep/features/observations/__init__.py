"""Observations: what agents noticed, about a conversation or another subject."""

from .observations import Observations
from .records import Observation

__all__ = ["Observation", "Observations"]
