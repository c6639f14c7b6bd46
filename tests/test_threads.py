"""Group commit by threads: nobody waits for ever, and what comes while one group runs is the next group."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agentkeep.engines import _threads
from agentkeep.engines._threads import Crew, Turns, in_thread
from agentkeep.errors import Closed, Unavailable


class Gate:
    """A run that notes its groups and waits until it is let through."""

    def __init__(self) -> None:
        self.groups: list[list[Any]] = []
        self.entered = threading.Semaphore(0)
        self.through = threading.Semaphore(0)

    def __call__(self, works: Sequence[Any]) -> list[Any]:
        self.groups.append(list(works))
        self.entered.release()
        self.through.acquire(timeout=10)
        return [error if isinstance(error := work, BaseException) else f"did {work}" for work in works]


def drive(coroutine: Any) -> Any:
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it suspended")


class Asker(threading.Thread):
    """A thread that asks, and keeps what it gets."""

    def __init__(self, turns: Turns[Any, Any], work: Any) -> None:
        super().__init__(daemon=True)
        self._turns = turns
        self._work = work
        self.got: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.got = drive(self._turns.ask(self._work))
        except BaseException as error:  # noqa: BLE001 - kept for the test
            self.got = error


def waiting(turns: Turns[Any, Any], count: int) -> None:
    """Until that many wait."""
    until(lambda: len(turns._waiting) == count)


def until(holds: Callable[[], bool]) -> None:
    """Wait on a condition, five seconds at most."""
    pause = threading.Event()
    for _ in range(5_000):
        if holds():
            return
        pause.wait(0.001)
    raise AssertionError("it did not come about")


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive(), "a thread hangs"


def test_the_first_leads_and_the_next_takes_all_who_wait() -> None:
    gate = Gate()
    turns: Turns[int, str] = Turns(gate)
    first = Asker(turns, 1)
    assert gate.entered.acquire(timeout=5)
    rest = []
    for number in (2, 3, 4):
        rest.append(Asker(turns, number))
        waiting(turns, len(rest))
    gate.through.release(2)
    joined(first, *rest)
    assert gate.groups == [[1], [2, 3, 4]]
    assert [asker.got for asker in (first, *rest)] == ["did 1", "did 2", "did 3", "did 4"]


def test_a_group_is_bounded() -> None:
    gate = Gate()
    turns: Turns[int, str] = Turns(gate, most=2)
    askers = [Asker(turns, 0)]
    assert gate.entered.acquire(timeout=5)
    for number in range(1, 6):
        askers.append(Asker(turns, number))
        waiting(turns, number)
    gate.through.release(10)
    joined(*askers)
    assert list(map(len, gate.groups)) == [1, 2, 2, 1]


def test_an_exception_among_the_answers_is_raised_where_it_was_asked_for() -> None:
    gate = Gate()
    gate.through.release(2)
    turns: Turns[Any, Any] = Turns(gate)
    with pytest.raises(ZeroDivisionError):
        drive(turns.ask(ZeroDivisionError()))
    assert drive(turns.ask(1)) == "did 1"


def test_a_leader_that_is_interrupted_leaves_nobody_behind() -> None:
    entered, go = threading.Event(), threading.Event()
    calls: list[Any] = []

    def run(works: Sequence[int]) -> list[str]:
        calls.append(works)
        if len(calls) == 2:
            raise KeyboardInterrupt
        entered.set()
        go.wait(5)
        return [f"did {work}" for work in works]

    turns: Turns[int, str] = Turns(run)
    first = Asker(turns, 1)
    entered.wait(5)
    second = Asker(turns, 2)
    waiting(turns, 1)
    third = Asker(turns, 3)
    waiting(turns, 2)
    go.set()
    joined(first, second, third)
    assert first.got == "did 1"
    assert isinstance(second.got, KeyboardInterrupt)
    assert isinstance(third.got, Unavailable)
    assert third.got.outcome == "unknown"
    assert drive(turns.ask(4)) == "did 4"


@pytest.mark.parametrize("leads", [False, True])
def test_a_waiter_that_is_interrupted_leaves_no_gap(leads: bool) -> None:
    gate = Gate()
    turns: Turns[int, str] = Turns(gate)
    first = Asker(turns, 1)
    assert gate.entered.acquire(timeout=5)

    class Interrupted:
        """A gate whose holder is interrupted, before or after the lead was passed to it."""

        def __init__(self) -> None:
            self.passed = threading.Event()

        def acquire(self) -> None:
            if leads:
                self.passed.wait(5)
            raise KeyboardInterrupt

        def release(self) -> None:
            self.passed.set()

    class Turn(_threads._Turn[int, str]):
        def __init__(self, work: int | None) -> None:
            super().__init__(work)
            self.gate = Interrupted()  # type: ignore[assignment]

    def wait_interrupted() -> BaseException | None:
        turn = Turn(2)
        with turns._lock:
            turns._waiting.append(turn)
        try:
            turns._wait(turn)
        except KeyboardInterrupt as error:
            return error
        return None

    got: list[Any] = []
    second = threading.Thread(target=lambda: got.append(wait_interrupted()), daemon=True)
    second.start()
    if leads:
        waiting(turns, 1)
    else:
        joined(second)
    gate.through.release(2)
    joined(first, second)
    assert isinstance(got[0], KeyboardInterrupt)
    third = Asker(turns, 3)
    joined(third)
    assert third.got == "did 3"
    assert gate.groups == [[1], [3]]


def test_closing_turns_lets_those_finish_who_wait_and_refuses_the_rest() -> None:
    gate = Gate()
    turns: Turns[int, str] = Turns(gate)
    first = Asker(turns, 1)
    assert gate.entered.acquire(timeout=5)
    second = Asker(turns, 2)
    waiting(turns, 1)
    closing = threading.Thread(target=turns.close, daemon=True)
    closing.start()
    waiting(turns, 2)
    with pytest.raises(Closed):
        drive(turns.ask(3))
    assert closing.is_alive()
    gate.through.release(2)
    joined(first, second, closing)
    assert second.got == "did 2"
    turns.close()


def test_what_runs_after_a_group_runs_alone_and_once_they_have_their_answers() -> None:
    busy = threading.Lock()
    seen: list[str] = []

    def run(works: Sequence[int]) -> list[int]:
        assert busy.acquire(blocking=False)
        busy.release()
        return list(works)

    def after() -> None:
        with busy:
            seen.append("after")

    turns: Turns[int, int] = Turns(run, after)
    askers = [Asker(turns, number) for number in range(50)]
    joined(*askers)
    assert [asker.got for asker in askers] == list(range(50))
    assert seen


async def test_a_crew_groups_what_waits_and_answers_each_loop_once() -> None:
    gate = Gate()
    crew: Crew[int, str] = Crew("test", 1, gate)
    tasks = [asyncio.ensure_future(crew.ask(1))]
    await asyncio.sleep(0)
    await asyncio.to_thread(gate.entered.acquire)
    tasks += [asyncio.ensure_future(crew.ask(number)) for number in (2, 3, 4)]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    woken: list[object] = []
    original = loop.call_soon_threadsafe

    def noting(callback: Any, *args: Any, **more: Any) -> Any:
        woken.append(callback)
        return original(callback, *args, **more)

    loop.call_soon_threadsafe = noting  # type: ignore[method-assign]
    gate.through.release(2)
    assert await asyncio.gather(*tasks) == ["did 1", "did 2", "did 3", "did 4"]
    del loop.call_soon_threadsafe
    assert gate.groups == [[1], [2, 3, 4]]
    assert len(woken) == 2
    await asyncio.to_thread(crew.close)


async def test_a_crew_answers_a_loop_that_was_closed_and_goes_on() -> None:
    gate = Gate()
    crew: Crew[int, str] = Crew("test", 1, gate)

    def leave() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(crew.ask(1))
        loop.run_until_complete(asyncio.sleep(0))
        gate.entered.acquire()
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()

    await asyncio.to_thread(leave)
    gate.through.release(2)
    assert await crew.ask(2) == "did 2"
    await asyncio.to_thread(crew.close)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("size", [1, 3])
async def test_a_crew_that_loses_a_thread_tells_all_who_wait_and_all_who_come(size: int) -> None:
    entered = threading.Event()

    def run(works: Sequence[int]) -> list[str]:
        entered.wait(5)
        raise MemoryError

    crew: Crew[int, str] = Crew("test", size, run, most=1)
    tasks = [asyncio.ensure_future(crew.ask(number)) for number in range(20)]
    await asyncio.sleep(0)
    entered.set()
    got = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
    assert {type(one) for one in got} == {Unavailable}
    assert 1 <= [one.outcome for one in got if isinstance(one, Unavailable)].count("unknown") <= size
    with pytest.raises(Unavailable):
        await crew.ask(1)
    await asyncio.wait_for(asyncio.to_thread(crew.close), 5)


async def test_a_crew_has_as_many_threads_as_were_busy_at_once() -> None:
    seen: set[str] = set()
    gate = threading.Semaphore(0)

    def run(works: Sequence[int]) -> list[int]:
        seen.add(f"{threading.get_ident()}")
        gate.acquire(timeout=10)
        return list(works)

    crew: Crew[int, int] = Crew("test", 3, run, most=1)
    gate.release(5)
    assert [await crew.ask(number) for number in range(5)] == [0, 1, 2, 3, 4]
    assert len(seen) == 1
    tasks = [asyncio.ensure_future(crew.ask(number)) for number in range(8)]
    await asyncio.to_thread(until, lambda: len(seen) == 3)
    gate.release(8)
    assert await asyncio.gather(*tasks) == list(range(8))
    assert len(seen) == 3
    await asyncio.to_thread(crew.close)


async def test_a_crew_without_a_thread_says_so_and_one_with_some_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    left = 0

    def limited(thread: threading.Thread) -> None:
        nonlocal left
        if thread.name == "test" and left <= 0:
            raise RuntimeError("can't start new thread")
        left -= thread.name == "test"
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    crew: Crew[int, int] = Crew("test", 3, list, most=1)
    with pytest.raises(Unavailable) as caught:
        await crew.ask(1)
    assert (caught.value.outcome, caught.value.retryable) == ("none", True)
    left = 1
    assert await asyncio.wait_for(asyncio.gather(*(crew.ask(number) for number in range(9))), 5) == list(range(9))
    await asyncio.to_thread(crew.close)


async def test_a_call_in_a_thread_gives_its_result_or_its_error_and_leaves_no_thread() -> None:
    before = threading.active_count()
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)
    assert threading.active_count() == before
    go = threading.Event()
    task = asyncio.ensure_future(in_thread(lambda: go.wait(5)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert threading.active_count() == before + 1
    go.set()
    until(lambda: threading.active_count() == before)
