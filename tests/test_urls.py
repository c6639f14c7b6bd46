"""URLs: what users guess works, a mistake names the nearest right word, and no secret is ever shown."""

from __future__ import annotations

from importlib.metadata import EntryPoint, EntryPoints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentkeep import urls
from agentkeep.engines.memory import Memory
from agentkeep.errors import Invalid, MissingExtra
from agentkeep.urls import engine, options, parse, schemes


class Options(msgspec.Struct, frozen=True):
    pool_size: int = 5
    timeout: float = 1.0
    schema: str = ""
    readonly: bool = False


@pytest.mark.parametrize(
    ("text", "scheme", "host", "port", "path"),
    [
        ("memory://", "memory", None, None, ""),
        ("agents.db", "sqlite", None, None, "/agents.db"),
        ("/data/agents.db", "sqlite", None, None, "//data/agents.db"),
        ("sqlite:///agents.db", "sqlite", None, None, "/agents.db"),
        ("sqlite:////data/agents.db", "sqlite", None, None, "//data/agents.db"),
        ("postgresql://localhost/agents", "postgresql", "localhost", None, "/agents"),
        ("PostgreSQL://h:5433/agents", "postgresql", "h", 5433, "/agents"),
        ("postgres://[::1]:5432/a", "postgres", "::1", 5432, "/a"),
        ("postgresql://h/a%20b", "postgresql", "h", None, "/a b"),
    ],
)
def test_parts(text: str, scheme: str, host: str | None, port: int | None, path: str):
    url = parse(text)
    assert (url.scheme, url.host, url.port, url.path) == (scheme, host, port, path)


def test_user_and_password_are_unquoted():
    url = parse("postgresql://a%40b:p%3Aw%2F@h/d")
    assert (url.user, url.password) == ("a@b", "p:w/")


@pytest.mark.parametrize("wrong", ["", "postgresql://h:port/d", "postgresql://[::1/d", "postgresql://h:99999/d"])
def test_what_does_not_parse_is_invalid(wrong: str):
    with pytest.raises(Invalid):
        parse(wrong)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:canary@host:5432/db",
        "postgresql://user:canary@host/db?password=canary",
        "postgresql://host/db?sslpassword=canary&api_key=canary&Token=canary&client_secret=canary",
        "postgresql://user:can%61ry@host/db",
        "postgresql://:canary@host/db",
    ],
)
@pytest.mark.case("S10")
def test_secrets_are_masked_wherever_a_url_is_shown(text: str):
    url = parse(text)
    for shown in (str(url), repr(url), f"{url}", f"{url!r}", f"{[url]}"):
        assert "canary" not in shown
        assert "***" in shown


@pytest.mark.case("S10")
def test_the_error_of_a_url_that_does_not_parse_shows_no_secret():
    for wrong in ("postgresql://user:canary@host:port/db", "postgresql://user:canary@[::1/db"):
        with pytest.raises(Invalid) as caught:
            parse(wrong)
        told: BaseException | None = caught.value
        while told is not None:
            assert "canary" not in f"{told} {told!r}"
            told = told.__cause__


@given(st.text(max_size=30))
def test_any_text_parses_or_is_invalid(text: str):
    for one in (text, f"postgresql://{text}", f"sqlite:///{text}", f"x{text}://{text}"):
        try:
            parse(one)
        except Invalid:
            continue


def test_options_are_converted():
    url = parse("x://h/d?pool_size=7&timeout=2.5&readonly=true&schema=s")
    assert options(url, Options) == Options(7, 2.5, "s", True)
    assert options(parse("x://h"), Options) == Options()


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("pool_sze=7", "pool_size"),
        ("poolsize=7", "pool_size"),
        ("time_out=7", "timeout"),
        ("zzzzzz=7", "pool_size, timeout, schema, readonly"),
        ("pool_size=many", "pool_size"),
        ("readonly=perhaps", "readonly"),
        ("schema=a&schema=b", "twice"),
    ],
)
def test_a_wrong_option_names_the_nearest(query: str, told: str):
    with pytest.raises(Invalid, match=told):
        options(parse(f"x://h/d?{query}"), Options)


def test_an_engine_without_options_says_so():
    with pytest.raises(Invalid, match="no options"):
        engine("memory://?pool_size=5")


def test_an_unknown_scheme_names_the_nearest():
    for wrong, near in (("sqlit://", "sqlite"), ("postgre://", "postgres"), ("memry://", "memory")):
        with pytest.raises(Invalid, match=near):
            engine(f"{wrong}x")
    with pytest.raises(Invalid) as caught:
        engine("qqqq://x")
    assert all(scheme in str(caught.value) for scheme in schemes())


def test_a_missing_driver_gives_the_install_command(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(urls._BUILTIN, "fake", ("a_driver_that_is_not_there", "fake"))  # type: ignore[index]
    with pytest.raises(MissingExtra) as caught:
        engine("fake://x")
    assert caught.value.extra == "fake"
    assert "pip install 'agentkeep[fake]'" in str(caught.value)


def test_a_broken_module_of_ours_is_not_taken_for_a_missing_driver(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(urls._BUILTIN, "fake", ("agentkeep.engines.not_there", "fake"))  # type: ignore[index]
    with pytest.raises(ModuleNotFoundError):
        engine("fake://x")


def test_an_entry_point_brings_a_third_party_engine(monkeypatch: pytest.MonkeyPatch):
    point = EntryPoint("theirs", "agentkeep.engines.memory", urls.GROUP)
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: EntryPoints([point] if group == urls.GROUP else [])
    )
    assert isinstance(engine("theirs://"), Memory)
    assert "theirs" in schemes()
    with pytest.raises(Invalid, match="theirs"):
        engine("thers://")


def test_building_an_engine_does_no_io():
    first, second = engine("memory://"), engine(parse("memory://"))
    assert isinstance(first, Memory)
    assert isinstance(second, Memory)
    assert first is not second
