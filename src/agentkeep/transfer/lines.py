"""Lines of JSON: what a reader is given, what it finds in them, and how their values are told apart."""

from __future__ import annotations

import json
import math
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar, cast

import msgspec

from ..errors import Invalid
from ..features.conversations.bulk import MARK, Copy

T = TypeVar("T")


class Line(NamedTuple):
    """A line of a file: its number, from 1, and its bytes without the line end."""

    number: int
    text: bytes


class Found(NamedTuple):
    """A conversation, or a part of one, that a reader found, and the line it begins in."""

    line: int
    copy: Copy


class Failure(NamedTuple):
    """What could not be moved: where it stands, why, and which conversation it is where that is known."""

    line: int
    reason: str
    id: str | None = None

    def __str__(self) -> str:
        where = f"line {self.line}" if self.line else ""
        which = "" if self.id is None else f"conversation {self.id!a}"
        return f"{', '.join(part for part in (where, which) if part)}: {self.reason}"


def decode(text: bytes, type: type[T]) -> T:
    """The JSON value of a line as a type. Raises Invalid with the reason.

    msgspec refuses escaped lone surrogates, which files of other programs hold: those lines are read by the
    standard library.
    """
    try:
        return _decoder(type).decode(text)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_odd(text, type)


def canonical(value: object) -> bytes:
    """JSON with sorted names: equal for equal JSON values, and for those only. 1 and 1.0 are two values."""
    try:
        return msgspec.json.encode(value, order="sorted")
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), sort_keys=True, separators=(",", ":")).encode()


def encode(value: object) -> bytes:
    """A value as one line of JSON, without the line end."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def digest(value: object) -> str:
    """16 characters that tell a line's value from every other one."""
    return blake2b(canonical(value), digest_size=8).hexdigest()


def mark(format: str, line: int, digest: str) -> dict[str, Any]:
    """What an import notes in the metadata of a conversation: `export` sorts by it, a second import compares it."""
    return {MARK: {"format": format, "line": line, "digest": digest}}


def marked(metadata: dict[str, Any]) -> dict[str, Any]:
    """The note of an import, empty where there is none."""
    found = metadata.get(MARK)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


_decoders: dict[Any, Any] = {}


def _decoder(type: type[T]) -> msgspec.json.Decoder[T]:
    if type not in _decoders:
        _decoders[type] = msgspec.json.Decoder(type)
    return _decoders[type]


def _decode_odd(text: bytes, type: type[T]) -> T:
    try:
        value = json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite)
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise Invalid(str(error)) from None
    except RecursionError:
        raise Invalid("it nests too deeply") from None
    except UnicodeDecodeError:
        raise Invalid("it is not UTF-8") from None
    except ValueError as error:
        raise Invalid(f"it is not JSON: {error}") from None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is out of range")
    return number
