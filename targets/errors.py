"""The one shape that every error of this project has: what happened, what was got, what is allowed, what to do."""

from __future__ import annotations


class CodesignError(Exception):
    """An error a person can act on.

    Args:
        what: what happened, one sentence.
        got: the value or thing that caused it.
        allowed: what would have been accepted.
        next: the command or step that mends it.
    """

    def __init__(self, what: str, *, got: str = "", allowed: str = "", next: str = "") -> None:
        self.what = what
        self.got = got
        self.allowed = allowed
        self.next = next
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        for label, text in (("got", self.got), ("allowed", self.allowed), ("next", self.next)):
            if text:
                lines.append(f"  {label + ':':<9}{text}")
        return "\n".join(lines)


class TargetError(CodesignError):
    """A target or a kernel that cannot be had: unknown name, missing feature, impossible tile."""
