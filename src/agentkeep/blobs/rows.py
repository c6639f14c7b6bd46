"""The default blob store: chunk rows in the engine of the store itself.

    blob_chunk     partition = blob id, log        256 KiB of the body each
    blob_upload    partition = blob id             there from before the first chunk until the body is confirmed

The manifest, which says that bodies are complete and whose they are, is a row of kind `blob` that the store commits
in the batch of the rows that name the bodies: it is written last, and never without its parents.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .. import codec, keys
from ..errors import Corrupt, StoreError
from ..ids import Clock, Ids
from ..waist import Append, Batch, Delete, Engine, IndexSpec, KindSpec, Op, Put, Row, Scan, Trim
from .waist import Blobs

CHUNK = 256 * 1024
PER_BATCH = 3
"""Chunks in one batch: under the batch's 1,000,000 bytes."""

MANIFEST = KindSpec("blob")
KINDS = (
    MANIFEST,
    KindSpec("blob_chunk", log=True),
    KindSpec("blob_upload", indexes=(IndexSpec("by_time", ("state", "at_us"), ("str", "int")),)),
)


class RowBlobs:
    """Bodies as rows. Reads and writes go through the store's engine, and so through its scope and limits."""

    def __init__(self, engine: Engine, ids: Ids, clock: Clock) -> None:
        self._engine = engine
        self._ids = ids
        self._clock = clock

    async def write(self, blob: str, body: bytes | memoryview, owner: str) -> None:
        """Note the upload with the first chunks, then write the others in order."""
        text = msgspec.json.encode(keys.escape(owner))
        note: list[Op] = [Put("blob_upload", "", text, {"by_time": ("open", self._clock())})]
        view = memoryview(body)
        for first in range(0, len(view), PER_BATCH * CHUNK):
            part = view[first : first + PER_BATCH * CHUNK]
            appends = [Append("blob_chunk", bytes(part[at : at + CHUNK])) for at in range(0, len(part), CHUNK)]
            await self._commit([Batch(blob, (*note, *appends), self._ids())])
            note = []

    async def confirm(self, blobs: Sequence[str]) -> None:
        """Drop the notes of the uploads."""
        await self._commit([Batch(blob, (Delete("blob_upload", ""),), self._ids()) for blob in blobs])

    async def read(self, blob: str) -> bytes | None:
        """All chunks in order, joined."""
        parts: list[bytes] = []
        after: str | None = None
        while True:
            page = await self._engine.scan(Scan("blob_chunk", prefix=(blob,), limit=64, after=after))
            parts += [row.doc for row in page.rows]
            after = page.cursor
            if after is None:
                return b"".join(parts) if parts else None

    async def delete(self, blobs: Sequence[str]) -> None:
        """Hide the chunks, which the engine then removes in small steps, and drop the notes."""
        ops = Trim("blob_chunk", None, sealed=True), Delete("blob_upload", "")
        await self._commit([Batch(blob, ops, self._ids()) for blob in blobs])

    async def orphans(self, before: int, limit: int) -> list[tuple[str, str]]:
        """The oldest open uploads."""
        scan = Scan("blob_upload", "by_time", ("open",), hi=before, limit=limit)
        page = await self._engine.scan(scan)
        return [(row.key.partition, keys.unescape(msgspec.json.decode(row.doc, type=str))) for row in page.rows]

    async def _commit(self, batches: Sequence[Batch]) -> None:
        for answer in await self._engine.commit(batches) if batches else []:
            if isinstance(answer, StoreError):
                raise answer


class Moved(msgspec.Struct, frozen=True):
    """What stands in a row whose document was moved: where it is, and how large."""

    blob: str
    size: int


class Manifest(msgspec.Struct, frozen=True):
    """The row that makes the bodies of one batch complete: for each the kind of the row that names it."""

    bodies: dict[str, str]


def name(upload: str, number: int) -> str:
    """The id of one body of an upload, whose own id is the sort key of its manifest."""
    return f"{upload}.{number}"


def upload_of(blob: str) -> str:
    """The upload that a body belongs to."""
    return blob.partition(".")[0]


def moved(row: Row) -> Moved | None:
    """What a row's document says of its body, or None where the document is the body."""
    if not codec.is_moved(row.doc):
        return None
    _, body = codec.unframe(row.doc, row.key)
    try:
        return msgspec.json.decode(body, type=Moved)
    except msgspec.DecodeError:
        raise Corrupt("what stands for the moved body does not decode", key=row.key) from None


async def whole(blobs: Blobs, row: Row) -> Row:
    """The row with its document, wherever that lies. Raises Corrupt where the body is not whole."""
    stub = moved(row)
    if stub is None:
        return row
    body = await blobs.read(stub.blob)
    if body is None or len(body) != stub.size:
        raise Corrupt(f"the body {stub.blob} is missing or cut", key=row.key)
    return msgspec.structs.replace(row, doc=body)
