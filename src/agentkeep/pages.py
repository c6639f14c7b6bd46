"""Pages of typed items, and listings that page by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, Generic, TypeVar

from .errors import Corrupt

T = TypeVar("T")


class Page(Generic[T]):
    """Items in order. Only `cursor=None` is the end: a page may be short or empty and go on.

    `corrupt` names the rows of the range whose documents do not decode; the others are in `items` all the same.
    """

    __slots__ = ("corrupt", "cursor", "items")

    def __init__(self, items: list[T], cursor: str | None, corrupt: list[Corrupt] | None = None) -> None:
        self.items = items
        self.cursor = cursor
        self.corrupt = corrupt or []

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> T:
        return self.items[number]

    def __repr__(self) -> str:
        return f"Page({len(self.items)} items, cursor={'None' if self.cursor is None else '...'})"


class Listing(Generic[T]):
    """What list() gives: awaited it is one Page, iterated it is every item of every page."""

    def __init__(self, fetch: Callable[[str | None], Awaitable[Page[T]]], after: str | None = None) -> None:
        self._fetch = fetch
        self._after = after

    def __await__(self) -> Generator[Any, Any, Page[T]]:
        return self.page().__await__()

    async def page(self) -> Page[T]:
        """The first page. Raises StoreError."""
        return await self._fetch(self._after)

    async def __aiter__(self) -> AsyncIterator[T]:
        after = self._after
        while True:
            page: Page[T] = await self._fetch(after)
            if page.corrupt:
                raise page.corrupt[0]
            for item in page.items:
                yield item
            after = page.cursor
            if after is None:
                return
