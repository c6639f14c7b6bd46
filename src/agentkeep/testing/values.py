"""Values that storage layers of this field have lost, merged or executed: strings, numbers, keys, query syntax."""

from __future__ import annotations

from typing import Any

STRINGS: tuple[str, ...] = (
    "",
    "\x00",
    "\x00\x00",
    "a",
    "a\x00",
    "a\x00b",
    "a\x01",
    "a\x01b",
    "a\x02",
    "\x01",
    "\x02",
    "\x02\x03",
    "\x02\x05",
    "\\u0000",
    "A",
    "a ",
    " a",
    "a\t",
    "a\n",
    "a\u0301",
    "á",
    "ä",
    "ß",
    "ss",
    "ı",
    "I",
    "K",  # KELVIN SIGN, which folds to k
    "k",
    "\u200b",
    "\u2028",
    "\ud7ff",
    "\ud7ff\x03",
    "\ud7ff\u0803",
    "\ud800",
    "\udbff",
    "\udc00",
    "\udfff",
    "\ud800a",
    "a\udfff",
    "\udc00\ud800",
    "\ue000",
    "\ufeff",
    "\uffff",
    "\U00010000",
    "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0010ffff",
    "~",
    "\x7f",
    "\x80",
)
"""Strings that are all different, whatever a collation says; their order is that of code points."""

SEPARATED: tuple[tuple[str, str], ...] = tuple(
    pair
    for mark in ":#/.|_%\\\x00\x01\x1f-"
    for pair in (
        (f"a{mark}b", "c"), ("a", f"b{mark}c"), (f"a{mark}", "bc"), ("a", f"{mark}bc"), (mark, ""), ("", mark),
    )
)  # fmt: skip
"""Pairs that become one string where ids are joined by a separator."""

SYNTAX: tuple[str, ...] = (
    "' OR '1'='1",
    "'; DROP TABLE note; --",
    '"; DROP TABLE note; --',
    "') OR 1=1 --",
    'x"."y',
    "$.type",
    "$[*]",
    "$where",
    "$ne",
    '{"$ne": null}',
    "{}",
    "a.b",
    'a"b',
    "a\\b",
    "a'b",
    "a]b",
    "%",
    "_",
    "%%",
    "*",
    "?",
    "NEAR",
    "a OR b",
    "-a",
    "(",
    ":1",
    "$1",
    "?1",
    "@x",
    "{{x}}",
    "%s",
    "%(x)s",
    "\x00",
    "a\x00b",
    "\ud800",
    "a\udfffb",
    "\\u0000",
    "type') IS NOT NULL OR 1=1 --",
    "#>>'{type}'",
    "; SELECT pg_sleep(9)",
    "__proto__",
    "__class__",
)
"""User text that is query syntax somewhere. As a key or as a value it is only itself."""

INTEGERS: tuple[int, ...] = (0, 1, -1, 7, 2**31, -(2**31) - 1, 2**53 - 1, 2**53, -(2**53))
"""What an indexed integer may be."""

HUGE: tuple[int, ...] = (2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64 + 7, 10**30, 10**400)
"""What only free data may be."""

FLOATS: tuple[float, ...] = (
    0.0, 5e-324, -5e-324, 0.1, -0.1, 1.0, -1.0, 1.5, 1e16, 1e300, -1e300, 1.7976931348623157e308, 2.0**53, 2.0**53 + 2,
)  # fmt: skip
"""Finite numbers, no two equal."""

DOCUMENTS: tuple[Any, ...] = (
    {"text": "a\x00b", "a\x00key": {"\x00": "\x00"}},
    {"text": "literal \\u0000 and \\x00 stay"},
    {"text": "\ud800 high, \udc00 low, \udc00\ud800 swapped", "\udfff": ["\ud83d", "\ude00"]},
    {"text": "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2028 \u2029 \ufeff \u200b"},
    {"numbers": [2**53 + 1, 2**63, -(2**63) - 1, 10**400, 1, 1.0, 0.0, 5e-324, 1e300, 1.7976931348623157e308]},
    {"": {"": [[""], {"": 0}, None, True, False, "", 0]}},
    {"__proto__": 1, "$where": "1", "a.b": 2, "$ne": None, "lc": 1, "__reduce__": ["os.system", ["true"]]},
    [None, True, False, "x", [1, [2, [3]]]],
    "just text",
    12,
    None,
)
"""Documents that come back as they are, type for type."""
