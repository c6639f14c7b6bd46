"""Group commit: works that wait together are run together, by the one who may run.

`Crew` has threads of its own and answers into the event loops that asked. `Turns` has none: of the threads that ask,
one leads and runs what all have brought, the others wait. Both take `run`, which gives one answer per work, in order;
an answer that is an exception is raised where it was asked for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from ..errors import Closed, Outcome, StoreError, Unavailable

W = TypeVar("W")
A = TypeVar("A")
Run = Callable[[Sequence[W]], Sequence[A | BaseException]]

MOST = 128
"""Works run together at most."""


def _nothing() -> None:
    pass


class Crew(Generic[W, A]):
    """Threads that work through one queue. `after` runs once answers are on their way. `most` works run together.

    A thread is started when a work comes and all are busy, up to `size`: one caller at a time finds its thread warm.
    """

    def __init__(self, name: str, size: int, run: Run[W, A], after: Callable[[], None] = _nothing, most: int = MOST):
        self._name = name
        self._size = size
        self._run = run
        self._after = after
        self._most = most
        self._lock = threading.Lock()
        self._queue: SimpleQueue[_Asked[W, A] | None] = SimpleQueue()
        self._refusal: Callable[[], StoreError] | None = None
        self._threads: list[threading.Thread] = []
        self._spare = 0
        """Threads less works under way."""

    async def ask(self, work: W) -> A:
        """The answer to a work. Cancelling the wait does not stop the work."""
        loop = asyncio.get_running_loop()
        asked: _Asked[W, A] = _Asked(work, loop, loop.create_future())
        with self._lock:
            if self._refusal is not None:
                raise self._refusal()
            if self._spare <= 0 and len(self._threads) < self._size:
                self._start()
            self._spare -= 1
            self._queue.put(asked)
        return await asked.future

    def close(self) -> None:
        """Finish what waits, refuse what comes, end the threads. Blocks."""
        self._end(_closed)
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """Finish what waits, refuse what comes, without waiting for it."""
        self._end(_closed)

    def _end(self, refusal: Callable[[], StoreError]) -> None:
        with self._lock:
            if self._refusal is None:
                self._refusal = refusal
                for _ in self._threads:
                    self._queue.put(None)

    def _start(self) -> None:
        """One thread more. Where the system gives none, those there are do the work; raises Unavailable without any."""
        thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if self._threads:
                return
            raise Unavailable("the system gives no thread", hint="Raise its limit of threads.") from error
        self._threads.append(thread)
        self._spare += 1

    def _main(self) -> None:
        group: list[_Asked[W, A]] = []
        try:
            while group := self._next():
                answers = self._run([asked.work for asked in group])
                with self._lock:
                    self._spare += len(group)
                _deliver(group, answers)
                group = []
                self._after()
        finally:
            self._leave(group)

    def _next(self) -> list[_Asked[W, A]]:
        """What waits, at least one work; empty at the end."""
        group: list[_Asked[W, A]] = []
        asked = self._queue.get()
        while asked is not None:
            group.append(asked)
            if len(group) == self._most:
                return group
            try:
                asked = self._queue.get_nowait()
            except Empty:
                return group
        if group:
            self._queue.put(None)
        return group

    def _leave(self, group: list[_Asked[W, A]]) -> None:
        """A thread that dies takes nobody's answer with it: not of its group, and not of those who wait."""
        _deliver(group, [_died("unknown") for _ in group])
        self._end(_died)
        if self._refusal is _died:
            while True:
                try:
                    asked = self._queue.get_nowait()
                except Empty:
                    break
                if asked is not None:
                    _deliver([asked], [_died()])
            for _ in self._threads:
                self._queue.put(None)


