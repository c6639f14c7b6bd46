"""Conversations in and out of a store as files: the formats, and what moves them."""

from .dump import Dumped, dump
from .files import Input, Output
from .formats import FORMATS, Format
from .lines import Failure
from .load import Loaded, load

__all__ = ["FORMATS", "Dumped", "Failure", "Format", "Input", "Loaded", "Output", "dump", "load"]
