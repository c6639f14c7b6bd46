"""Documents come back as they were given: hostile text, numbers of any size, and what an attacker would write."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from ...codec import check, decode, encode
from ...errors import Corrupt, Invalid
from ...waist import Append, Engine, Put
from ..fixtures import Names
from ..marks import case
from ..values import DOCUMENTS
from ..verbs import commit, numbers, read, rows

PICKLE = b"\x80\x04\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x02id\x94\x85\x94R\x94."
MSGPACK = b"\xc7\x10\x05\x93\xa2os\xa6system\xa4true"


def _same(found: object, given: object) -> None:
    """Equal in type too, down to every leaf, and -0.0 is not 0.0."""
    assert repr(found) == repr(given)


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
@case("F1", "F2", "F4")
async def test_a_document_comes_back_as_it_was_given(engine: Engine, name: Names, number: int) -> None:
    given: Any = DOCUMENTS[number]
    check(given, "document")
    await commit(engine, name("p"), Append("event", encode(given)), Put("note", "a", encode(given)))
    await commit(engine, name("p"), Append("event", encode("after")))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    _same(decode(row.doc, object), given)
    found = [decode(row.doc, object) for row in await rows(engine, "event", name("p"))]
    _same(found, [given, "after"])


@case("F3")
async def test_what_json_cannot_hold_is_refused_by_path_and_its_siblings_are_written(
    engine: Engine, name: Names
) -> None:
    for wrong in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(Invalid, match=r"metadata\.scores\[1\]"):
            check({"scores": [1.0, wrong]}, "metadata")
    await commit(engine, name("p"), Append("event", encode({"scores": [1.0]})))
    assert await numbers(engine, "event", name("p")) == [1]


@pytest.mark.parametrize("body", [PICKLE, MSGPACK, b"", b"\x00", b"\x80\x04.", b'{"lc":1}', b"\x09" * 40])
@case("S1", "C9")
async def test_what_an_attacker_stored_is_corrupt_and_never_run(engine: Engine, name: Names, body: bytes) -> None:
    await commit(
        engine, name("p"), Append("event", encode("before")), Append("event", body), Append("event", encode("after"))
    )
    before = set(sys.modules)
    found = await rows(engine, "event", name("p"))
    with pytest.raises(Corrupt) as caught:
        decode(found[1].doc, dict[str, object], found[1].key)
    assert caught.value.key == found[1].key
    assert set(sys.modules) == before
    assert [decode(found[at].doc, str) for at in (0, 2)] == ["before", "after"], "one bad row does not hide the others"


@case("S1")
async def test_documents_that_name_classes_are_inert(engine: Engine, name: Names) -> None:
    given = {
        "lc": 1,
        "type": "constructor",
        "id": ["os", "system"],
        "kwargs": {"command": "true"},
        "__reduce__": ["os"],
    }
    await commit(engine, name("p"), Put("note", "a", encode(given)))
    row = await read(engine, "note", name("p"), "a")
    assert row is not None
    _same(decode(row.doc, object), given)
