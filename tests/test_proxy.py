"""The proxy of the conformance suite, before a server that answers every line."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from agentkeep.testing.proxy import Counters, Proxy

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Stream]]


class LineServer:
    """Answers each line but "quiet" with "ok "; `seen` is all it read, `ended` the connections whose input ended."""

    def __init__(self) -> None:
        self.seen = b""
        self.ended = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.read(1_000):
                self.seen += line
                for full in line.splitlines(keepends=True):
                    if full.endswith(b"\n") and full != b"quiet\n":
                        writer.write(b"ok " + full)
            self.ended += 1
        except ConnectionError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[tuple[LineServer, int]]:
    lines = LineServer()
    listening = await asyncio.start_server(lines.serve, "127.0.0.1", 0)
    async with listening:
        yield lines, listening.sockets[0].getsockname()[1]


@pytest.fixture
def lines(server: tuple[LineServer, int]) -> LineServer:
    return server[0]


@pytest.fixture
def proxy(server: tuple[LineServer, int]) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", server[1], reply_seconds=0.2) as started:
        yield started


@pytest.fixture
async def connect(proxy: Proxy) -> AsyncIterator[Connect]:
    opened: list[asyncio.StreamWriter] = []

    async def one() -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        opened.append(writer)
        return reader, writer

    yield one
    for writer in opened:
        writer.close()


async def ask(stream: Stream, line: bytes) -> bytes:
    stream[1].write(line)
    return await asyncio.wait_for(stream[0].readline(), 5)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


async def is_reset(stream: Stream) -> bool:
    try:
        await asyncio.wait_for(stream[0].read(), 5)
    except ConnectionResetError:
        return True
    return False


async def test_bytes_pass_both_ways_and_large_ones_whole(connect: Connect, proxy: Proxy):
    stream = await connect()
    big = b"x" * 999 + b"\n"
    assert await ask(stream, b"hello\n") == b"ok hello\n"
    assert await ask(stream, big) == b"ok " + big


async def test_the_end_of_input_passes_and_the_answer_still_comes(connect: Connect, proxy: Proxy, lines: LineServer):
    reader, writer = await connect()
    writer.write(b"last\n")
    writer.write_eof()
    assert await reader.read() == b"ok last\n"
    assert lines.ended == 1


async def test_counters_count_bytes_and_round_trips(connect: Connect, proxy: Proxy):
    stream = await connect()
    await ask(stream, b"one\n")
    before = proxy.counters
    await ask(stream, b"two\n")
    await ask(stream, b"three\n")
    assert proxy.counters - before == Counters(
        bytes_up=10, bytes_down=16, chunks_up=2, chunks_down=2, round_trips=2, connections=0
    )


async def test_a_request_in_two_chunks_is_one_round_trip(connect: Connect, proxy: Proxy):
    stream = await connect()
    stream[1].write(b"quiet\n")
    await until(lambda: proxy.counters.chunks_up == 1)
    await ask(stream, b"go\n")
    assert (proxy.counters.chunks_up, proxy.counters.round_trips) == (2, 1)


async def test_cut_resets_every_connection_and_the_next_one_works(connect: Connect, proxy: Proxy):
    streams = [await connect() for _ in range(3)]
    for stream in streams:
        await ask(stream, b"hello\n")
    proxy.cut()
    assert [await is_reset(stream) for stream in streams] == [True] * 3
    assert await ask(await connect(), b"again\n") == b"ok again\n"


def test_cut_reaches_a_connection_the_moment_its_client_has_it():
    with socket.create_server(("127.0.0.1", 0)) as target, Proxy(*target.getsockname()) as proxy:
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
                proxy.cut()
                with pytest.raises(ConnectionResetError):
                    client.recv(1)


async def test_refuse_spares_what_is_connected_and_keeps_the_port(connect: Connect, proxy: Proxy):
    stream, port = await connect(), proxy.port
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    assert await ask(stream, b"still\n") == b"ok still\n"
    proxy.refuse(False)
    assert proxy.port == port
    assert await ask(await connect(), b"back\n") == b"ok back\n"


def test_a_server_that_is_down_shows_as_a_reset():
    with socket.create_server(("127.0.0.1", 0)) as closing:
        target = closing.getsockname()
    with Proxy(*target) as proxy, pytest.raises(ConnectionResetError):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
            client.recv(1)


@pytest.mark.parametrize("direction", ["up", "down", None])
async def test_delay_is_latency_and_keeps_order(connect: Connect, proxy: Proxy, direction):
    stream = await connect()
    proxy.delay(0.05, direction)
    clock = asyncio.get_running_loop()
    start = clock.time()
    for number in range(5):
        stream[1].write(b"%d\n" % number)
        await until(lambda number=number: proxy.counters.bytes_up == 2 * (number + 1))
    answers = [await asyncio.wait_for(stream[0].readline(), 5) for _ in range(5)]
    assert answers == [b"ok %d\n" % number for number in range(5)]
    assert clock.time() - start >= (0.1 if direction is None else 0.05)


async def test_a_blackhole_swallows_and_what_lived_through_it_stays_dead(
    connect: Connect, proxy: Proxy, lines: LineServer
):
    old = await connect()
    await ask(old, b"before\n")
    proxy.blackhole()
    new = await connect()
    for stream in (old, new):
        stream[1].write(b"lost\n")
    await until(lambda: proxy.counters.bytes_up == len(b"before\nlost\nlost\n"))
    proxy.blackhole(False)
    for stream in (old, new):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(stream[0].read(1), 0.05)
    assert await ask(await connect(), b"after\n") == b"ok after\n"
    assert lines.seen == b"before\nafter\n"


async def test_cut_after_bytes_passes_exactly_that_many(connect: Connect, proxy: Proxy, lines: LineServer):
    stream = await connect()
    await ask(stream, b"free\n")
    proxy.cut_after_bytes(7, "up")
    await ask(stream, b"five\n")
    stream[1].write(b"seven\n")
    assert await is_reset(stream)
    await until(lambda: len(lines.seen) == 12)
    assert lines.seen == b"free\nfive\nse"


async def test_cut_before_withholds_the_match(connect: Connect, proxy: Proxy, lines: LineServer):
    stream = await connect()
    trigger = proxy.cut_when("up", b"COMMIT")
    await ask(stream, b"BEGIN\n")
    stream[1].write(b"COMMIT\n")
    assert await is_reset(stream)
    assert lines.seen == b"BEGIN\n"
    assert (trigger.fired, trigger.replied) == (1, 0)
    assert await ask(await connect(), b"COMMIT\n") == b"ok COMMIT\n", "it was to happen once"


async def test_cut_after_lets_the_server_do_the_work_and_swallows_the_reply(
    connect: Connect, proxy: Proxy, lines: LineServer
):
    stream = await connect()
    trigger = proxy.cut_when("up", b"COMMIT", when="after")
    await ask(stream, b"BEGIN\n")
    stream[1].write(b"COMMIT\n")
    assert await is_reset(stream)
    assert lines.seen == b"BEGIN\nCOMMIT\n"
    assert (trigger.fired, trigger.replied) == (1, 1)
    await until(lambda: lines.ended == 1)


async def test_cut_after_does_not_wait_for_ever_for_a_reply(connect: Connect, proxy: Proxy, lines: LineServer):
    stream = await connect()
    trigger = proxy.cut_when("up", b"quiet", when="after")
    stream[1].write(b"quiet\n")
    assert await is_reset(stream)
    assert trigger.replied == 0
    assert lines.seen == b"quiet\n"


async def test_a_reply_can_be_cut_away_or_delivered_first(connect: Connect, proxy: Proxy, lines: LineServer):
    stream = await connect()
    proxy.cut_when("down", b"ok one")
    stream[1].write(b"one\n")
    assert await is_reset(stream)
    assert lines.seen == b"one\n"
    stream = await connect()
    proxy.cut_when("down", b"ok two", when="after")
    assert await ask(stream, b"two\n") == b"ok two\n"
    assert await is_reset(stream)


async def test_a_pattern_is_found_across_chunks(connect: Connect, proxy: Proxy, lines: LineServer):
    stream = await connect()
    proxy.cut_when("up", b"COMMIT")
    stream[1].write(b"COM")
    await until(lambda: lines.seen == b"COM")
    stream[1].write(b"MIT\n")
    assert await is_reset(stream)
    assert lines.seen == b"COM"


async def test_a_function_can_choose_the_chunk_and_times_limits_the_cuts(connect: Connect, proxy: Proxy):
    trigger = proxy.cut_when("up", lambda chunk: chunk.startswith(b"B"), times=2)
    for _ in range(2):
        stream = await connect()
        assert await ask(stream, b"A\n") == b"ok A\n"
        stream[1].write(b"B\n")
        assert await is_reset(stream)
    assert trigger.wait(0, fired=2)
    assert not trigger.wait(0, fired=3)
    assert await ask(await connect(), b"B\n") == b"ok B\n"


async def test_clear_takes_all_faults_back(connect: Connect, proxy: Proxy):
    proxy.cut_when("up", b"B")
    proxy.delay(60)
    proxy.blackhole()
    proxy.refuse()
    proxy.clear()
    assert await ask(await connect(), b"B\n") == b"ok B\n"


def test_a_pattern_that_could_not_be_found_is_refused():
    with pytest.raises(ValueError, match="1 to 1024 bytes"):
        Proxy("127.0.0.1", 1).cut_when("up", b"")


def test_a_proxy_that_is_not_started_says_so_and_stops_twice():
    proxy = Proxy("127.0.0.1", 1)
    with pytest.raises(RuntimeError, match="not started"):
        _ = proxy.port
    with pytest.raises(RuntimeError, match="not started"):
        proxy.cut()
    proxy.start()
    proxy.stop()
    proxy.stop()
