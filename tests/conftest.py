"""Which engines the tests run on, and databases for those of the store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from agentkeep import Store
from engines import ENGINES, POSTGRES, Database, is_missing, names


def pytest_agentkeep_engines(config: pytest.Config) -> list[str]:
    """Every engine of this repository, unless some are named on the command line."""
    return ENGINES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A run without PostgreSQL fails: nothing is skipped because it is not there."""
    wants = any("postgresql" in item.name for item in items)
    if wants and is_missing() and not config.getoption("--agentkeep-engine"):
        raise pytest.UsageError(
            f"{POSTGRES} is not set: `make test` starts the server and sets it; "
            "--agentkeep-engine=URL runs the conformance suite on the engines you name"
        )


@pytest.fixture(params=ENGINES, ids=names())
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """A new, empty database on each engine, with a clock that stands until it is moved."""
    made = Database(request.param, tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def store(database: Database) -> Store:
    """A store on a new database."""
    return await database.open()


EXPORTER = InMemorySpanExporter()


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Where finished spans are seen; the process's tracer provider is set once."""
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
        trace.set_tracer_provider(provider)
    EXPORTER.clear()
    yield EXPORTER
    EXPORTER.clear()
