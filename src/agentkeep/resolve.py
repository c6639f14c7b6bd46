"""The semantics of a commit, once, as pure functions.

An engine locks or snapshots, reads what `reads(batch)` names, calls `resolve`, writes the plan. No engine decides
anything itself, except where `simple(batch)` says that one statement may: a property test holds each of those equal
to `resolve`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Set
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from .errors import Conflict, Invalid
from .keys import escape, seq_of, seq_sort
from .waist import HEAD, Append, Batch, Check, Delete, Expect, Head, Key, KindSpec, Op, Put, Receipt, Rev, Row, Trim

_UUID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class Reads(NamedTuple):
    """What `resolve` needs to see: rows by key, and heads of logs by kind."""

    keys: tuple[Key, ...]
    heads: tuple[str, ...]


class Memo(NamedTuple):
    """A batch that was committed before: its receipt and the digest it came with."""

    receipt: Receipt
    digest: bytes | None


class Found(NamedTuple):
    """What an engine read, under its lock or snapshot: live rows, heads, and the memory of the batch's token."""

    rows: Mapping[Key, Row | None]
    heads: Mapping[str, Head | None]
    memo: Memo | None


class Plan(NamedTuple):
    """What an engine has to write, together or not at all, and the receipt that it then gives."""

    puts: tuple[Row, ...]
    deletes: tuple[Key, ...]
    heads: Mapping[str, Head]
    receipt: Receipt


def reads(batch: Batch, logs: Set[str] = frozenset()) -> Reads:
    """The keys and the heads that `resolve` looks at. `logs`: see `resolve`."""
    keys: list[Key] = []
    heads: set[str] = set()
    for op in batch.ops:
        if isinstance(op, (Append, Trim)):
            heads.add(op.kind)
            continue
        if op.kind in logs:
            heads.add(op.kind)
        if op.kind not in logs or op.sort != HEAD:
            keys.append(Key(op.kind, batch.partition, op.sort))
    return Reads(tuple(keys), tuple(sorted(heads)))


def token(batch: Batch) -> bytes:
    """16 bytes by which a batch is remembered: of its partition and idempotency key, or of its id.

    A token is unique within a lane (`lane`).
    """
    if batch.once is None:
        return bytes.fromhex(batch.id.replace("-", ""))
    return blake2b(f"{escape(batch.partition)}\x01{escape(batch.once)}".encode(), digest_size=16).digest()


def lane(batch: Batch) -> str:
    """Where a batch is remembered: with the first row it appends to its one log, or "" among the commits."""
    found = ""
    for op in batch.ops:
        if type(op) is Append and op.kind != found:
            if found:
                return ""
            found = op.kind
    return found


def simple(batch: Batch, *, after: bool = False) -> bool:
    """Whether a batch may be decided by one statement: appends to one log, and puts that expect nothing.

    Such a batch reads nothing but the head of its log: it fails only if that is sealed (or, for
    `expect="exists"`, missing), or if the batch was committed before. With `after` its appends may also name the
    number that the log must end at, for engines that compare it.
    """
    return _is_simple(batch.ops, after) and lane(batch) != ""


def _is_simple(ops: Iterable[Op], after: bool) -> bool:
    for op in ops:
        if not ((type(op) is Append and (after or op.after is None)) or (type(op) is Put and op.expect == "any")):
            return False
    return True


def guarded(batch: Batch, *, after: bool = False) -> Check | None:
    """The one check of a batch that is simple but for it, and asks for a rev; None for every other batch.

    Such a batch reads the head of its log and one row. Where that row is as expected it does what the simple batch
    without the check does; where it is not, `resolve` says so.
    """
    checks = [op for op in batch.ops if type(op) is Check]
    if len(checks) != 1 or checks[0].expect in ("any", "absent", "exists"):
        return None
    (check,) = checks
    return check if _is_simple([op for op in batch.ops if op is not check], after) and lane(batch) else None


def resolve(batch: Batch, found: Found, logs: Set[str] = frozenset()) -> Plan | Receipt:
    """Decide what a batch does to what was found.

    A Receipt: it had been committed before, nothing is to be written. Raises Conflict where an expectation does
    not hold, and then nothing is to be written either. `logs`, when restoring, are the names of all kinds that are
    logs: a put on one keeps its number, its rev and the greater head. A restoring batch is not remembered (it can
    be repeated as it is), so `found.memo` is then None, and what a put expects also holds where its row is there.
    """
    if found.memo is not None:
        if batch.once is not None and batch.digest != found.memo.digest:
            raise Conflict(Key(lane(batch), batch.partition, ""), None, None, "once", hint="Use a new key.")
        return _replay(batch, found.memo.receipt)
    heads: dict[str, Head] = {}
    puts: list[Row] = []
    deletes: list[Key] = []
    seqs: list[int | None] = []
    for op in batch.ops:
        seqs.append(None)
        match op:
            case Append():
                head = _extend(batch, op, heads.get(op.kind) or found.heads.get(op.kind))
                heads[op.kind] = head
                seqs[-1] = head.seq
                puts.append(_row(batch, op, seq_sort(head.seq), batch.id))
            case Trim():
                heads[op.kind] = _trim(op, heads.get(op.kind) or found.heads.get(op.kind) or Head())
            case Put() if op.kind in logs and op.sort == HEAD:
                given = msgspec.json.decode(op.doc, type=Head)
                heads[op.kind] = _join(given, heads.get(op.kind) or found.heads.get(op.kind))
            case _:
                key = Key(op.kind, batch.partition, op.sort)
                row = found.rows.get(key)
                rev = None if row is None else row.rev
                if not holds(op.expect, rev) and not (logs and isinstance(op, Put) and rev == (op.rev or batch.id)):
                    raise Conflict(key, op.expect, rev)
                if isinstance(op, Put):
                    puts.append(_row(batch, op, op.sort, op.rev or batch.id))
                    if op.kind in logs:
                        heads[op.kind] = _join(Head(seq_of(op.sort)), heads.get(op.kind) or found.heads.get(op.kind))
                elif isinstance(op, Delete) and row is not None:
                    deletes.append(key)
    return Plan(tuple(puts), tuple(deletes), heads, Receipt(batch.id, tuple(seqs)))


