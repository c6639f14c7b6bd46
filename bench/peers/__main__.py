"""One peer's store in this process, asked for turns: `python -m bench.peers NAME TARGET`, JSON lines on stdin."""

import asyncio
import importlib
import platform
import sys
import time

from bench.events import check_last
from bench.lines import Answer, claim_stdout, serve
from bench.peers import PEERS
from bench.peers.store import PeerStore


class Turns:
    """Answers with the seconds of whole turns at a size, each read checked before the next turn begins."""

    def __init__(self, store: PeerStore) -> None:
        self._store = store
        self._held: dict[str, int] = {}

    async def handle(self, request: Answer) -> Answer:
        conversation, size = request["conversation"], request["size"]
        held = self._held.get(conversation, 0)
        if not held:
            await self._store.start(conversation)
        if held < size - 1:
            await self._store.seed(conversation, held + 1, size - 1)
            held = size - 1
        seconds = []
        for number in range(held + 1, held + 1 + request["count"]):
            started = time.perf_counter()
            read = await self._store.turn(conversation, number)
            seconds.append(time.perf_counter() - started)
            check_last(conversation, read, 2 * (number - 1), 50)
        self._held[conversation] = held = held + request["count"]
        check_last(conversation, await self._store.read_last(conversation, 50), 2 * held, 50)
        return {"seconds": seconds, "python": platform.python_version()}


async def main(name: str, target: str) -> None:
    peer = next(peer for peer in PEERS if peer.name == name)
    answers = claim_stdout()
    store = getattr(importlib.import_module(f"bench.peers.{peer.module}"), peer.store)(target)
    await store.open()
    try:
        await serve(answers, Turns(store).handle)
    finally:
        await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
