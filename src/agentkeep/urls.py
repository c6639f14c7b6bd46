"""From a URL to an engine: schemes, options, entry points, install hints."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from .errors import Invalid, MissingExtra
from .ids import Clock, system_clock
from .waist import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

GROUP = "agentkeep.engines"
"""The entry point group of third-party engines: scheme = "package.module"."""

_BUILTIN: Mapping[str, tuple[str, str]] = {
    "memory": ("agentkeep.engines.memory", ""),
    "sqlite": ("agentkeep.engines.sqlite", ""),
    "postgresql": ("agentkeep.engines.postgres", "postgres"),
    "postgres": ("agentkeep.engines.postgres", "postgres"),
}
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class Url(NamedTuple):
    """A database URL in parts. Its text, and so every message and log line, has the password masked."""

    scheme: str
    user: str | None
    password: str | None
    host: str | None
    port: int | None
    path: str
    options: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        login = "" if self.user is None else f"{self.user}{':***' if self.password is not None else ''}@"
        port = "" if self.port is None else f":{self.port}"
        asked = "&".join(f"{name}={'***' if _secret(name) else value}" for name, value in self.options)
        return f"{self.scheme}://{login}{self.host or ''}{port}{self.path}{'?' if asked else ''}{asked}"

    __repr__ = __str__


class EngineModule(Protocol):
    """What a module of an engine offers: its options as a Struct, and how to build it. Building does no I/O."""

    Options: type[msgspec.Struct]

    def from_url(self, url: Url, options: Any, clock: Clock, inline: bool) -> Engine:
        """The engine for a URL whose options were checked.

        `inline`: the caller drives coroutines by hand in its own threads (the sync API). An engine that can do
        so then never suspends, and says it in `capabilities.inline`; the others ignore it.
        """
        ...


def parse(text: str) -> Url:
    """A URL in parts. What has no scheme is the path of a SQLite file. Raises Invalid."""
    found = _SCHEME.match(text)
    if found is None:
        path, _, query = text.partition("?")
        if not path:
            raise Invalid("an empty path is no database", operation="open", hint='Pass a URL or a path: "agents.db".')
        return Url("sqlite", None, None, None, None, "/" + path, _query(query))
    scheme = found[1].lower()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise Invalid(f"the {scheme} URL does not parse", operation="open", hint="Check its host and port.") from error
    user, password = (None if part is None else unquote(part) for part in (parts.username, parts.password))
    return Url(scheme, user, password, parts.hostname, port, unquote(parts.path), _query(parts.query))


def engine(text: str | Url, clock: Clock = system_clock, *, inline: bool = False) -> Engine:
    """The engine for a URL, not yet opened. `inline`: see `EngineModule.from_url`.

    Raises Invalid for an unknown scheme or option (naming the nearest), MissingExtra for a missing driver.
    """
    url = parse(text) if isinstance(text, str) else text
    module = _module(url.scheme)
    return module.from_url(url, options(url, module.Options), clock, inline)


def options(url: Url, known: type[msgspec.Struct]) -> msgspec.Struct:
    """The options of a URL as a Struct. Raises Invalid, naming the nearest option or the values there are."""
    given: dict[str, str] = {}
    for name, value in url.options:
        if name not in known.__struct_fields__:
            near = get_close_matches(name, known.__struct_fields__, 1, 0.4)
            every = ", ".join(known.__struct_fields__) or "no options"
            hint = f"Did you mean {near[0]!r}?" if near else f"There is: {every}."
            raise Invalid(f"{url.scheme} URLs have no option {name!r}", operation="open", hint=hint)
        if name in given:
            raise Invalid(f"the option {name!r} is given twice", operation="open")
        given[name] = value
    try:
        return msgspec.convert(given, known, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"an option of the {url.scheme} URL is wrong: {error}", operation="open") from None


def schemes() -> list[str]:
    """Every scheme that can be opened here, third-party ones included."""
    return sorted({*_BUILTIN, *_entry_points().names})


def _module(scheme: str) -> EngineModule:
    if scheme in _BUILTIN:
        name, extra = _BUILTIN[scheme]
        try:
            return cast(EngineModule, import_module(name))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("agentkeep"):
                raise
            raise MissingExtra(f"{scheme}://", extra) from error
    for point in _entry_points().select(name=scheme):
        return cast(EngineModule, point.load())
    near = get_close_matches(scheme, schemes(), 1, 0.5)
    hint = f"Did you mean {near[0]}://?" if near else f"There is: {', '.join(schemes())}."
    raise Invalid(f"no engine opens {scheme}:// URLs", operation="open", hint=hint)


def _entry_points() -> EntryPoints:
    from importlib.metadata import entry_points  # slow to import, and needed by third-party schemes alone

    return entry_points(group=GROUP)


def _query(text: str) -> tuple[tuple[str, str], ...]:
    return tuple(parse_qsl(text, keep_blank_values=True))


def _secret(name: str) -> bool:
    return any(word in name.lower() for word in ("password", "secret", "token", "key"))
