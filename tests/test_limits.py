"""The limits layer over an engine that must not see what it refuses, and must see the rest unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pytest

from agentkeep.engines.memory import Memory
from agentkeep.errors import Invalid, Key, TooLarge
from agentkeep.layers.limits import MAX_BUDGET, MAX_LIMIT, Limits
from agentkeep.testing.schema import SCHEMA
from agentkeep.testing.verbs import batch, doc
from agentkeep.waist import Append, Batch, Put, Receipt, Scan


class Watched(Memory):
    """A memory engine that remembers the calls that reached it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    async def commit(self, batches: Sequence[Batch], *, restore: bool = False) -> Any:
        """See the batches."""
        self.seen.append((list(batches), restore))
        return await super().commit(batches, restore=restore)

    async def get(self, keys: Sequence[Key]) -> Any:
        """See the keys."""
        self.seen.append(list(keys))
        return await super().get(keys)

    async def scan(self, scan: Scan) -> Any:
        """See the scan."""
        self.seen.append(scan)
        return await super().scan(scan)

    async def dump(
        self, kind: str, after: str | None, limit: int, *, lo: str | None = None, hi: str | None = None
    ) -> Any:
        """See the dump."""
        self.seen.append((kind, after, limit, lo, hi))
        return await super().dump(kind, after, limit, lo=lo, hi=hi)


@pytest.fixture
async def pair() -> tuple[Limits, Watched]:
    inner = Watched()
    layer = Limits(inner)
    await layer.open(SCHEMA)
    return layer, inner


async def test_what_is_well_formed_goes_through_unchanged(pair: tuple[Limits, Watched]):
    layer, inner = pair
    one = batch("p", Append("event", doc(1)), once="k")
    scan = Scan("event", prefix=("p",), limit=MAX_LIMIT, budget=MAX_BUDGET)
    await layer.commit([one])
    await layer.commit([one], restore=True)
    await layer.get([Key("event", "p", "")])
    await layer.scan(scan)
    await layer.dump("event", None, 5)
    await layer.dump("event", None, 5, lo="a", hi="b")
    dumps = [("event", None, 5, None, None), ("event", None, 5, "a", "b")]
    assert inner.seen == [([one], False), ([one], True), [Key("event", "p", "")], scan, *dumps]
    assert layer.capabilities is inner.capabilities


async def test_only_the_good_batches_reach_the_engine_and_answers_keep_their_places(pair: tuple[Limits, Watched]):
    layer, inner = pair
    good = [batch("p", Append("event", doc(n))) for n in range(3)]
    bad = [batch("p"), batch("p", Append("note", b"")), batch("x" * 600, Append("event", b""))]
    mixed = [bad[0], good[0], bad[1], good[1], good[2], bad[2]]
    answers = await layer.commit(mixed)
    assert inner.seen == [(good, False)]
    assert [type(answer).__name__ for answer in answers] == [
        "Invalid",
        "Receipt",
        "Invalid",
        "Receipt",
        "Receipt",
        "TooLarge",
    ]
    assert [answer.seqs for answer in answers if isinstance(answer, Receipt)] == [(1,), (2,), (3,)]


async def test_where_nothing_is_left_the_engine_is_not_asked(pair: tuple[Limits, Watched]):
    layer, inner = pair
    await layer.commit([batch("p"), batch("p")])
    await layer.get([])
    for wrong in (
        layer.get([Key("nope", "p", "a")]),
        layer.scan(Scan("note", "nope", ("q",))),
        layer.scan(Scan("note", limit=MAX_LIMIT + 1)),
        layer.scan(Scan("note", budget=MAX_BUDGET + 1)),
        layer.dump("nope", None, 1),
        layer.dump("note", None, 0),
        layer.dump("note", None, 1, lo=cast(Any, 1)),
    ):
        with pytest.raises(Invalid):
            await wrong
    assert inner.seen == []


@pytest.mark.parametrize(
    "index",
    [
        {"nope": ("q",)},
        {"by_pair": ("q",)},
        {"by_pair": ("q", 1, 2)},
        {"by_pair": (1, "q")},
        {"by_pair": ("q", True)},
        {"by_pair": ("q", 1.0)},
        {"by_real": ("q", 1)},
        {"by_real": ("q", float("nan"))},
        {"by_text": (None,)},
        {"by_all": ("q", 1, 1, "x")},
    ],
)
async def test_index_values_have_the_types_of_their_index(pair: tuple[Limits, Watched], index: Any):
    layer, inner = pair
    (answer,) = await layer.commit([batch("p", Put("note", "a", doc(1), index))])
    assert isinstance(answer, Invalid)
    assert answer.operation == "commit"
    assert inner.seen == []


@pytest.mark.case("S10")
async def test_an_error_shows_no_document_and_no_facet(pair: tuple[Limits, Watched]):
    layer, _ = pair
    told = await layer.commit(
        [
            batch("p", Put("note", "a", b"canary" * 60_000)),
            batch("p", Put("note", "a", b"", {}, {"x": "canary" * 1_000})),
            batch("p", Put("note", "a", b"", {"by_text": ("canary" * 100,)})),
        ]
    )
    assert all(isinstance(one, TooLarge) for one in told)
    assert all("canary" not in f"{one} {one!r}" for one in told)
