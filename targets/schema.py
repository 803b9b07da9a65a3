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

from targets.errors import CodesignError, TargetError
from targets.frozen import FrozenMap

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


def load(
    cls: type[T],
    data: Any,
    where: str,
    *,
    extra: bool = False,
    error: type[CodesignError] = TargetError,
) -> T:
    """Build ``cls`` from plain data.

    Args:
        where: name of the file or table, the start of every error message.
        extra: ignore keys that ``cls`` does not have (files of a newer version).
        error: what is raised.

    Raises:
        CodesignError: of the type ``error``: an unknown or missing key, or a value of another type; it
            names the key.
    """
    return _Reader(extra, error).load(cls, data, where)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """What ``load`` was asked for, on the way down."""

    extra: bool
    error: type[CodesignError]

    def load(self, cls: type[T], data: Any, where: str) -> T:
        if not isinstance(data, Mapping):
            raise self._wrong(where, data, "a table of keys and values")
        hints = typing.get_type_hints(cls)
        fields = {_json_name(f): f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not self.extra:
            self._refuse_unknown(data, tuple(fields), where)
        arguments = {}
        for name, f in fields.items():
            if name in data:
                arguments[f.name] = self._value(hints[f.name], data[name], f"{where}.{name}")
            elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
                raise self.error(
                    f"{where} lacks the key '{name}'", got=", ".join(map(str, data)) or "no key",
                    allowed=_expected(hints[f.name]), next=f"add {name}",
                )  # fmt: skip
        return cls(**arguments)

    def _refuse_unknown(self, data: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
        for key in data:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
                raise self.error(
                    f"{where} has an unknown key '{key}'",
                    got=str(key),
                    allowed=", ".join(known),
                    next=f"did you mean '{near[0]}'?" if near else f"remove '{key}'",
                )

    def _value(self, hint: Any, value: Any, where: str) -> Any:
        """``value`` as the type ``hint``, or an error that names ``where``."""
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
        if hint is Any:
            return value
        if origin in (typing.Union, types.UnionType):
            if value is None and type(None) in arguments:
                return None
            (only,) = (a for a in arguments if a is not type(None))
            return self._value(only, value, where)
        if dataclasses.is_dataclass(hint):
            return self.load(typing.cast(type, hint), value, where)
        if origin is tuple:
            return self._sequence(arguments, value, where)
        if isinstance(origin, type) and issubclass(origin, Mapping):
            if not isinstance(value, Mapping):
                raise self._wrong(where, value, _expected(hint))
            return FrozenMap(
                {str(k): self._value(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
            )
        return self._scalar(hint, value, where)

    def _sequence(self, arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(value, (list, tuple)):
            raise self._wrong(where, value, "a list")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            kinds = (arguments[0],) * len(value)
        elif len(arguments) == len(value):
            kinds = arguments
        else:
            raise self._wrong(where, value, f"a list of {len(arguments)}")
        return tuple(
            self._value(k, v, f"{where}[{i}]")
            for i, (k, v) in enumerate(zip(kinds, value, strict=True))
        )

    def _scalar(self, hint: Any, value: Any, where: str) -> Any:
        if hint is float:
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not _finite(value):
                raise self._wrong(where, value, "a finite number")
            return float(value)
        # bool is an int to Python, never to a reader of a file
        if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            raise self._wrong(where, value, _expected(hint))
        return value

    def _wrong(self, where: str, value: Any, allowed: str) -> CodesignError:
        text = repr(value)
        if len(text) > 80:
            text = text[:77] + "..."
        return self.error(
            f"{where} has a wrong value", got=text, allowed=allowed, next=f"correct {where}"
        )


def _finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond float64
        return False


def _expected(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _expected(next(a for a in typing.get_args(hint) if a is not type(None)))
    if origin is tuple:
        return "a list"
    if dataclasses.is_dataclass(hint) or isinstance(origin, type):
        return "a table of keys and values"
    return _WORDS.get(hint, "any value")


def _json_name(field: dataclasses.Field[Any]) -> str:
    return str(field.metadata.get("json", field.name))
