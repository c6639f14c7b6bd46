"""Engines on files: a full disk, files that may not be written, files that are damaged or no database at all."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ...errors import StoreError
from ...waist import Append, Engine, Key, Put
from ..checks import check_turns
from ..marks import case, needs
from ..processes import ran
from ..target import Target
from ..tasks import Task
from ..verbs import commit, doc, rows


@case("C9")
@needs(file=True, shared=True, durable=True)
async def test_a_full_disk_is_an_error_of_ours_and_loses_nothing_acknowledged(database: Target) -> None:
    engine = await database.open()
    told = await ran(database.url, [Task("fill", 0, ("p",), 400, until=6_000_000)])
    (full,) = [one for one in told if one.what == "full"]
    assert full.partition in ("Unavailable", "TooLarge", "Denied", "Contention"), full
    acknowledged = sum(one.what == "done" for one in told)
    assert acknowledged > 10
    assert await check_turns(engine, ["p"], told) == acknowledged
    await commit(engine, "q", Append("event", doc(1)))


@case("C9")
@needs(file=True, durable=True)
async def test_what_may_not_be_written_says_so_and_stays_as_it_was(database: Target) -> None:
    """Where the tests run as root, a worker that has dropped its rights does this."""
    engine = await database.open()
    await commit(engine, "p", Put("note", "a", doc(1)), Append("event", doc(1)))
    await engine.close()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "locked"
        _copied(database.path, copy)
        before = _bytes(copy)
        _locked(Path(folder), copy)
        url = database.url.replace(str(database.path), str(copy))
        assert str(copy) in url
        try:
            told = await ran(url, [Task("write", 0, ("p",))])
        finally:
            os.chmod(folder, 0o755)
        (failed,) = [one for one in told if one.what == "failed"]
        assert failed.partition in ("Denied", "Unavailable"), failed
        assert _bytes(copy) == before
    again = await database.open()
    assert len(await rows(again, "event", "p")) == 1


def _copied(source: Path, copy: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)


def _locked(folder: Path, copy: Path) -> None:
    for path in (copy, *(copy.rglob("*") if copy.is_dir() else ())):
        path.chmod(0o555 if path.is_dir() else 0o444)
    folder.chmod(0o555)


def _bytes(path: Path) -> dict[str, bytes]:
    every = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.is_file())
    return {str(one): one.read_bytes() for one in every}


@case("S6")
@needs(file=True)
async def test_no_id_leads_out_of_the_place_of_the_database(database: Target) -> None:
    engine = await database.open()
    around = database.path.parent.parent
    before = {path for path in around.rglob("*") if not str(path).startswith(str(database.path))}
    for text in (
        "../x",
        "../../etc/x",
        "/tmp/x",
        "..\\x",
        "CON",
        "a/../../b",
        "x\x00y",
        ".",
        "..",
        "~/x",
        "%2e%2e%2fx",
    ):
        await commit(engine, text, Put("note", text, doc(text)), Append("event", doc(text)), once=text)
        assert [row.doc for row in await rows(engine, "note", text)] == [doc(text)]
    after = {path for path in around.rglob("*") if not str(path).startswith(str(database.path))}
    assert after == before


@case("C9")
@needs(file=True)
async def test_a_file_that_is_no_database_is_refused_and_left_alone(database: Target) -> None:
    text = b"These are my notes, not a database.\n" * 400
    database.path.parent.mkdir(parents=True, exist_ok=True)
    database.path.write_bytes(text)
    with pytest.raises(StoreError) as caught:
        await database.open()
    assert not caught.value.retryable
    assert database.path.read_bytes() == text


@case("C9")
@needs(file=True)
async def test_a_place_that_cannot_be_a_database_is_an_error_of_ours(database: Target) -> None:
    await database.open()
    wrong = database.fresh()
    wrong.url = database.url.replace(str(database.path), str(database.path / "under" / "a" / "file.db"))
    if database.path.is_file():
        with pytest.raises(StoreError):
            await wrong.open()


@pytest.mark.parametrize("seed", range(6))
@case("C9")
@needs(file=True, durable=True)
async def test_a_damaged_file_gives_rows_or_errors_of_ours_and_nothing_else(database: Target, seed: int) -> None:
    chance = random.Random(seed)
    engine = await database.open()
    known = [f"{number:02}" for number in range(40)]
    for sort in known:
        row = Put("note", sort, doc("x" * 2_000), {"by_text": ("q",)})
        await commit(engine, "p", row, Append("event", doc(sort)))
    await engine.close()
    _damage(database.path, chance)
    asked: tuple[Callable[[Engine], Awaitable[object]], ...] = (
        lambda engine: engine.get([Key("note", "p", sort) for sort in known]),
        lambda engine: rows(engine, "note", "p"),
        lambda engine: rows(engine, "note", "q", index="by_text"),
        lambda engine: rows(engine, "event", "p"),
        lambda engine: engine.dump("note", None, 1000),
        lambda engine: engine.dump("event", None, 1000),
        lambda engine: commit(engine, "p", Append("event", doc(1)), Put("note", "a", doc(1))),
    )
    for ask in asked:
        with suppress(StoreError):
            await ask(await database.open())


def _damage(path: Path, chance: random.Random) -> None:
    every = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    for one in every:
        body = bytearray(one.read_bytes())
        for _ in range(1 + len(body) // 20_000):
            at = chance.randrange(len(body))
            body[at : at + 64] = chance.randbytes(min(64, len(body) - at))
        one.write_bytes(body)
