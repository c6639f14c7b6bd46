"""The waist: all that an engine does, as six methods over frozen values.

docs/contract.md is the specification in words; `agentkeep.testing` is the specification as tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, TypeAlias

import msgspec

from .errors import Key, StoreError
from .predicates import Facets, Predicate

__all__ = [
    "Append",
    "Batch",
    "Capabilities",
    "Check",
    "Column",
    "Delete",
    "Engine",
    "Expect",
    "Facets",
    "Head",
    "Index",
    "IndexSpec",
    "Key",
    "KindSpec",
    "Op",
    "Page",
    "Predicate",
    "Put",
    "Receipt",
    "Rev",
    "Row",
    "Scalar",
    "Scan",
    "Schema",
    "Trim",
]

Scalar: TypeAlias = str | int | float | bool
Index: TypeAlias = Mapping[str, tuple[Scalar, ...]]
Rev: TypeAlias = str
Expect: TypeAlias = str
"""What a row must be: "any", "absent", "exists", or the rev it must have."""

ScalarType: TypeAlias = Literal["str", "int", "float", "bool"]

# The portable floor: every engine takes this much, so what runs on one runs on all. Bytes after encoding.
MAX_PARTITION = 512
MAX_SORT = 256
MAX_INDEX = 400
MAX_ROW = 300_000
MAX_BATCH_OPS = 50
MAX_BATCH = 1_000_000
MAX_FACETS = 64
MAX_FACET_BYTES = 4096
MAX_INDEXES = 8
MAX_INTEGER = 2**53

REMEMBERED = 24 * 3600 * 1_000_000
"""Microseconds for which each batch is remembered at least: its retry writes nothing and gets its receipt."""

HEAD = ""
"""The sort key of a log's head: a row that engines keep, that get and dump give back and scan does not."""


class Row(msgspec.Struct, frozen=True):
    """A stored row. `doc` is given back verbatim; `expires` is in microseconds since 1970."""

    key: Key
    rev: Rev
    doc: bytes
    index: Index = {}
    facets: Facets = {}
    expires: int | None = None


class Put(msgspec.Struct, frozen=True):
    """Write a row. On a log it is an edit: `expect` is then "exists" or a rev.

    `rev` is for `commit(restore=True)` alone: the rev to keep.
    """

    kind: str
    sort: str
    doc: bytes
    index: Index = {}
    facets: Facets = {}
    expires: int | None = None
    expect: Expect = "any"
    rev: Rev | None = None


class Append(msgspec.Struct, frozen=True):
    """Write the next row of the log (partition, kind): its sort key is `keys.seq_sort(n)`, n = 1, 2, 3, ...

    `after`: the number the log must end at. `expect="exists"`: the log must have been opened before.
    """

    kind: str
    doc: bytes
    index: Index = {}
    facets: Facets = {}
    expires: int | None = None
    after: int | None = None
    expect: Literal["any", "exists"] = "any"


class Delete(msgspec.Struct, frozen=True):
    """Delete a row; deleting what is absent is no error unless `expect` says so."""

    kind: str
    sort: str
    expect: Expect = "any"


class Check(msgspec.Struct, frozen=True):
    """Write nothing, but refuse the batch unless the row is as expected."""

    kind: str
    sort: str
    expect: Expect


class Trim(msgspec.Struct, frozen=True):
    """Change the head of a log: hide its rows numbered under `below` at once, seal or unseal it.

    A sealed log refuses appends (late writers of a deleted conversation). Numbers go on after unsealing.
    `below=None` hides every row there is; `sealed=None` leaves the seal as it is. Opens a log that is not there.
    """

    kind: str
    below: int | None = 0
    sealed: bool | None = None


Op: TypeAlias = Put | Append | Delete | Check | Trim


class Batch(msgspec.Struct, frozen=True):
    """Operations on one partition: all are done or none.

    `id` is a uuid7 minted outside every retry: the rev of all it writes, and its identity when it is committed
    again. `once` is an idempotency key, `digest` what tells two uses of it apart (16 bytes).
    """

    partition: str
    ops: tuple[Op, ...]
    id: Rev
    once: str | None = None
    digest: bytes | None = None


