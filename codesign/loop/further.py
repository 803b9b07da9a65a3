"""Further bases, one after the other, each within a fair share of the time that is left."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from codesign.candidate import WHOLE
from codesign.loop.bases import Bases
from codesign.loop.channel_store import ChannelStore
from codesign.loop.channels import NAME, SHARES, ChannelPruner, prunable
from codesign.loop.costs import KernelBook
from codesign.loop.tabling import Tabled, Tabler
from codesign.loop.workshop import OutOfTimeError
from passes.errors import PassError
from passes.report import Refusal

GAIN = 0.02
"""Share by which a base must be faster than the model itself; differences below it are noise."""


@dataclass
class FurtherBases:
    """The model with fewer channels, to be searched beside the model itself.

    Attributes:
        bases: gets those that are worth searching.
        first: the model itself.
        deadline: of the whole search, as `time.monotonic` tells it; infinite if there is none.
        shares: of the multiply-adds, still to be tried.
        refusals: what could not be had, and why.
        vetoes: (label, reason) of bases that were measured to be no faster.
    """

    bases: Bases
    tabler: Tabler
    first: Tabled
    deadline: float
    shares: list[float] = field(default_factory=lambda: list(SHARES))
    refusals: list[Refusal] = field(default_factory=list)
    vetoes: list[tuple[str, str]] = field(default_factory=list)
    _pruner: ChannelPruner | None = None

    def __post_init__(self) -> None:
        if NAME not in self.tabler.enabled:
            self.shares.clear()

    @property
    def refused(self) -> list[Refusal]:
        """The refusals, with what its turn did not come of."""
        late = "the budget ended before its turn came"
        return [*self.refusals, *(Refusal(WHOLE, f"{NAME} {s:g}", late) for s in self.shares)]

    def next(self) -> Tabled | None:
        """The next base, tabled; None if there is none, or no time for one."""
        if self.shares and self._pruner is None:
            self._pruner = self._begun()
        while self.shares:
            share, now = self.shares[0], time.monotonic()
            ends = now + (self.deadline - now) / (len(self.shares) + 1)
            try:
                with self.tabler.workshop.until(ends):
                    tabled = self._tabled(self._pruner, share) if self._pruner else None
            except OutOfTimeError as error:
                # what comes after it would take as long
                self.refusals += [Refusal(WHOLE, f"{NAME} {s:g}", str(error)) for s in self.shares]
                self.shares.clear()
                return None
            del self.shares[0]
            if tabled is not None:
                return tabled
        return None

    def _begun(self) -> ChannelPruner | None:
        """What prunes; None if there is nothing to prune. Looked for here, since it takes a while."""
        base, workshop = self.first.base, self.tabler.workshop
        groups, refusals = prunable(base.model, base.sites, workshop.target)
        self.refusals += refusals
        if not groups:
            self.shares.clear()
            return None
        store = ChannelStore(
            workshop.folder.parent / "channels",
            self.tabler.model,
            self.tabler.solver_version,
            workshop.target.block,
        )
        return ChannelPruner(base, groups, self.refusals, workshop.target, workshop.progress, store)

    def _tabled(self, pruner: ChannelPruner, share: float) -> Tabled | None:
        """A base with everything measured; None if it is refused or vetoed."""
        try:
            base = pruner.narrowed(share)
        except PassError as error:
            reason = str(error).splitlines()[0]
            self.refusals.append(Refusal(WHOLE, f"{NAME} {share:g}", reason))
            return None
        workshop = self.tabler.workshop
        book = KernelBook(workshop.fuse)
        counts = book.count(base.model, workshop.target)
        workshop.tune(book.known.values(), f"{base.label}: tune kernels as they are")
        before = workshop.kernel_seconds(self.first.space.dense)
        takes = workshop.kernel_seconds(counts)
        if not takes < before * (1 - GAIN):
            slow = (
                "a kernel of it could not be measured"
                if math.isinf(takes)
                else (
                    f"measured {takes * 1e6:.0f} us in kernels, {before * 1e6:.0f} us with all channels"
                )
            )
            self.vetoes.append((base.label, slow))
            return None
        tabled = self.tabler.further(base, self.first)
        self.bases.found.append(base)
        return tabled
