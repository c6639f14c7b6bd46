"""Records: a frozen Struct declared with where it lives, how it is found, and what filters may ask of it.

    @record("job", partition="id", indexes={"due": ("queue", "run_us")}, facets=("status", "metadata.*"))
    class Job(Struct, frozen=True, kw_only=True):
        id: str
        queue: str
        run_us: int | None = None
        status: str = "pending"
        metadata: dict[str, Any] = {}

A row is in an index iff none of the index's fields is None. Facets are fields, or all paths below a dict field.
Times are integer microseconds since 1970, in fields whose names end in `_us`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    NamedTuple,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from . import codec
from .errors import Corrupt, Invalid, Key
from .predicates import Facet
from .waist import ROW_COLUMNS, Append, Column, Expect, Facets, Index, IndexSpec, KindSpec, Put, Row, Scalar, ScalarType

T = TypeVar("T")

Upcast = Callable[[dict[str, Any]], dict[str, Any]]
"""Turns the document of one version into that of the next."""

VERSION = "$v"
"""The document's first field holds its record's version, where that is not 1."""

_MARKED = b'{"$v":'


class Stored(NamedTuple, Generic[T]):
    """A record as it was read: its value and the rev to compare and set against."""

    value: T
    rev: str


class Record(msgspec.Struct, Generic[T], frozen=True):
    """What the decorator knows of a record type."""

    type: type[T]
    spec: KindSpec
    partition: str
    sort: str | None
    log: str | None
    expires: str | None
    facets: tuple[str, ...]
    deep: tuple[str, ...]
    free: tuple[str, ...]
    version: int
    upcasts: Mapping[int, Upcast]
    names: frozenset[str]
    within: str | None

    NONE: ClassVar[Index] = {}

    # --- writing ---

    def encode(self, value: T, keep: Mapping[str, Any] | None = None) -> bytes:
        """The document of a value. `keep` are fields of the stored document that this version does not know."""
        for name in self.free:
            codec.check(getattr(value, name), name)
        if not keep and self.version == 1 and (doc := codec.faithful(value, self.type)) is not None:
            return doc
        try:
            if not keep and self.version == 1:
                doc = codec.encode(value)
            else:
                mark = {VERSION: self.version} if self.version > 1 else {}
                doc = codec.encode({**mark, **(keep or {}), **msgspec.to_builtins(value)})
        except TypeError as error:
            raise Invalid(f"a {self.spec.name} cannot be kept: {error}") from None
        self._verify(value, doc)
        return doc

    def _verify(self, value: T, doc: bytes) -> None:
        """Refuse what would not be read as it is given: a field of another type, a number that JSON does not have."""
        try:
            read = codec.decode(doc, self.type)
        except Corrupt as error:
            raise Invalid(f"a {self.spec.name} cannot be kept: {error.message}") from None
        if read != value:
            path = _difference(value, read, self.spec.name)
            raise Invalid(f"{path} would not be read as it is given", hint="JSON has no NaN, and lists for tuples.")

    def key(self, value: T) -> Key:
        """Where a value lives; the sort key of a log row is known only once it is appended."""
        sort = "" if self.sort is None else cast(str, getattr(value, self.sort))
        return Key(self.spec.name, cast(str, getattr(value, self.partition)), sort)

    def put(
        self, value: T, expect: Expect = "any", *, keep: Mapping[str, Any] | None = None, sort: str | None = None
    ) -> Put:
        """The operation that writes a value; `sort` is given for the edit of a log row."""
        place = self.key(value).sort if sort is None else sort
        return Put(
            self.spec.name,
            place,
            self.encode(value, keep),
            self.index(value),
            self.facet_values(value),
            self._expires(value),
            expect,
        )

    def append(self, value: T, *, after: int | None = None, expect: Literal["any", "exists"] = "any") -> Append:
        """The operation that appends a value to its log."""
        return Append(
            self.spec.name,
            self.encode(value),
            self.index(value) if self.spec.indexes else self.NONE,
            self.facet_values(value),
            self._expires(value),
            after,
            expect,
        )

    def index(self, value: T) -> Index:
        """The index values of a value."""
        found: dict[str, tuple[Scalar, ...]] = {}
        for index in self.spec.indexes:
            values = tuple([getattr(value, field) for field in index.fields])
            if None not in values:
                found[index.name] = values
        return found

    def facet_values(self, value: T) -> Facets:
        """The facets of a value: scalars, and lists of scalars, that are not None."""
        found: dict[str, Facet] = {}
        for name in self.facets:
            one = getattr(value, name)
            if type(one) is str:
                found[name] = one
            elif one is not None:
                found[name] = tuple(cast("list[str]", one)) if isinstance(one, (list, tuple)) else one
        for name in self.deep:
            below = getattr(value, name)
            if below:
                _flatten(found, name, below, 1)
        return found

    def _expires(self, value: T) -> int | None:
        return None if self.expires is None else getattr(value, self.expires)

    # --- reading ---

    def decode(self, row: Row) -> T:
        """The value of a row. Raises Corrupt, with the key."""
        return self.decoder()(row)

    def decoder(self) -> Callable[[Row], T]:
        """`decode`, for those who read many."""
        decode, log, plain = codec.decoder(self.type), self.log, self.version == 1
        number = msgspec.structs.force_setattr

        def decode_row(row: Row) -> T:
            doc = row.doc
            if plain and not doc.startswith(_MARKED, codec.HEADER):
                value: T = decode(doc, row.key)
            else:
                value = self._convert(self._current(row), row)
            if log is not None:
                number(cast(msgspec.Struct, value), log, int(row.key.sort))
            return value

        return decode_row

    def unknown(self, row: Row) -> dict[str, Any]:
        """The fields of a stored document that this version of the record does not know."""
        return {name: value for name, value in self._current(row).items() if name not in self.names}

    def _current(self, row: Row) -> dict[str, Any]:
        """The stored document, brought to this version."""
        data = codec.decode(row.doc, dict[str, Any], row.key)
        version = data.pop(VERSION, 1)
        if type(version) is not int or not 1 <= version <= self.version:
            raise Corrupt(
                f"the document has version {version} of {self.spec.name!r}, this agentkeep knows {self.version}",
                key=row.key,
                hint="Upgrade agentkeep.",
            )
        for step in range(version, self.version):
            data = self.upcasts[step](data)
        return data

    def _convert(self, data: dict[str, Any], row: Row) -> T:
        try:
            return msgspec.convert(data, self.type)
        except msgspec.ValidationError as error:
            raise Corrupt(f"the upcast document does not fit: {error}", key=row.key) from None


def record(
    kind: str,
    *,
    partition: str,
    sort: str | None = None,
    log: str | None = None,
    indexes: Mapping[str, Sequence[str]] | None = None,
    facets: Sequence[str] = (),
    listed: bool = False,
    expires: str | None = None,
    version: int = 1,
    upcasts: Mapping[int, Upcast] | None = None,
    within: str | None = None,
) -> Callable[[type[T]], type[T]]:
    """Declare a Struct as a record. Raises TypeError, at import time, for a declaration that cannot work.

    `partition` and `sort` name str fields; `log` names the int field that receives the number of the row.
    `listed`: it is listed across partitions by its facets. `expires` names a field in microseconds. `upcasts[n]`
    makes version n+1 of a document from version n. `within` names the kind in whose rows' partitions these rows live:
    they are deleted with it. A facet may be a property: what filters ask, made of the fields.
    """

    def declare(cls: type[T]) -> type[T]:
        hints = get_type_hints(cls)
        upcast = dict(upcasts or {})
        if sorted(upcast) != list(range(1, version)):
            raise TypeError(f"{cls.__name__}: version {version} needs one upcast from each version before it")
        wanted = [partition, *(name for name in (sort, log, expires) if name), *(f.removesuffix(".*") for f in facets)]
        for field in (*wanted, *(field for fields in (indexes or {}).values() for field in fields)):
            if field not in hints and not isinstance(getattr(cls, field, None), property):
                raise TypeError(f"{cls.__name__} has no field {field!r}")
        specs = tuple(
            IndexSpec(name, tuple(fields), tuple(_scalar(cls, field, hints[field]) for field in fields))
            for name, fields in (indexes or {}).items()
        )
        spec = KindSpec(kind, log is not None, specs, listed, _columns(hints))
        fields = msgspec.structs.fields(cast("type[msgspec.Struct]", cls))
        made = Record(
            type=cls,
            spec=spec,
            partition=partition,
            sort=sort,
            log=log,
            expires=expires,
            facets=tuple(name for name in facets if not name.endswith(".*")),
            deep=tuple(name.removesuffix(".*") for name in facets if name.endswith(".*")),
            free=tuple(name for name, hint in hints.items() if _is_free(hint)),
            version=version,
            upcasts=upcast,
            names=frozenset(field.encode_name for field in fields),
            within=within,
        )
        cls.__record__ = made  # type: ignore[attr-defined]
        return cls

    return declare


def record_of(cls: type[T]) -> Record[T]:
    """The declaration of a record type. Raises Invalid for another type."""
    found = cls.__dict__.get("__record__")
    if found is None:
        raise Invalid(f"{cls.__name__} is not a record", hint="Decorate it with @record(...).")
    return cast("Record[T]", found)


def _flatten(found: dict[str, Facet], path: str, value: dict[str, object], depth: int) -> None:
    """The facets below a dict: its scalars, its lists of scalars, and those of the dicts in it, by dotted path."""
    for name, item in value.items():
        below = f"{path}.{name}"
        if isinstance(item, (str, int, float)):
            _add(found, below, item)
        elif isinstance(item, (list, tuple)):
            items = tuple([one for one in cast("list[object]", item) if isinstance(one, (str, int, float))])
            if items:
                _add(found, below, items)
        elif isinstance(item, dict) and depth < codec.MAX_DEPTH:
            _flatten(found, below, cast("dict[str, object]", item), depth + 1)


def _add(found: dict[str, Facet], path: str, facet: Facet) -> None:
    """Note a facet under a path, which {"a.b": 1} and {"a": {"b": 1}} share."""
    there = found.get(path)
    found[path] = facet if there is None else (*_several(there), *_several(facet))


def _several(facet: Facet) -> tuple[Scalar, ...]:
    return facet if isinstance(facet, tuple) else (facet,)


def _difference(given: object, read: object, path: str) -> str:
    """The path of the first part that differs."""
    parts: list[tuple[str, object, object]] = []
    if isinstance(given, msgspec.Struct) and type(read) is type(given):
        parts = [(f".{name}", getattr(given, name), getattr(read, name)) for name in given.__struct_fields__]
    elif isinstance(given, dict) and isinstance(read, dict):
        there = cast("dict[object, object]", read)
        parts = [(f".{name}", one, there.get(name)) for name, one in cast("dict[object, object]", given).items()]
    elif isinstance(given, (list, tuple)) and type(cast(object, given)) is type(read):
        items = zip(cast("list[object]", given), cast("list[object]", read), strict=False)
        parts = [(f"[{number}]", one, other) for number, (one, other) in enumerate(items)]
    for name, one, other in parts:
        if one != other:
            return _difference(one, other, path + name)
    return path


def _scalar(cls: type[Any], field: str, hint: Any) -> ScalarType:
    base = _plain_type(hint)
    for name, kind in (("str", str), ("bool", bool), ("int", int), ("float", float)):
        if base is kind:
            return cast(ScalarType, name)
    raise TypeError(f"{cls.__name__}.{field} cannot be indexed: use str, int, float, bool, or one of these or None")


def _plain_type(hint: Any) -> Any:
    """The one type of a hint, None aside: str for Literal["a", "b"], int for int | None."""
    origin = get_origin(hint)
    if origin is Literal:
        kinds: set[Any] = {cast(Any, type(value)) for value in get_args(hint)}
        return kinds.pop() if len(kinds) == 1 else None
    if origin in (Union, types.UnionType):
        kinds = {_plain_type(arg) for arg in get_args(hint) if arg is not type(None)}
        return kinds.pop() if len(kinds) == 1 else None
    return hint


def _is_free(hint: Any) -> bool:
    """Whether a field may hold what JSON would change: anything, or a float."""
    return hint in (Any, object, float) or any(_is_free(arg) for arg in get_args(hint))


def _columns(hints: Mapping[str, Any]) -> tuple[Column, ...]:
    """The columns of a view: one for each field of a plain type; a name that is taken gets an underscore."""
    found: dict[str, Column] = {}
    for name, hint in hints.items():
        base = _plain_type(hint)
        column, kind = name, "json"
        if base is int and name.endswith("_us"):
            column, kind = name.removesuffix("_us") + "_at", "time"
        elif base in (str, int, float, bool):
            kind = base.__name__
        elif get_origin(base) not in (dict, list, tuple) and base is not Any:
            continue
        while column in found or column in ROW_COLUMNS:
            column += "_"
        found[column] = Column(column, (name,), cast(Any, kind))
    return tuple(found.values())
