"""Dataclasses to and from JSON or TOML (`targets.schema`), where what is wrong is the user's error."""

from __future__ import annotations

from typing import Any, TypeVar

from codesign.errors import UserError
from targets.schema import dump
from targets.schema import load as load_as

__all__ = ["dump", "load"]

T = TypeVar("T")


def load(cls: type[T], data: Any, where: str, *, extra: bool = False) -> T:
    """Build ``cls`` from plain data; ``where`` names the file, ``extra`` ignores keys that ``cls`` lacks.

    Raises:
        UserError: an unknown or missing key, or a value of another type; it names the key.
    """
    return load_as(cls, data, where, extra=extra, error=UserError)
