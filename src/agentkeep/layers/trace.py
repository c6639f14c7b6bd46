"""The trace layer: an OpenTelemetry span for each call. No document, id or credential becomes an attribute."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..errors import Key, MissingExtra, StoreError
from ..waist import Batch, Engine, Page, Receipt, Row, Scan, Schema

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

T = TypeVar("T")


class Trace:
    """Spans named "agentkeep.commit" and so on, with `db.system.name`, kinds, counts and the error's type.

    The attribute names are those of OpenTelemetry's database conventions (semantic conventions 1.30).
    """

    def __init__(self, inner: Engine, tracer: Tracer | None = None) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities
        self._tracer = tracer if tracer is not None else _default()

    async def open(self, schema: Schema) -> None:
        """A span around open."""
        await self._span("open", {}, lambda: self.inner.open(schema))

    async def close(self) -> None:
        """A span around close."""
        await self._span("close", {}, self.inner.close)

    async def get(self, keys: Sequence[Key]) -> list[Row | None]:
        """A span around get."""
        about: dict[str, str | int] = {
            "db.collection.name": _kinds(key.kind for key in keys),
            "db.operation.batch.size": len(keys),
        }
        return await self._span("get", about, lambda: self.inner.get(keys))

    async def scan(self, scan: Scan) -> Page:
        """A span around scan."""
        about: dict[str, str | int] = {"db.collection.name": scan.kind, "agentkeep.index": scan.index or "primary"}
        return await self._span("scan", about, lambda: self.inner.scan(scan), _rows)

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> list[Receipt | StoreError]:
        """A span around commit; a batch that failed is counted."""
        about: dict[str, str | int] = {
            "db.collection.name": _kinds(op.kind for batch in batches for op in batch.ops),
            "db.operation.batch.size": len(batches),
        }
        return await self._span("commit", about, lambda: self.inner.commit(batches, restore=restore), _failed)

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Page:
        """A span around dump."""
        about: dict[str, str | int] = {"db.collection.name": kind}
        return await self._span("dump", about, lambda: self.inner.dump(kind, after, limit, lo=lo, hi=hi), _rows)

    async def _span(
        self,
        operation: str,
        about: dict[str, str | int],
        call: Callable[[], Awaitable[T]],
        finish: Callable[[Span, T], None] | None = None,
    ) -> T:
        about |= {"db.system.name": self.capabilities.name, "db.operation.name": operation}
        with self._tracer.start_as_current_span(
            f"agentkeep.{operation}", attributes=about, record_exception=False, set_status_on_exception=False
        ) as span:
            try:
                answer = await call()
            except StoreError as error:
                _mark(span, error)
                raise
            if finish is not None:
                finish(span, answer)
            return answer


def _default() -> Tracer:
    try:
        from opentelemetry.trace import get_tracer
    except ModuleNotFoundError as error:
        raise MissingExtra("tracing", "trace") from error
    return get_tracer("agentkeep")


def _kinds(kinds: Iterable[str]) -> str:
    return " ".join(sorted(set(kinds)))


def _rows(span: Span, page: Page) -> None:
    span.set_attribute("db.response.returned_rows", len(page.rows))


def _failed(span: Span, answers: list[Receipt | StoreError]) -> None:
    errors = [answer for answer in answers if isinstance(answer, StoreError)]
    span.set_attribute("agentkeep.failed", len(errors))
    if errors:
        _mark(span, errors[0])


def _mark(span: Span, error: StoreError) -> None:
    from opentelemetry.trace import Status, StatusCode

    span.set_attribute("error.type", type(error).__name__)
    span.set_status(Status(StatusCode.ERROR))
