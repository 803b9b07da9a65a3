"""Slices of a dataflow graph: what is needed for some variables, given some others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from tvm import relax

from passes.errors import PassError
from passes.model import Model, TensorSpec


@dataclass(frozen=True)
class Slice:
    """Bindings that compute ``wanted`` from ``given``, weights and ``context``.

    Attributes:
        given: names of the variables it starts from.
        context: names of other variables it reads, in order of first use.
        weights: names of the weights it reads, in order of first use.
        wanted: names of the variables it computes.
        bindings: in order of computation.
    """

    given: tuple[str, ...]
    context: tuple[str, ...]
    weights: tuple[str, ...]
    wanted: tuple[str, ...]
    bindings: tuple[relax.VarBinding, ...]


class Dataflow:
    """The bindings of a model's ``main`` by variable name.

    Raises:
        PassError: two variables of the same name, or control flow.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.bindings: dict[str, relax.VarBinding] = {}
        self.vars: dict[str, relax.Var] = {p.name: p for p in model.main.params}
        for block in model.main.body.blocks:
            for binding in block.bindings:
                name = binding.var.name
                if not isinstance(binding, relax.VarBinding):
                    raise PassError("only a plain dataflow graph can be sliced", got=name)
                if name in self.vars:
                    raise PassError("two variables of the graph have the same name", got=name)
                self.bindings[name] = binding
                self.vars[name] = binding.var
        self.reads = {n: _reads(b.value) for n, b in self.bindings.items()}
        self.outputs = self._outputs()

    def after(self, given: Iterable[str]) -> set[str]:
        """The variables that depend on one of ``given``, which are among them."""
        found = set(given)
        for name, reads in self.reads.items():
            if not found.isdisjoint(reads):
                found.add(name)
        return found

    def slice(self, given: Sequence[str], wanted: Sequence[str]) -> Slice:
        """What computes ``wanted`` from ``given``.

        A binding belongs to it if it depends on ``given``, or on weights alone; any other variable
        that is read becomes context.
        """
        inside = self.after(given) | self.from_weights
        needed: set[str] = set()
        stack = [w for w in wanted if w not in given]
        while stack:
            name = stack.pop()
            if name in needed or name not in self.bindings or name not in inside:
                continue
            needed.add(name)
            stack += [r for r in self.reads[name] if r not in given]
        bindings = tuple(b for n, b in self.bindings.items() if n in needed)
        reads = [r for b in bindings for r in self.reads[b.var.name]]
        free = dict.fromkeys(r for r in [*reads, *wanted] if r not in needed and r not in given)
        weights = tuple(r for r in free if r in self.model.weights)
        context = tuple(r for r in free if r not in self.model.weights)
        return Slice(tuple(given), context, weights, tuple(wanted), bindings)

    def slice_after(self, at: str, ends: Sequence[str], wanted: Sequence[str]) -> Slice:
        """What computes ``wanted`` from ``at``; what it reads of other ``ends`` before it is context."""
        others = tuple(end for end in ends if end != at)
        part = self.slice((at, *others), wanted)
        reads = {*wanted, *(r for b in part.bindings for r in self.reads[b.var.name])}
        earlier = tuple(end for end in others if end in reads)
        return replace(part, given=(at,), context=(*part.context, *earlier))

    @property
    def from_weights(self) -> set[str]:
        """The variables that depend on no input."""
        varying = self.after(s.name for s in self.model.inputs)
        return {n for n in self.bindings if n not in varying}

    def _outputs(self) -> tuple[str, ...]:
        result = self.model.main.body.body
        if isinstance(result, relax.Var):
            result = self.bindings[result.name].value
        fields = result.fields if isinstance(result, relax.Tuple) else []
        if not fields or not all(isinstance(f, relax.Var) for f in fields):
            raise PassError("main must return a tuple of variables", got=str(result)[:80])
        return tuple(f.name for f in fields)


def spec(var: relax.Var) -> TensorSpec:
    """Name, shape and dtype of a variable of static shape."""
    shape = tuple(int(d) for d in var.ty.shape.values)
    return TensorSpec(var.name, shape, str(var.ty.dtype))


def _reads(value: relax.Expr) -> list[str]:
    return list(dict.fromkeys(v.name for v in relax.analysis.free_vars(value)))
