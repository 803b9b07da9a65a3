"""Dynamic dimensions and what the user binds them to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from codesign.errors import UserError


@dataclass(frozen=True)
class Dynamic:
    """One dimension of an input that the file leaves open; ``name`` may be empty."""

    input: str
    axis: int
    name: str

    @property
    def place(self) -> str:
        """How a user can name it whatever its name is."""
        return f"{self.input}.{self.axis}"


def bind(found: list[Dynamic], sizes: Mapping[str, int]) -> dict[str, int]:
    """The size of each dynamic dimension, by its place.

    Args:
        found: all dynamic dimensions of the model.
        sizes: what the user gave, by name or by place ("input.axis"). A size given for one place
            holds for all dimensions of the same name.

    Raises:
        UserError: a dimension without a size (named, with its input), a size for a dimension that
            does not exist, or one below 1.
    """
    known = {d.place for d in found} | {d.name for d in found if d.name}
    for name, size in sizes.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none: all shapes of this model are fixed"
            raise UserError(f"the model has no dynamic dimension {name}", got=name, allowed=allowed)
        if size < 1:
            raise UserError(f"dimension {name} must be at least 1", got=str(size))
    shared = {d.name: sizes[d.place] for d in found if d.name and d.place in sizes}
    bound: dict[str, int] = {}
    for dimension in found:
        by_name = {**shared, **sizes}.get(dimension.name) if dimension.name else None
        size_or_none = sizes.get(dimension.place, by_name)
        if size_or_none is None:
            raise _unbound(dimension)
        bound[dimension.place] = size_or_none
    return bound


def _unbound(dimension: Dynamic) -> UserError:
    called = dimension.name or dimension.place
    return UserError(
        f"dimension {called} of input {dimension.input} is dynamic and not bound",
        got=f"input {dimension.input}, axis {dimension.axis}",
        allowed="static shapes: each dynamic dimension bound to a size",
        next=f"give its size, for example --dim {called}=1",
    )
