"""Keys and index values as text whose byte order is their order, and cursors made of them.

Any Unicode string becomes valid UTF-8 without U+0000 and U+0001; U+0001 then ends a field, so no id can fake a
boundary. Lone surrogates go behind U+D7FF, the last code point before them. Both maps are injective and keep the
order of code points, which is the byte order of UTF-8 (RFC 3629, section 1).
"""

from __future__ import annotations

import re
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from zlib import crc32

import msgspec

from .errors import Invalid
from .waist import MAX_INTEGER, MAX_PARTITION, Scalar, Scan

END = "\x01"
ABOVE = "~"
"""Sorts above every character a packed field can start with: pack(prefix) + ABOVE is the upper bound of a prefix."""

WIDEST = 6
"""Bytes that one character takes at most after encoding: U+DFFD to U+DFFF do."""

MAX_ID = MAX_PARTITION - 2 * 64 - 2
"""Bytes an id may have before its digest stands for it: it leaves room for any tenant, so that the partition of an
id does not depend on who asks."""

_DIGEST = "\U0010ffff"
_ODD = re.compile("[\x00-\x02\ud7ff-\udfff]")
_CODED = re.compile("\x02[\x03-\x05]|\ud7ff[\x03-\u0803]")
_SEQ_DIGITS = 16
_MAX_SEQ = 10**_SEQ_DIGITS - 1


def escape(text: str) -> str:
    """A string as NUL-free, order-preserving, valid UTF-8 text. Nothing that has to be escaped is printable."""
    return text if text.isprintable() else _ODD.sub(_escape_one, text)


def _escape_one(found: re.Match[str]) -> str:
    point = ord(found[0])
    return "\x02" + chr(point + 3) if point <= 2 else "\ud7ff" + chr(point - 0xD7FF + 3)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return _CODED.sub(_unescape_one, text) if "\x02" in text or "\ud7ff" in text else text


def _unescape_one(found: re.Match[str]) -> str:
    lead, coded = found[0]
    return chr(ord(coded) - 3) if lead == "\x02" else chr(ord(coded) - 3 + 0xD7FF)


def pack(values: Sequence[Scalar]) -> str:
    """A tuple of scalars as one string: pack(a) < pack(b) iff a < b, field by field, for one type per field.

    Integers lie within 2**53. -0.0 is stored as 0.0: they are equal, so they are one index value.
    """
    return "".join([_pack_one(value) for value in values])


def _pack_one(value: Scalar) -> str:
    if type(value) is str:
        return f"s{escape(value)}{END}"
    if type(value) is bool:
        return f"b{value:d}{END}"
    if type(value) is int:
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise Invalid(f"an indexed integer must lie within ±2**53, {value} does not")
        return f"i{value + MAX_INTEGER:014x}{END}"
    if type(value) is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise Invalid("an indexed number must be finite")
        bits = int.from_bytes(struct.pack(">d", value + 0.0))
        return f"f{bits ^ 0xFFFFFFFFFFFFFFFF if bits >> 63 else bits | 1 << 63:016x}{END}"
    raise Invalid(f"an indexed value must be str, int, float or bool, not {type(value).__name__}")


def unpack(text: str) -> tuple[Scalar, ...]:
    """The inverse of `pack`."""
    return tuple([_unpack_one(part[0], part[1:]) for part in text.split(END)[:-1]])


def _unpack_one(tag: str, body: str) -> Scalar:
    match tag:
        case "s":
            return unescape(body)
        case "b":
            return body == "1"
        case "i":
            return int(body, 16) - MAX_INTEGER
        case _:
            bits = int(body, 16)
            bits = bits & ~(1 << 63) if bits >> 63 else bits ^ 0xFFFFFFFFFFFFFFFF
            return struct.unpack(">d", bits.to_bytes(8))[0]


def seq_sort(seq: int) -> str:
    """The sort key of row `seq` of a log."""
    return f"{seq:016d}"


