"""Canonical JSON, and a mapping that cannot change and can be a key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any


def canonical(value: object) -> str:
    """One text for equal values: sorted keys, no spaces, no NaN.

    Raises:
        TypeError: the value holds something that JSON has no form for.
        ValueError: the value holds NaN or infinity.
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain_mapping
    )


def digest(value: object) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class FrozenMap(Mapping[str, Any]):
    """A JSON object as an immutable, hashable value; nested lists become tuples.

    Equal to any mapping with the same canonical JSON, whatever the order of its keys; iterated in
    the order given.
    """

    __slots__ = ("_items", "_text")

    def __init__(self, items: Mapping[str, Any] | None = None) -> None:
        if any(not isinstance(key, str) for key in items or {}):
            raise TypeError("keys of a FrozenMap are strings")
        self._text = canonical(items or {})
        self._items: dict[str, Any] = {k: _freeze(v) for k, v in (items or {}).items()}

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, FrozenMap):
            return self._text == other._text
        if not isinstance(other, Mapping):
            return NotImplemented
        try:
            return self._text == canonical(other)
        except (TypeError, ValueError):
            return False

    def __repr__(self) -> str:
        return f"FrozenMap({self._text})"

    def __reduce__(self) -> tuple[type[FrozenMap], tuple[dict[str, Any]]]:
        return FrozenMap, (self._items,)


def _freeze(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenMap(value)
    return tuple(_freeze(v) for v in value) if isinstance(value, (list, tuple)) else value


def _plain_mapping(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
