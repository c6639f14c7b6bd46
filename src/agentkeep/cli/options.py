"""What commands share: the URL, the tenant, --json, and an event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import click
import msgspec

from ..errors import NotFound
from ..store import Store
from ..urls import parse

P = ParamSpec("P")
R = TypeVar("R")

url_argument = click.argument("url", metavar="URL")
id_argument = click.argument("id", metavar="ID")
tenant_option = click.option("--tenant", metavar="NAME", help="The tenant, where the database has tenants.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def asynchronous(command: Callable[P, Awaitable[R]]) -> Callable[P, R]:
    """Run a command in an event loop of its own."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        async def call() -> R:
            return await command(*args, **kwargs)

        return asyncio.run(call())

    return run


@asynccontextmanager
async def opened(url: str, tenant: str | None, *, create: bool = False) -> AsyncGenerator[Store]:
    """The store of a URL, as a tenant sees it. Without `create` a file that is not there is NotFound, not made."""
    if not create:
        _must_be_there(url)
    async with Store.open(url, tenants="off" if tenant is None else "required") as store:
        yield store if tenant is None else store.scope(tenant)


def _must_be_there(url: str) -> None:
    parsed = parse(url)
    path = parsed.path[1:]
    if parsed.scheme == "sqlite" and not os.path.exists(path):
        raise NotFound(f"there is no database {path}", operation="open")


def shown(url: str) -> str:
    """A URL as it may be printed: its secrets are masked."""
    return str(parse(url))


def metadata_of(pairs: tuple[str, ...]) -> dict[str, Any]:
    """--metadata name=value options as a filter. A value that reads as JSON is one, every other is text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--metadata takes name=value, not {pair!r}")
        try:
            found[name] = msgspec.json.decode(value, type=str | int | float | bool)
        except msgspec.DecodeError:
            found[name] = value
    return found
