"""The support case: one person on three channels, three agents, and what they say and do, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

PERSON = "alice"
FIRST = "triage"
TITLE = "Order 7714 has not arrived"


class Say(Struct, frozen=True):
    """Someone speaks: the person, or an agent."""

    who: str
    channel: str
    text: str


class Use(Struct, frozen=True):
    """The active agent calls a tool."""

    call: str
    tool: str
    arguments: Mapping[str, Any]


class Get(Struct, frozen=True):
    """The tool gives its result."""

    call: str
    output: Mapping[str, Any]


class Pass(Struct, frozen=True):
    """The active agent hands the conversation to another one."""

    to: str
    reason: str
    phase: str


class Note(Struct, frozen=True):
    """What the agents must remember goes into the state."""

    data: Mapping[str, Any]


Step = Say | Use | Get | Pass | Note

REFUND = "call-refund"
"""The tool call in the middle of which the first process is killed."""

STORY: tuple[Step, ...] = (
    Say(PERSON, "sms", "Hi! Order 7714 should have come on Monday and it is a birthday present. Where is it?"),
    Say("triage", "sms", "Sorry about that, Alice. Our shipping desk can see the parcel, I am passing you on."),
    Pass("shipping", "late parcel, order 7714", "tracking"),
    Use("call-track", "track_parcel", {"order": "7714"}),
    Get("call-track", {"status": "damaged", "place": "depot Lyon", "returns_on": "Thursday"}),
    Say(
        "shipping",
        "sms",
        "Found it: it was damaged at the depot in Lyon and is coming back to us. A new one, or a refund?",
    ),
    Note({"order": "7714", "parcel": "damaged, returns on Thursday"}),
    Say(PERSON, "email", "Answering by mail, I am at work. The birthday is tomorrow, so please just refund me. Alice"),
    Pass("billing", "wants a refund, not a new parcel", "refunding"),
    Use("call-payment", "find_payment", {"order": "7714"}),
    Get("call-payment", {"payment": "pay_2093", "amount": "49.90 EUR", "card": "ends in 4242"}),
    Use(REFUND, "refund", {"payment": "pay_2093", "amount": "49.90 EUR"}),
    Get(REFUND, {"refund": "re_551", "status": "done"}),
    Note({"refund": "re_551, 49.90 EUR"}),
    Say("billing", "email", "Done: 49.90 EUR go back to the card that ends in 4242, reference re_551."),
    Say(PERSON, "web", "I see it in my account, thank you! Do I have to do anything when the parcel is back?"),
    Pass("shipping", "question about the return", "returning"),
    Say("shipping", "web", "Nothing at all. It is back on Thursday, and I close the return for you then."),
    Say(PERSON, "web", "Perfect. Happy birthday to my sister after all!"),
    Pass("triage", "solved", "solved"),
)


def key(number: int) -> str:
    """The idempotency key of a step: the same in every process that tells the story."""
    return f"step-{number + 1}"