class Receipt(msgspec.Struct, frozen=True):
    """What a batch did: its id, and for each op the number it was given (Append) or None.

    `replayed`: the batch, or its idempotency key, had been committed before; `id` is the first one's.
    """

    id: Rev
    seqs: tuple[int | None, ...]
    replayed: bool = False


class Scan(msgspec.Struct, frozen=True):
    """An ordered range of one partition (`index=None`, prefix=(partition,)), of one index, or of a whole kind.

    On an index, `prefix` are its leading fields, at least the first; `lo` (inclusive) and `hi` (exclusive) range
    over the field after them. In a partition they range over the sort key. Without a prefix and an index they
    range over the partitions, and the order is (partition, sort). `after` is the cursor of the page before.
    `budget` bounds the rows an engine looks at for one page when `where` keeps few of them.
    """

    kind: str
    index: str | None = None
    prefix: tuple[Scalar, ...] = ()
    lo: Scalar | None = None
    hi: Scalar | None = None
    reverse: bool = False
    limit: int = 100
    after: str | None = None
    where: Predicate | None = None
    budget: int = 10_000


class Page(NamedTuple):
    """Rows in order; only `cursor=None` is the end: a page may be short or empty and go on."""

    rows: list[Row]
    cursor: str | None


class Head(msgspec.Struct, frozen=True):
    """The state of a log: the last number given, the number up to which rows are hidden, and the seal."""

    seq: int = 0
    floor: int = 0
    sealed: bool = False


class IndexSpec(msgspec.Struct, frozen=True):
    """An ordered access path; one type per field."""

    name: str
    fields: tuple[str, ...]
    types: tuple[ScalarType, ...]


ROW_COLUMNS = ("partition", "sort", "seq", "rev", "document")
"""The columns that a view has of every kind."""


class Column(msgspec.Struct, frozen=True):
    """A typed column of the view that people and BI tools read: a JSON path in the document.

    Its name is none of ROW_COLUMNS, and no other column's of the kind.
    """

    name: str
    path: tuple[str, ...]
    type: Literal["str", "int", "float", "bool", "time", "json"]


class KindSpec(msgspec.Struct, frozen=True):
    """A kind of row. `listed`: its facets are asked across partitions, so engines that can index them do."""

    name: str
    log: bool = False
    indexes: tuple[IndexSpec, ...] = ()
    listed: bool = False
    columns: tuple[Column, ...] = ()


class Schema(msgspec.Struct, frozen=True):
    """The kinds a store knows."""

    kinds: tuple[KindSpec, ...]

    def kind(self, name: str) -> KindSpec | None:
        """The kind of that name, or None."""
        return next((kind for kind in self.kinds if kind.name == name), None)


class Capabilities(msgspec.Struct, frozen=True):
    """What an engine promises; layers change it, users read it, the conformance suite checks it both ways."""

    name: str
    atomic: Literal["row", "partition", "database"] = "partition"
    index_reads: Literal["committed", "eventual"] = "committed"
    filters: frozenset[str] = frozenset()
    """Predicate operators the engine evaluates itself."""
    facet_index: bool = False
    """Facets of listed kinds are found by index across partitions."""
    durable: bool = True
    """What was acknowledged survives a kill of the process."""
    power_loss: bool = True
    """What was acknowledged survives a power loss."""
    shared: bool = True
    """Several processes may open the same database."""
    inline: bool = False
    """Calls never suspend: a coroutine can be driven by hand, without an event loop."""


class Engine(Protocol):
    """A database behind the waist. Layers wrap an engine and are one."""

    capabilities: Capabilities

    async def open(self, schema: Schema) -> None:
        """Connect and create what is missing. Safe when many processes do it at once. Idempotent."""
        ...

    async def close(self) -> None:
        """Close what open created; what was handed in stays open. Idempotent."""
        ...

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """One answer per key, in order. The head of a log is read by `Key(kind, partition, HEAD)`."""
        ...

    async def scan(self, scan: Scan) -> Page:
        """A page of a range, in byte order of the encoded keys."""
        ...

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """Commit independent batches, those of one partition in list order. One answer per batch, in order."""
        ...

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """Every row and every log head of a kind, in any order, each once if nothing is written meanwhile.

        `lo` (inclusive) and `hi` (exclusive) range over the partitions: no other one is read, nor named by a cursor.
        """
        ...
