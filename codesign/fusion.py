"""Which partition of a chain of operators is fastest: every part is a kernel, measured once like any other.

The unit of cost of a model is a kernel, or a chain that may be partitioned into kernels in several ways
(`passes.fuse`): it takes as long as the fastest of them. All compute the same, so nothing but time decides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, TypeAlias

from codesign.frozen import digest
from codesign.kernels import Kernel, kernel_hash, kernels
from passes.fuse import Chain, Fusable, Partition, Span, choices, fusable, fuse, kernels_of
from passes.lower import lower
from passes.model import Model
from passes.report import Refusal
from targets.target import Target

CALL = 0.5e-6
"""Seconds that each further call costs besides its kernel: arguments, and memory for what it leaves."""

MARGIN = 0.98
"""A partition replaces relax's groups if it takes less than this share of their time: less is noise."""

Seconds = Callable[[str], float]
"""Measured time of a kernel by hash; infinite if it did not run or was not measured."""


@dataclass(frozen=True)
class KernelChain:
    """A chain as its possible kernels.

    Attributes:
        hash: equal for chains of the same possible kernels.
        name: its operators, relax's groups apart.
        parts: the kernel of each part that it may be made of.
        default: relax's groups.
        count: calls in one run of the model.
    """

    hash: str
    name: str
    parts: Mapping[Span, Kernel]
    default: Partition
    count: int = 1

    @property
    def cuts(self) -> list[int]:
        """Where a group of relax may be parted, in atoms."""
        ends = {0, *(end for _, end in self.default)}
        return sorted({start for start, _ in self.parts} - ends)

    def kernels(self, cuts: Iterable[int] = ()) -> list[Kernel]:
        """Its kernels, with those that parting groups at ``cuts`` needs."""
        allowed = {0, *(end for _, end in self.default), *cuts}
        return [k for span, k in self.parts.items() if allowed.issuperset(span)]

    def best(self, seconds: Seconds) -> Choice:
        """The fastest partition: by dynamic programming over where it ends."""
        ends = self.default[-1][1]
        nowhere: tuple[float, Partition] = (inf, ())
        fastest = [(0.0, nowhere[1]), *[nowhere] * ends]
        for end in range(1, ends + 1):
            for span, kernel in self.parts.items():
                if span[1] == end and fastest[span[0]][0] < inf:
                    before, parts = fastest[span[0]]
                    total = before + seconds(kernel.hash) + CALL
                    if total < fastest[end][0]:
                        fastest[end] = (total, (*parts, span))
        default = sum(seconds(self.parts[span].hash) + CALL for span in self.default)
        total, parts = fastest[ends]
        if total < MARGIN * default:
            return Choice(self, parts, total, default)
        return Choice(self, self.default, default, default)


@dataclass(frozen=True)
class Choice:
    """What was decided for a chain.

    Attributes:
        parts: of the fastest partition.
        seconds: that it takes, calls included; ``default``: that relax's groups take.
    """

    chain: KernelChain
    parts: Partition
    seconds: float
    default: float

    @property
    def names(self) -> str:
        """The kernels of the partition."""
        return " | ".join(self.chain.parts[span].name for span in self.parts)

    def counts(self) -> Counter[str]:
        """Calls of its kernels by hash, each time that the chain is run."""
        return Counter(self.chain.parts[span].hash for span in self.parts)

    def to_json(self) -> dict[str, Any]:
        """For the manifest and the report."""
        return {
            "chain": self.chain.name,
            "kept": self.names,
            "us": round(self.seconds * 1e6, 2),
            "default_us": round(self.default * 1e6, 2),
            "changed": self.parts != self.chain.default,
            "calls": self.chain.count,
        }


Unit: TypeAlias = Kernel | KernelChain
"""What the cost of a model is made of."""


@dataclass
class Planner:
    """Lowers models as far as the choice of their kernels.

    Attributes:
        enabled: whether there is a choice; otherwise all is fused as relax does.
        refusals: what was not fused in any way, and why.
    """

    target: Target
    enabled: bool = True
    refusals: dict[Refusal, None] = field(default_factory=dict)
    _known: dict[str, KernelChain] = field(default_factory=dict)

    def units(self, model: Model) -> list[Unit]:
        """The distinct kernels and chains of a canonical or rewritten model, with their calls."""
        return self.plan(model).units()

    def plan(self, model: Model) -> Plan:
        """A model that is lowered but for the choice of its kernels.

        Raises:
            PassError: an operator that has no kernel.
        """
        if not self.enabled:
            return Plan(lower(model, self.target), None, (), self.target)
        found = fusable(model, self.target)
        self.refusals |= dict.fromkeys(found.refusals)
        chains = tuple(self._chain(chain) for chain in found.chains)
        return Plan(fuse(found, self.target, {})[0], found, chains, self.target)

    def _chain(self, chain: Chain) -> KernelChain:
        if chain.signature not in self._known:
            self._known[chain.signature] = _kernel_chain(chain, self.target)
        return self._known[chain.signature]


def _kernel_chain(chain: Chain, target: Target) -> KernelChain:
    spans, _ = choices(chain, target)
    parts = {}
    for span, func in kernels_of(chain, spans, target).items():
        parts[span] = Kernel(kernel_hash(func), func, chain.spelled((span,)).replace("+", "_"), 1)
    key = digest([chain.default, [[*span, k.hash] for span, k in sorted(parts.items())]])[:16]
    return KernelChain(key, chain.name, parts, chain.default)


@dataclass(frozen=True)
class Plan:
    """A model before the choice of its kernels.

    Attributes:
        default: as relax fuses it.
        fusable: the same with its chains open; None where there is no choice.
        chains: the chains of ``fusable`` as kernels, in its order.
    """

    default: Model
    fusable: Fusable | None
    chains: tuple[KernelChain, ...]
    target: Target

    def units(self) -> list[Unit]:
        """Its kernels outside of chains, and its chains."""
        calls = Counter(chain.hash for chain in self.chains)
        taken = Counter(chain.parts[span].hash for chain in self.chains for span in chain.default)
        alone: list[Unit] = [
            replace(kernel, count=kernel.count - taken[kernel.hash])
            for kernel in kernels(self.default)
            if kernel.count > taken[kernel.hash]
        ]
        distinct = {chain.hash: chain for chain in self.chains}
        return alone + [replace(chain, count=calls[h]) for h, chain in distinct.items()]

    def fused(self, seconds: Seconds) -> tuple[Model, list[Choice]]:
        """The model of the fastest kernels, and what was chosen for each distinct chain."""
        if self.fusable is None:
            return self.default, []
        chosen = {c.hash: c.best(seconds) for c in self.units() if isinstance(c, KernelChain)}
        partitions = {i: chosen[chain.hash].parts for i, chain in enumerate(self.chains)}
        return fuse(self.fusable, self.target, partitions)[0], list(chosen.values())
