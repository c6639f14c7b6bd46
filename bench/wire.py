"""A relay on the loopback that counts the statements a PostgreSQL client sends, whatever driver sends them."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator

from bench.measure import Count

EXECUTE, QUERY = b"E", b"Q"
SSL_REQUEST, GSS_REQUEST = 80877103, 80877104


async def _count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: Count) -> None:
    """Pass the client's messages on; those without a type byte come first, ending with the start-up message."""
    while True:
        head = await reader.readexactly(8)
        length, code = int.from_bytes(head[:4]), int.from_bytes(head[4:])
        writer.write(head + await reader.readexactly(length - 8))
        if code not in (SSL_REQUEST, GSS_REQUEST):
            break
    while True:
        head = await reader.readexactly(5)
        if head[:1] in (EXECUTE, QUERY):
            count.add()
        writer.write(head + await reader.readexactly(int.from_bytes(head[1:]) - 4))


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass the server's answers on; its end is the client's end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def counting(url: str) -> AsyncIterator[tuple[str, Count]]:
    """A URL that reaches the same database through the relay, and the count of statements sent there."""
    address = re.search(r"@([^:/@]+):(\d+)/", url)
    if address is None:
        raise ValueError("the PostgreSQL URL must look like postgresql://user@host:port/database")
    count = Count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = await asyncio.open_connection(address[1], int(address[2]))
        answers = asyncio.create_task(_pass(upstream[0], writer))
        try:
            await _count(reader, upstream[1], count)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            upstream[1].close()
            writer.close()
            answers.cancel()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield url[: address.start(1)] + f"127.0.0.1:{port}" + url[address.end(2) :], count
    finally:
        server.close()
