"""Measuring: rounds that alternate between the sides, and counters of time, bytes, statements and memory."""

import asyncio
import contextlib
import inspect
import statistics
import time
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw

Item = TypeVar("Item")
Name = TypeVar("Name", bound=Hashable)


class Loop:
    """One event loop that is only run inside a measurement, so that blocking sides are called with no loop running."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The result of a blocking or an async function."""
        result = function(*arguments)
        return self._runner.run(result) if inspect.iscoroutine(result) else result

    def one_by_one(self, function: Callable[[Item], Any], items: Sequence[Item]) -> tuple[float, list[Any]]:
        """Seconds and results of calling `function` with each item, one after the other."""
        if not inspect.iscoroutinefunction(function):
            started = time.perf_counter()
            results = [function(item) for item in items]
            return time.perf_counter() - started, results

        async def run() -> tuple[float, list[Any]]:
            started = time.perf_counter()
            results = [await function(item) for item in items]
            return time.perf_counter() - started, results

        return self._runner.run(run())

    def at_once(
        self, function: Callable[[Item], Awaitable[Any]], queues: Sequence[Sequence[Item]]
    ) -> tuple[float, list[list[Any]]]:
        """Seconds and results of one task per queue, each calling `function` with its items in order."""

        async def work(queue: Sequence[Item]) -> list[Any]:
            return [await function(item) for item in queue]

        async def run() -> tuple[float, list[list[Any]]]:
            started = time.perf_counter()
            results = await asyncio.gather(*(work(queue) for queue in queues))
            return time.perf_counter() - started, list(results)

        return self._runner.run(run())

    @contextlib.contextmanager
    def entered(self, context: contextlib.AbstractAsyncContextManager[Item]) -> Iterator[Item]:
        """An async context, entered and left in this loop."""
        entered = self.call(context.__aenter__)
        try:
            yield entered
        finally:
            self.call(context.__aexit__, None, None, None)

    def close(self) -> None:
        self._runner.close()


def alternate(rounds: int, sides: dict[Name, Callable[[int], Item]]) -> dict[Name, list[Item]]:
    """What each side measured in each round: A B, B A, A B ..., after one round that is not counted.

    A side is called with the number of the round, 0 for the one that is not counted.
    """
    measured: dict[Name, list[Item]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        names = list(sides) if number % 2 else list(reversed(sides))
        for name in names:
            value = sides[name](number)
            if number:
                measured[name].append(value)
    return measured


median = statistics.median


def bytes_written() -> int:
    """Bytes this process has passed to write calls so far: the write-ahead log, and the database at checkpoints."""
    return next(int(line.split()[1]) for line in _proc("io").splitlines() if line.startswith("wchar:"))


def peak_megabytes() -> float:
    """The most memory this process has held (resident set).

    Not ru_maxrss, which on Linux begins with what the parent process held.
    """
    lines = _proc("status").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


def _proc(name: str) -> str:
    try:
        return Path(f"/proc/self/{name}").read_text()
    except OSError as error:
        raise RuntimeError("bytes written and memory are read from /proc, which only Linux has") from error


class Count:
    """A number that goes up."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, *_: object) -> None:
        self.value += 1


@contextlib.contextmanager
def sqlite_statements() -> Iterator[Count]:
    """Counts every statement of every SQLite connection that is opened within the block, BEGIN and COMMIT included."""
    count = Count()

    def trace(connection: apsw.Connection) -> None:
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, count.add)

    apsw.connection_hooks.append(trace)
    try:
        yield count
    finally:
        apsw.connection_hooks.remove(trace)