def seq_of(sort: str) -> int:
    """The number of a log row. Raises Invalid for what `seq_sort` cannot have made."""
    if len(sort) != _SEQ_DIGITS or not (sort.isascii() and sort.isdigit()):
        raise Invalid(f"a row of a log is addressed by keys.seq_sort(n), not by {sort[:40]!a}")
    return int(sort)


def seq_bound(sort: str) -> int:
    """The first number whose sort key is >= any string: how engines that store numbers read lo and hi.

    >>> seq_bound(""), seq_bound(seq_sort(7)), seq_bound("0000000000000007x"), seq_bound("x")
    (0, 7, 8, 10000000000000000)
    """
    digits = len(sort)
    for position, char in enumerate(sort):
        if not "0" <= char <= "9":
            digits = position
            break
    if digits > _SEQ_DIGITS:
        return int(sort[:_SEQ_DIGITS]) + 1
    number = int(sort[:digits].ljust(_SEQ_DIGITS, "0")) if digits else 0
    if digits < len(sort):
        if digits == _SEQ_DIGITS:
            return number + 1
        return number if sort[digits] < "0" else number + 10 ** (_SEQ_DIGITS - digits)
    return number


def size(text: str) -> int:
    """The bytes of a key after encoding."""
    return len(text) if text.isascii() and not _ODD.search(text) else len(escape(text).encode())


def partition(identifier: str) -> str:
    """The partition of an id: the id itself, or a digest where it would be over the limit with a tenant."""
    return fitted(identifier, MAX_ID)


def fitted(identifier: str, limit: int) -> str:
    """An id that takes at most `limit` bytes in a key (65 at least): itself, or a digest. Two ids are never one.

    A digest starts with U+10FFFF, a code point that is no character; an id that starts with it is digested too,
    so none can pretend to be one.
    """
    if not identifier.startswith(_DIGEST) and (len(identifier) * WIDEST <= limit or size(identifier) <= limit):
        return identifier
    return _digest(identifier)


SHORT = 96
"""Bytes of an id that stands in a key beside others: a digest stands for a longer one."""


def short(identifier: str) -> str:
    """An id that takes at most SHORT bytes in a key and has no slash: itself, or a digest. Two ids are never one."""
    return _digest(identifier) if "/" in identifier else fitted(identifier, SHORT)


def _digest(identifier: str) -> str:
    return _DIGEST + blake2b(escape(identifier).encode(), digest_size=32).hexdigest()


# --- cursors -----------------------------------------------------------------------------------------------------


def cursor(scan: Scan, position: Sequence[str]) -> str:
    """An opaque cursor: the position of the last row looked at, bound by a checksum to the scan that made it."""
    return urlsafe_b64encode(msgspec.json.encode((_mark(scan, position), *map(escape, position)))).decode().rstrip("=")


def position(scan: Scan) -> tuple[str, ...] | None:
    """The position in the cursor of a scan, None without one.

    Raises Invalid for a cursor that is damaged or belongs to another scan.
    """
    if scan.after is None:
        return None
    try:
        raw = urlsafe_b64decode(scan.after.encode() + b"=" * (-len(scan.after) % 4))
        mark, *rest = msgspec.json.decode(raw, type=tuple[str, ...])
    except (ValueError, UnicodeError, msgspec.DecodeError) as error:
        raise Invalid("the cursor is damaged", operation="scan", hint="Pass a cursor as it was given.") from error
    found = tuple([unescape(part) for part in rest])
    if mark != _mark(scan, found):
        hint = "Pass it as it was given, and keep all arguments but `after`."
        raise Invalid("the cursor belongs to another scan or is damaged", operation="scan", hint=hint)
    return found


def _mark(scan: Scan, position: Sequence[str]) -> str:
    asked = (scan.kind, scan.index, scan.prefix, scan.lo, scan.hi, scan.reverse, scan.where, *position)
    return f"{crc32(ascii(asked).encode()):08x}"
