"""Large documents of a batch, kept in the blob store: written before the batch, removed after what replaces them.

    bodies -> batch with stubs and a manifest -> uploads confirmed, replaced bodies removed

Broken off anywhere, nothing half is visible: bodies that no manifest names are found by `sweep`, bodies that a
manifest names but no row are found by `collect`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import suppress

import msgspec

from .. import codec
from ..errors import Conflict, Key, StoreError
from ..ids import Ids
from ..waist import Append, Batch, Delete, Engine, Op, Put, Receipt, Row, Scan
from .rows import MANIFEST, Manifest, Moved, moved, name, upload_of
from .waist import Blobs

INLINE = 200_000
"""Bytes of a document above which it moves to the blob store: a row stays under the floor with its index and facets."""

TOGETHER = 600_000
"""Bytes of a batch's documents above which the largest move too: with all of its facets it stays under the floor."""

PER_CALL = 50
"""Bodies or manifests that one call removes."""


class Bodies:
    """The large documents of one store."""

    def __init__(self, engine: Engine, blobs: Blobs, ids: Ids) -> None:
        self._engine = engine
        self._blobs = blobs
        self._ids = ids

    async def commit(
        self, batch: Batch, large: Sequence[int], old: Sequence[str] = (), restore: bool = False
    ) -> Receipt:
        """Commit a batch whose documents at `large` move; then remove the bodies in `old`, which it replaces.

        Once the batch is decided nothing changes its answer: what tidying leaves, `sweep` and `collect` find.
        """
        whole, written = await self._move(batch, large)
        (answer,) = await self._engine.commit((whole,), restore=restore)
        with suppress(StoreError):
            if isinstance(answer, Receipt) and answer.id == batch.id:
                await self._blobs.confirm(written)
                await self._remove(batch.partition, old)
            elif isinstance(answer, Receipt) or answer.outcome == "none":
                await self._blobs.delete(written)
        if isinstance(answer, StoreError):
            raise answer
        return Receipt(answer.id, answer.seqs[: len(batch.ops)], answer.replayed)

    async def collect(self, partition: str, known: Collection[str]) -> int:
        """Remove the bodies of a partition that none of its rows of known kinds names. Gives their number.

        Manifests are listed before rows: a body whose row comes later is in neither list.
        """
        bodies: dict[str, str] = {}
        async for row in self._rows(MANIFEST.name, partition):
            bodies |= _manifest(row).bodies
        named: set[str] = set()
        kinds = {kind for kind in bodies.values() if kind in known}
        for kind in kinds:
            async for row in self._rows(kind, partition):
                if (stub := moved(row)) is not None:
                    named.add(stub.blob)
        dead = [blob for blob, kind in bodies.items() if kind in kinds and blob not in named]
        await self._remove(partition, dead)
        return len(dead)

    async def sweep(self, before: int, limit: int) -> int:
        """Remove the bodies of writers that died, begun before a time in microseconds. Gives their number."""
        removed = 0
        for blob, owner in await self._blobs.orphans(before, limit):
            (row,) = await self._engine.get((Key(MANIFEST.name, owner, upload_of(blob)),))
            if row is not None and blob in _manifest(row).bodies:
                await self._blobs.confirm([blob])
            else:
                await self._blobs.delete([blob])
                removed += 1
        return removed

    async def _move(self, batch: Batch, large: Sequence[int]) -> tuple[Batch, list[str]]:
        """The batch with these documents in the blob store and their manifest, and the ids of the bodies."""
        if not large:
            return batch, []
        upload, bodies = self._ids(), dict[str, str]()
        ops: list[Op] = list(batch.ops)
        for at in large:
            op = ops[at]
            assert isinstance(op, (Put, Append))
            blob = name(upload, at)
            try:
                await self._blobs.write(blob, op.doc, batch.partition)
            except StoreError as error:
                error.outcome = "none"  # of the batch, which is not committed: what was written is an orphan
                raise
            bodies[blob] = op.kind
            stub = codec.frame(codec.MOVED, msgspec.json.encode(Moved(blob, len(op.doc))))
            ops[at] = msgspec.structs.replace(op, doc=stub)
        ops.append(Put(MANIFEST.name, upload, codec.encode(Manifest(bodies))))
        return msgspec.structs.replace(batch, ops=tuple(ops)), list(bodies)

    async def _remove(self, partition: str, blobs: Sequence[str]) -> None:
        """Remove bodies, then strike them off their manifests: broken off in between, `collect` finds the rest."""
        for first in range(0, len(blobs), PER_CALL):
            await self._blobs.delete(blobs[first : first + PER_CALL])
        keys = [Key(MANIFEST.name, partition, upload) for upload in sorted({upload_of(blob) for blob in blobs})]
        for first in range(0, len(keys), PER_CALL):
            await self._strike(partition, keys[first : first + PER_CALL], frozenset(blobs))

    async def _strike(self, partition: str, manifests: Sequence[Key], gone: frozenset[str]) -> None:
        while True:
            ops: list[Op] = []
            for row in await self._engine.get(manifests):
                if row is not None:
                    left = {blob: kind for blob, kind in _manifest(row).bodies.items() if blob not in gone}
                    put = Put(row.key.kind, row.key.sort, codec.encode(Manifest(left)), expect=row.rev)
                    ops.append(put if left else Delete(row.key.kind, row.key.sort, row.rev))
            if not ops:
                return
            (answer,) = await self._engine.commit((Batch(partition, tuple(ops), self._ids()),))
            if isinstance(answer, Receipt):
                return
            if not isinstance(answer, Conflict):  # another one struck a body of the same upload
                raise answer

    async def _rows(self, kind: str, partition: str) -> AsyncIterator[Row]:
        scan = Scan(kind, prefix=(partition,))
        while True:
            page = await self._engine.scan(scan)
            for row in page.rows:
                yield row
            if page.cursor is None:
                return
            scan = msgspec.structs.replace(scan, after=page.cursor)


def large_ones(batch: Batch) -> list[int]:
    """The ops whose documents move: each over INLINE, then the largest while the rest is over TOGETHER."""
    total = 0
    for op in batch.ops:
        if isinstance(op, (Put, Append)):
            total += len(op.doc)
    if total <= INLINE:
        return []
    sizes = [(len(op.doc), at) for at, op in enumerate(batch.ops) if isinstance(op, (Put, Append))]
    found: list[int] = []
    for size, at in sorted(sizes, reverse=True):
        if size <= INLINE and total <= TOGETHER:
            break
        found.append(at)
        total -= size
    return sorted(found)


def _manifest(row: Row) -> Manifest:
    return codec.decode(row.doc, Manifest, row.key)