def tried(call: Callable[[], A]) -> A | BaseException:
    """What a call gives or raises: a thread passes both on."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - raised again where it was asked for
        return error


async def in_thread(call: Callable[[], A]) -> A:
    """The result of a call that blocks, from a thread of its own, which ends with it."""
    crew: Crew[Callable[[], A], A] = Crew("agentkeep-call", 1, lambda calls: [tried(call) for call in calls])
    leave = crew.close
    try:
        return await crew.ask(call)
    except asyncio.CancelledError:
        leave = crew.end
        raise
    finally:
        leave()


class _Asked(Generic[W, A]):
    __slots__ = ("future", "loop", "work")

    def __init__(self, work: W, loop: asyncio.AbstractEventLoop, future: asyncio.Future[A]) -> None:
        self.work = work
        self.loop = loop
        self.future = future


def _deliver(group: Sequence[_Asked[W, A]], answers: Sequence[A | BaseException]) -> None:
    """Wake each event loop once, with all the answers for it."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[A], A | BaseException]]] = {}
    for asked, answer in zip(group, answers, strict=True):
        loops.setdefault(asked.loop, []).append((asked.future, answer))
    for loop, settled in loops.items():
        try:
            loop.call_soon_threadsafe(_settle, settled)
        except RuntimeError:
            pass  # The loop was closed: nobody waits there any more.


def _settle(settled: Sequence[tuple[asyncio.Future[A], A | BaseException]]) -> None:
    for future, answer in settled:
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)


class Turns(Generic[W, A]):
    """Leader and followers: the asking thread runs what waits if nobody does, else waits for its answer or its turn.

    `after` runs while leading, once the others of the group have their answers.
    """

    def __init__(self, run: Run[W, A], after: Callable[[], None] = _nothing, most: int = MOST) -> None:
        self._run = run
        self._after = after
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Turn[W, A]] = deque()
        self._led = False
        self._closed = False

    async def ask(self, work: W) -> A:
        """The answer to a work. Never suspends; blocks the thread."""
        turn = self._queued(work)
        if turn is None:
            answer = self._alone(work)
        else:
            self._wait(turn)
            if not turn.answers:
                self._lead(turn)
            answer = turn.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        """Finish what waits, refuse what comes. Blocks."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if not self._led:
                return
            last: _Turn[W, A] = _Turn(None)
            last.gate.acquire()
            self._waiting.append(last)
        self._wait(last)
        self._pass_on()

    def _queued(self, work: W) -> _Turn[W, A] | None:
        """A turn to wait for while another thread leads; None: this one leads from now on."""
        with self._lock:
            if self._closed:
                raise _closed()
            if not self._led:
                self._led = True
                return None
            turn: _Turn[W, A] = _Turn(work)
            turn.gate.acquire()
            self._waiting.append(turn)
            return turn

    def _alone(self, work: W) -> A | BaseException:
        """Lead when nobody waits."""
        try:
            return self._run((work,))[0]
        finally:
            try:
                self._after()
            finally:
                self._pass_on()

    def _wait(self, turn: _Turn[W, A]) -> None:
        """Until the turn has its answer or leads. An interrupted wait leaves no gap in the queue."""
        try:
            turn.gate.acquire()
        except BaseException:
            with self._lock:
                waits = turn in self._waiting
                if waits:
                    self._waiting.remove(turn)
            if not waits and turn.leads:
                self._pass_on()
            raise

    def _lead(self, turn: _Turn[W, A]) -> None:
        group = [turn]
        try:
            with self._lock:
                while self._waiting and self._waiting[0].work is not None and len(group) < self._most:
                    group.append(self._waiting.popleft())
            answers = self._run([one.work for one in group if one.work is not None])
            for one, answer in zip(group, answers, strict=True):
                one.answers.append(answer)
        finally:
            for one in group:
                if not one.answers:
                    one.answers.append(_died("unknown"))
            for follower in group[1:]:
                follower.gate.release()
            try:
                self._after()
            finally:
                self._pass_on()

    def _pass_on(self) -> None:
        """Let the first who waits lead."""
        with self._lock:
            if not self._waiting:
                self._led = False
                return
            heir = self._waiting.popleft()
            heir.leads = True
        heir.gate.release()


class _Turn(Generic[W, A]):
    """`gate` is held while the thread must wait; `work` is None for the turn that closes."""

    __slots__ = ("answers", "gate", "leads", "work")

    def __init__(self, work: W | None) -> None:
        self.work = work
        self.gate = threading.Lock()
        self.leads = False
        self.answers: list[A | BaseException] = []


def _closed() -> StoreError:
    return Closed("the engine was closed", hint="Open it again.")


def _died(outcome: Outcome = "none") -> StoreError:
    return Unavailable(
        "the thread of the database died",
        hint="Close the store and open it again.",
        outcome=outcome,
        retryable=False,
    )
