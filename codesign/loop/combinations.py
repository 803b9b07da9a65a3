"""Combinations that are worth it are lowered and measured whole.

What two formats of a block cost together follows from what each costs alone, as long as no kernel depends
on both. Where one does (codes for the second layer are made behind the first), the sum is an estimate: good
enough to leave most combinations out, not to choose among those that are left.
"""

from __future__ import annotations

from collections.abc import Callable

from codesign.loop.blocks import Decision, blocks_of
from codesign.loop.costs import layer_model, with_decision
from codesign.loop.tables import Space
from codesign.search import Tables
from passes.formats import DENSE
from passes.model import Model
from targets.target import Target

ROUNDS = 3
"""What turns out slower than estimated lets others in again; so often those are looked at."""


def measured_whole(
    model: Model,
    space: Space,
    target: Target,
    fill: Callable[[], Tables],
    tune: Callable[[], None],
) -> Tables:
    """Tables whose combinations, as far as they are not vetoed, were measured as they are.

    Args:
        model: canonical.
        space: what may be decided; its kernels and its book get what is lowered.
        target: what for.
        fill: makes the tables by what is known of the space.
        tune: measures the kernels of the book that are new.
    """
    tables = fill()
    for _ in range(ROUNDS):
        if not lower_whole(model, space, tables, target):
            break
        tune()
        tables = fill()
    return tables


def lower_whole(model: Model, space: Space, tables: Tables, target: Target) -> bool:
    """Lower the combinations that are not vetoed and still estimates; False if there are none."""
    options = {group.name: group.options for group in tables.groups}
    found = False
    for layer in space.layers:
        for block in blocks_of(layer):
            kernels = space.kernels[block.name]
            pairs = zip(space.offers[block.name].decisions(), options[block.name], strict=True)
            left = [d for d, o in pairs if not o.veto and is_estimate(d) and d not in kernels.whole]
            if left:
                alone = layer_model(model, layer)
                for decision in left:
                    changed = with_decision(alone, block, decision, target)
                    kernels.whole[decision] = space.book.count(changed, target)
                found = True
    return found


def is_estimate(decision: Decision) -> bool:
    """Whether the kernels of a decision were put together from those of its parts."""
    return (decision.first != DENSE) + (decision.second != DENSE) + bool(decision.core) > 1
