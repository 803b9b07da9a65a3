"""N:M sparsity, N of M adjacent inputs kept for each output: refused, with the reason of the target.

It pays where one instruction multiplies operands stored that way, as the sparse tensor cores of GPUs do
with 2:4 (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021). Without, the inputs of each output
would be gathered one by one. Balanced vector sparsity, where a block of outputs shares its list of inputs,
runs the dense loop instead and takes the density's share of its time, at any density (`passes.sparse`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from passes.formats import Format
from passes.report import Refusal

if TYPE_CHECKING:
    from passes.sites import Linear
    from targets.target import Target

NAME = "n_m"


@dataclass(frozen=True)
class NMConfig:
    """What is refused: ``keep`` of ``of`` adjacent inputs."""

    keep: int = 2
    of: int = 4


def choices(
    site: Linear, target: Target, config: NMConfig | None = None
) -> tuple[list[Format], list[Refusal]]:
    """No format, and why."""
    config = config or NMConfig()
    name = f"{config.keep}:{config.of}"
    return [], [Refusal(site.name, f"sparse {name}", lacks(target, name))]


def lacks(target: Target, name: str) -> str:
    """What a target lacks that N:M sparsity gains from."""
    if target.has_sparse_products:
        reason = (
            f"there is no kernel for the sparse outer products of {target.name} (FEAT_SME_TMOP)"
        )
    else:
        reason = f"{target.name} has no instruction that multiplies operands sparse {name}"
    return f"{reason}; sparsity that blocks of outputs share gives 1/density instead"
