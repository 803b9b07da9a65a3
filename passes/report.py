"""What a pass did to a model, and what it refused with the reason."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """An offer that a pass does not make.

    Attributes:
        site: name of the site.
        op: the operation refused, e.g. ``int8`` or ``sparse 0.5``.
        reason: why, one clause that a user understands.
    """

    site: str
    op: str
    reason: str


@dataclass(frozen=True)
class Change:
    """One rewrite made: site, operation, and what it is now."""

    site: str
    op: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Outcome of one pass.

    Attributes:
        pass_name: name of the pass.
        rewrites: what was done.
        refusals: what was not done, and why.
    """

    pass_name: str
    rewrites: tuple[Change, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def modified(self) -> bool:
        return bool(self.rewrites)

    def __add__(self, other: Report) -> Report:
        """Both reports as one, under the name of the first."""
        return Report(
            self.pass_name, self.rewrites + other.rewrites, self.refusals + other.refusals
        )
