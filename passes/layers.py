"""Dropping whole transformer layers: what reads a layer's output reads its input instead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import tvm_ffi
from tvm import relax

from passes.errors import PassError
from passes.model import Model
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, bindings_of, rewrite

if TYPE_CHECKING:
    from passes.sites import Section
    from targets.target import Target

NAME = "drop_layer"


@dataclass(frozen=True)
class LayersConfig:
    """What is offered.

    Attributes:
        enabled: whether layers may be dropped at all.
    """

    enabled: bool = True


def drop_layer(model: Model, layer: Section) -> tuple[Model, Report]:
    """``drop_layers`` of one layer."""
    return drop_layers(model, [layer])


def drop_layers(model: Model, layers: Sequence[Section]) -> tuple[Model, Report]:
    """Replace the output of each layer by its input, and drop the weights that nobody reads then.

    Sites of a dropped layer are gone, and so is the variable that was its output: drop consecutive
    layers in one call, or the last first.

    Args:
        model: a canonical model.
        layers: the sites; ``input`` and ``output`` of each name variables of the graph.

    Raises:
        PassError: no or several variables of that name; input and output of different types.
    """
    sources: dict[relax.Var, relax.Var] = {}
    for layer in layers:
        source, result = _variable(model, layer, layer.input), _variable(model, layer, layer.output)
        if not tvm_ffi.structural_equal(source.ty, result.ty):
            raise PassError(
                f"{layer.name} does not keep its shape", got=f"{source.ty} to {result.ty}"
            )
        sources[result] = source

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        return graph.new(sources[var]) if var in sources else None

    dropped = rewrite(model, model.weights, edit, name=NAME)
    gone = f"{len(model.weights) - len(dropped.weights)} weights gone in all"
    return dropped, Report(NAME, tuple(Change(layer.name, NAME, gone) for layer in layers))


def choices(
    site: Section, target: Target, config: LayersConfig | None = None
) -> tuple[list[dict[str, bool]], list[Refusal]]:
    """The setting ``{"drop": True}``, or why not."""
    config = config or LayersConfig()
    if not site.droppable:
        return [], [Refusal(site.name, NAME, "it is no residual branch that keeps its shape")]
    if not config.enabled:
        return [], [Refusal(site.name, NAME, "dropping layers is switched off")]
    return [{"drop": True}], []


def _variable(model: Model, layer: Section, name: str) -> relax.Var:
    """The variable of ``main`` called ``name``."""
    variables = (*model.main.params, *(b.var for b in bindings_of(model)))
    found = [v for v in variables if v.name == name]
    if len(found) != 1:
        raise PassError(
            f"{layer.name} is not where it was",
            got=f"{len(found)} variables called {name}",
            allowed="1",
            next="find the sites again after a pass that renames variables",
        )
    return found[0]