def holds(expect: Expect, rev: Rev | None) -> bool:
    """Whether a row with this rev (None: no row) is as expected."""
    match expect:
        case "any":
            return True
        case "absent":
            return rev is None
        case "exists":
            return rev is not None
        case _:
            return rev == expect


def _row(batch: Batch, op: Put | Append, sort: str, rev: Rev) -> Row:
    return Row(Key(op.kind, batch.partition, sort), rev, op.doc, op.index, op.facets, op.expires)


def _extend(batch: Batch, op: Append, head: Head | None) -> Head:
    if head is None and op.expect == "exists":
        raise Conflict(Key(op.kind, batch.partition, HEAD), "exists", None, "sealed")
    head = head or Head()
    if head.sealed:
        raise Conflict(Key(op.kind, batch.partition, HEAD), op.expect, head.seq, "sealed")
    if op.after is not None and op.after != head.seq:
        raise Conflict(Key(op.kind, batch.partition, HEAD), op.after, head.seq, "after")
    return Head(head.seq + 1, head.floor, False)


def _trim(op: Trim, head: Head) -> Head:
    floor = head.seq if op.below is None else min(max(op.below - 1, head.floor), head.seq)
    return Head(head.seq, floor, head.sealed if op.sealed is None else op.sealed)


def _join(given: Head, kept: Head | None) -> Head:
    kept = kept or Head()
    return Head(max(given.seq, kept.seq), max(given.floor, kept.floor), given.sealed or kept.sealed)


def head_row(kind: str, partition: str, head: Head) -> Row:
    """The head of a log as the row that get and dump give back."""
    return Row(Key(kind, partition, HEAD), str(head.seq), msgspec.json.encode(head))


def _replay(batch: Batch, first: Receipt) -> Receipt:
    """The receipt of a batch committed again, one entry for each of its ops, whatever ops it came with first.

    Of a batch with a log to itself, the first number says all; of the others the numbers are given out in order.
    """
    numbers = iter([seq for seq in first.seqs if seq is not None])
    if lane(batch):
        return receipt_of(batch, next(numbers), first.id)
    seqs = [next(numbers, None) if isinstance(op, Append) else None for op in batch.ops]
    return Receipt(first.id, tuple(seqs), replayed=True)


def receipt_of(batch: Batch, first: int, rev: Rev) -> Receipt:
    """The receipt of a batch remembered on a log row: the row's number is that of its first append."""
    seqs: list[int | None] = []
    for op in batch.ops:
        seqs.append(first if isinstance(op, Append) else None)
        first += isinstance(op, Append)
    return Receipt(rev, tuple(seqs), replayed=True)


def validate(batch: Batch, kinds: Mapping[str, KindSpec], *, restore: bool = False) -> None:
    """Refuse a batch that no state of the database could make right. Raises Invalid."""
    _valid_id(batch)
    if not batch.ops:
        raise Invalid("a batch has at least one op", operation="commit")
    seen: set[Key] = set()
    for op in batch.ops:
        kind = kinds.get(op.kind)
        if kind is None:
            raise Invalid(f"the schema has no kind {op.kind!r}", operation="commit")
        if isinstance(op, (Append, Trim)):
            if not kind.log:
                raise Invalid(f"{op.kind!r} is not a log", operation="commit", hint="Declare it with log=...")
            key = None if isinstance(op, Append) else Key(op.kind, batch.partition, HEAD)
        else:
            key = Key(op.kind, batch.partition, op.sort)
            if kind.log and restore and isinstance(op, Put) and op.sort == HEAD:
                _valid_head(op, key)
            elif kind.log:
                seq_of(op.sort)
                if isinstance(op, Put) and op.expect in ("any", "absent") and not restore:
                    raise Invalid("a put on a log row edits it", key=key, hint='Use expect="exists" or its rev.')
        if key is not None:
            if key in seen:
                raise Invalid("a batch has at most one op per key", operation="commit", key=key)
            seen.add(key)
        if isinstance(op, Put) and op.rev is not None and not restore:
            raise Invalid("a rev is given only when restoring", operation="commit", key=key)


def _valid_head(op: Put, key: Key) -> None:
    try:
        msgspec.json.decode(op.doc, type=Head)
    except msgspec.DecodeError as error:
        raise Invalid("the head of a log does not decode", operation="commit", key=key) from error


def _valid_id(batch: Batch) -> None:
    if _UUID.fullmatch(batch.id) is None:
        raise Invalid(f"a batch id is a lower-case uuid, not {batch.id[:40]!a}", operation="commit")
    if batch.once is not None and not batch.once:
        raise Invalid("an idempotency key is a non-empty string", operation="commit")
    if (batch.once is None) != (batch.digest is None):
        raise Invalid("an idempotency key and its digest go together", operation="commit")
    if batch.digest is not None and len(batch.digest) != 16:
        raise Invalid(f"a digest has 16 bytes, not {len(batch.digest)}", operation="commit", hint="See digest_of.")
