"""Dataclasses to and from JSON or TOML, checked while they are read.

A field's type says what is accepted; ``field(metadata={"json": "pass"})`` gives it another name in
the file. Understood: str, int, float (finite), bool, Any, X | None, tuple[X, ...], tuple[X, Y],
Mapping[str, X] and nested dataclasses.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from codesign.errors import UserError
from codesign.frozen import FrozenMap

T = TypeVar("T")

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


def dump(value: Any) -> Any:
    """A dataclass tree as plain dicts, lists and scalars."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {_json_name(f): dump(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): dump(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [dump(v) for v in value]
    return value


def load(cls: type[T], data: Any, where: str, *, extra: bool = False) -> T:
    """Build ``cls`` from plain data.

    Args:
        where: name of the file or table, the start of every error message.
        extra: ignore keys that ``cls`` does not have (files of a newer version).

    Raises:
        UserError: an unknown or missing key, or a value of another type; it names the key.
    """
    if not isinstance(data, Mapping):
        raise _wrong(where, data, "a table of keys and values")
    hints = typing.get_type_hints(cls)
    fields = {_json_name(f): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not extra:
        _refuse_unknown(data, tuple(fields), where)
    arguments = {}
    for name, f in fields.items():
        if name in data:
            arguments[f.name] = _value(hints[f.name], data[name], f"{where}.{name}", extra)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(
                f"{where} lacks the key '{name}'", got=", ".join(map(str, data)) or "no key",
                allowed=_expected(hints[f.name]), next=f"add {name}",
            )  # fmt: skip
    return cls(**arguments)


def _refuse_unknown(data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            raise UserError(
                f"{where} has an unknown key '{key}'",
                got=str(key),
                allowed=", ".join(known),
                next=f"did you mean '{near[0]}'?" if near else f"remove '{key}'",
            )


def _value(hint: Any, value: Any, where: str, extra: bool) -> Any:
    """``value`` as the type ``hint``, or an error that names ``where``."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = (a for a in arguments if a is not type(None))
        return _value(only, value, where, extra)
    if dataclasses.is_dataclass(hint):
        return load(typing.cast(type, hint), value, where, extra=extra)
    if origin is tuple:
        return _sequence(arguments, value, where, extra)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, _expected(hint))
        return FrozenMap(
            {str(k): _value(arguments[1], v, f"{where}.{k}", extra) for k, v in value.items()}
        )
    return _scalar(hint, value, where)


def _sequence(arguments: tuple[Any, ...], value: Any, where: str, extra: bool) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, value, "a list")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(arguments) == len(value):
        kinds = arguments
    else:
        raise _wrong(where, value, f"a list of {len(arguments)}")
    return tuple(
        _value(k, v, f"{where}[{i}]", extra)
        for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not _finite(value):
            raise _wrong(where, value, "a finite number")
        return float(value)
    # bool is an int to Python, never to a reader of a file
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _wrong(where, value, _expected(hint))
    return value


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)


def _expected(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _expected(next(a for a in typing.get_args(hint) if a is not type(None)))
    if origin is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint) or isinstance(origin, type):
        return "a table of keys and values"
    return _WORDS.get(hint, "any value")


def _wrong(where: str, value: Any, allowed: str) -> UserError:
    text = repr(value)
    if len(text) > 80:
        text = text[:77] + "..."
    return UserError(
        f"{where} has a wrong value", got=text, allowed=allowed, next=f"correct {where}"
    )


def _json_name(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("json", field.name))
