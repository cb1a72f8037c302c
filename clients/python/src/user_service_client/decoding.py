"""JSON into dataclasses, by their annotations. Unknown members are passed over: a newer service may have more."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Decoder = Callable[[Any], Any]


def decode(kind: type[T], value: object) -> T:
    """Raises ValueError, whose text names the field and has no value."""
    dataclass: Any = kind
    decoded: T = dataclass_decoder(dataclass)(value)
    return decoded


def make_decoder(kind: Any) -> Decoder:
    origin = get_origin(kind)
    if kind is Any:
        return lambda value: value
    if origin is Literal:
        return make_decoder(str)
    if origin in (Union, types.UnionType):
        return optional_decoder(get_args(kind))
    if origin is tuple:
        return sequence_decoder(make_decoder(get_args(kind)[0]))
    if origin is not None and issubclass(origin, Mapping):
        return instance_decoder(dict)
    if kind is datetime:
        return decode_time
    if kind in (str, int, bool, float):
        return instance_decoder(kind)
    assert is_dataclass(kind), kind
    dataclass: Any = kind
    return dataclass_decoder(dataclass)


def optional_decoder(members: tuple[Any, ...]) -> Decoder:
    """Of `X | None`; unions of more are not in the models."""
    (inner,) = (make_decoder(member) for member in members if member is not type(None))
    return lambda value: None if value is None else inner(value)


def sequence_decoder(inner: Decoder) -> Decoder:
    check = instance_decoder(list)
    return lambda value: tuple(inner(item) for item in check(value))


def instance_decoder(kind: type) -> Decoder:
    def check(value: Any) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ValueError(f"not of the type {kind.__name__}")
        return value

    return check


def decode_time(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError("not a time")
    try:
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        raise ValueError("not a time") from None


@cache
def dataclass_decoder(kind: Any) -> Decoder:
    hints = get_type_hints(kind)
    required = {each.name for each in fields(kind) if each.default is MISSING}
    decoders = {name: make_decoder(hint) for name, hint in hints.items()}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(f"not an object of the type {kind.__name__}")
        if absent := required - value.keys():
            raise ValueError(f"{kind.__name__} lacks {min(absent)}")
        given = {}
        for name, inner in decoders.items():
            if name in value:
                try:
                    given[name] = inner(value[name])
                except ValueError as error:
                    raise ValueError(f"{name}: {error}") from None
        return kind(**given)

    return read
