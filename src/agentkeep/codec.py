"""Documents to bytes and back, checked.

    byte 0     how the rest reads: 1 JSON, 2 JSON with lone surrogates, 3 a body that was moved to the blob store
    byte 1-4   CRC-32 of the rest (zlib's, big endian)
    byte 5-    the document as JSON text in UTF-8

Any Unicode, NUL included, integers of any size, -0.0, 1 and 1.0 come back as given. What JSON would change
silently is refused before any write, by path: NaN and infinities, keys that are not text, tuples, bytes, sets,
datetimes in free data, and more than MAX_DEPTH levels. Nothing read here is ever imported, called or built by name.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from typing import Any, TypeAlias, TypeVar, cast
from zlib import crc32

import msgspec

from .errors import Corrupt, Invalid, Key

T = TypeVar("T")

Json: TypeAlias = Any
"""Free data: None, bool, int, float, str, and lists and str-keyed dicts of these."""

PLAIN, ODD, MOVED = 1, 2, 3
STUB = b"\x03"
"""What the document of a moved body begins with."""

HEADER = 5
MAX_DEPTH = 100
MAX_DIGITS = 4_000

_encoder = msgspec.json.Encoder()
_sorter = msgspec.json.Encoder(order="sorted")
_header = struct.Struct(">BI").pack
_INT_LIMIT = 10**MAX_DIGITS
_SMALL = 2**63
_TEXT = {str}


def encode(value: object) -> bytes:
    """A value as a framed document. Free data in it is expected to be checked (`check`)."""
    try:
        return frame(PLAIN, _encoder.encode(value))
    except UnicodeEncodeError:
        return frame(ODD, _escaped(value, sort=False))
    except RecursionError:
        raise Invalid(f"the document nests more than {MAX_DEPTH} levels") from None


def faithful(value: T, type: type[T]) -> bytes | None:
    """The document of a value, if it is plain and comes back as it was given: what is so almost always, in one step."""
    try:
        text = _encoder.encode(value)
        if _decoder(type).decode(text) == value:
            return frame(PLAIN, text)
    except (TypeError, ValueError, RecursionError):  # its encoding or reading fails, and is named by whoever does both
        pass
    return None


def digest(value: object) -> bytes:
    """16 bytes that tell values apart, whatever the order of the names in them. Raises Invalid like `encode`."""
    try:
        text = _sorter.encode(value)
    except UnicodeEncodeError:
        text = _escaped(value, sort=True)
    except RecursionError:
        raise Invalid(f"the document nests more than {MAX_DEPTH} levels") from None
    return blake2b(text, digest_size=16).digest()


def _escaped(value: object, *, sort: bool) -> bytes:
    """A value with lone surrogates, as ASCII."""
    return json.dumps(msgspec.to_builtins(value), allow_nan=False, separators=(",", ":"), sort_keys=sort).encode()


def decode(doc: bytes, type: type[T], key: Key | None = None) -> T:
    """A framed document as a value of a type. Raises Corrupt, with the key, for anything that is not one."""
    return decoder(type)(doc, key)


@lru_cache(maxsize=512)
def decoder(type: type[T]) -> Callable[[bytes, Key | None], T]:
    """`decode` for one type: for those who read many."""
    of_text = _decoder(type).decode

    def decode(doc: bytes, key: Key | None) -> T:
        text = doc[HEADER:]
        if doc[:HEADER] != _header(PLAIN, crc32(text)):
            return _odd(doc, type, key)
        try:
            return of_text(text)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            raise _wrong(type, error, key) from None

    return decode


def _odd(doc: bytes, type: type[T], key: Key | None) -> T:
    """A document that is not plain, or damaged."""
    how, body = unframe(doc, key)
    try:
        if how == ODD:
            return msgspec.convert(json.loads(bytes(body), parse_float=_finite, parse_constant=_finite), type)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise _wrong(type, error, key) from None
    raise Corrupt(f"the document has the unknown form {how}", key=key, hint="A newer agentkeep may have written it.")


def _wrong(type: type[Any], error: Exception, key: Key | None) -> Corrupt:
    return Corrupt(f"the document does not decode as {type.__name__}: {_reason(error)}", key=key)


def frame(how: int, body: bytes) -> bytes:
    """Put the header before a body."""
    return _header(how, crc32(body)) + body


def unframe(doc: bytes, key: Key | None = None) -> tuple[int, memoryview]:
    """The form and the body of a document whose checksum is right."""
    body = memoryview(doc)[HEADER:]
    if len(doc) < HEADER or crc32(body) != int.from_bytes(doc[1:HEADER]):
        raise Corrupt("the document is damaged: its checksum does not match", key=key)
    return doc[0], body


def is_moved(doc: bytes) -> bool:
    """Whether the document stands in the blob store and `doc` only names it."""
    return doc.startswith(STUB)


@lru_cache(maxsize=512)
def _decoder(type: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(type)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _reason(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.ValidationError) else "it is not JSON"


def check(value: object, path: str) -> None:
    """Refuse free data that JSON cannot give back as it is. Raises Invalid with the path."""
    kind = type(value)
    if kind is str or kind is bool or value is None or _flat(value):
        return
    _check(value, path, 1)


def _flat(value: object) -> bool:
    """Whether it is a dict of texts, booleans, small integers and lists of texts, as most free data is."""
    if type(value) is not dict:
        return False
    for name, item in cast("dict[object, object]", value).items():
        kind = type(item)
        if type(name) is not str or not (
            kind is str
            or kind is bool
            or item is None
            or (kind is int and -_SMALL < cast(int, item) < _SMALL)
            or (kind is list and {*map(type, cast("list[object]", item))} <= _TEXT)
        ):
            return False
    return True


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if not -_INT_LIMIT < cast(int, value) < _INT_LIMIT:
            raise Invalid(f"{path}: an integer has at most {MAX_DIGITS:,} digits")
    elif kind is float:
        if not math.isfinite(cast(float, value)):
            raise Invalid(f"{path} is {value}: JSON has no such number", hint="Leave it out, or store it as text.")
    elif kind is dict or kind is list:
        if depth > MAX_DEPTH:
            raise Invalid(f"{path[:80]}: the document nests more than {MAX_DEPTH} levels")
        if kind is list:
            for number, item in enumerate(cast("list[object]", value)):
                if type(item) is not str:
                    _check(item, f"{path}[{number}]", depth + 1)
        else:
            for name, item in cast("dict[object, object]", value).items():
                if type(name) is not str:
                    raise Invalid(f"{path}: the key {name!r} is not text", hint="Use str keys: JSON has no others.")
                if type(item) is not str:
                    _check(item, f"{path}.{name}", depth + 1)
    else:
        raise Invalid(
            f"{path} is a {kind.__name__}, which JSON would not give back as it is",
            hint="Pass None, bool, int, float, str, or lists and dicts of these.",
        )


def plain(value: object, path: str) -> Json:
    """A payload as free data: pydantic models and dataclasses become dicts, Structs too; checked."""
    dump = getattr(value, "model_dump", None)
    data: Json = value
    if dump is not None:
        data = dump(mode="json")
    elif isinstance(value, msgspec.Struct) or hasattr(value, "__dataclass_fields__"):
        data = msgspec.to_builtins(value)
    elif isinstance(value, Mapping) and type(cast(object, value)) is not dict:
        data = dict(cast("Mapping[object, object]", value))
    check(data, path)
    return data
