"""Layer fusion: which operators in a row become one kernel.

Relax fuses by a fixed rule (`relax.transform.FuseOps`): elementwise work goes into the kernel before it.
That is one partition of a chain of operators among others. What follows a product may be a kernel of its
own, in whole or from any point on; and layer norm, the quantisation of rows, and elementwise work before
or between them may be one pass over rows (the groups of LP-Fusion, Niu et al. 2021, arXiv 2009.06823, and
of DNNFusion, Niu et al. 2021). All partitions compute the same; which is fastest is for measurement to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import tvm
from tvm import relax, tirx

from passes.grouped import (
    Group,
    Grouped,
    Op,
    Plain,
    is_call_tir,
    primitive,
    reads_of,
    regrouped,
    results_of,
)
from passes.kernel_names import readable
from passes.lower import finished, grouped_model
from passes.model import Model
from passes.report import Change, Refusal, Report
from targets.kernels import norm, quantize, softmax
from targets.kernels.spaces import DEFAULT, space_name
from targets.target import Target

NAME = "fuse"

Span = tuple[int, int]
"""The atoms of a part of a chain: from the first one to before the last."""

Partition = tuple[Span, ...]
"""Parts of a chain in order, which leave nothing out."""

_ROWS = (norm.FAMILY_NAME, quantize.FAMILY_NAME, softmax.FAMILY_NAME)
_INJECTIVE = 2  # relax's OpPatternKind: elementwise, broadcast, injective


@dataclass(frozen=True)
class FuseConfig:
    """What is offered.

    Attributes:
        apart: parts smaller than the groups that relax makes.
        rows: parts across them, as one pass over rows.
    """

    apart: bool = True
    rows: bool = True


@dataclass(frozen=True, eq=False)
class Chain:
    """Operators in a row, each reading the one before, that may be partitioned into kernels.

    Attributes:
        at: its position in ``graph.items``.
        atoms: its operators; those of one atom are never parted.
        groups: where relax's groups begin, in atoms.
    """

    graph: Grouped
    at: int
    atoms: tuple[Group, ...]
    groups: tuple[int, ...]

    @cached_property
    def name(self) -> str:
        """Its operators: ``linear+add+add | layer_norm``, relax's groups apart."""
        return self.spelled(self.default)

    @property
    def default(self) -> Partition:
        """Relax's groups."""
        return tuple(zip(self.groups, (*self.groups[1:], len(self.atoms)), strict=True))

    @cached_property
    def signature(self) -> str:
        """Equal for chains whose parts are equal kernels."""
        places: dict[relax.Expr, str] = {}
        lines = [repr(self.default), repr([len(atom) for atom in self.atoms])]
        ops = self.part((0, len(self.atoms)))
        read = set(self.graph.outputs(ops, self.at))
        for op in ops:
            for operand in op.operands:
                places.setdefault(operand, f"in{len(places)} {operand.ty}")
            lines.append(f"{self.graph.hash_of(op)} {[places[a] for a in op.operands]}")
            for result in op.results:
                places[result] = f"r{len(places)}"
                lines.append(f"{places[result]} {result in read}")
        return "\n".join(lines)

    def part(self, span: Span) -> Group:
        """The operators of a part."""
        return tuple(op for atom in self.atoms[slice(*span)] for op in atom)

    def spelled(self, partition: Partition) -> str:
        """A partition by the names of its operators."""
        return " | ".join(
            "+".join(readable(op.name) for op in self.part(span)) for span in partition
        )


@dataclass(frozen=True, eq=False)
class Fusable:
    """A lowered model whose chains are still to be partitioned."""

    graph: Grouped
    chains: tuple[Chain, ...]
    refusals: tuple[Refusal, ...] = ()


def fusable(model: Model, target: Target, config: FuseConfig | None = None) -> Fusable:
    """Lower a model up to the choice of its kernels; `fuse` makes that.

    Raises:
        PassError: an operator that has no kernel.
    """
    config = config or FuseConfig()
    graph = Grouped(grouped_model(model, target))
    found, refusals = _chains(graph, config)
    merged = graph.merged(found)
    chains = []
    starts: dict[int, list[int]] = {}
    for positions in found:
        first = graph.items[positions[0]]
        assert not isinstance(first, Plain)
        starts[id(first[0])] = positions
    for at, item in enumerate(merged.items):
        if isinstance(item, Plain):
            continue
        positions = starts[id(item[0])]
        atoms = _atoms(merged, at)
        chain = Chain(merged, at, atoms, _begins(atoms, [graph.items[p] for p in positions]))
        if len(chain.atoms) > 1 and (len(positions) > 1 or _kind(item[0]) == "other"):
            chains.append(chain)
    return Fusable(merged, tuple(chains), tuple(dict.fromkeys(refusals)))


def fuse(
    fusable: Fusable, target: Target, partitions: Mapping[int, Partition]
) -> tuple[Model, Report]:
    """The lowered model with its chains partitioned as told, as calls of kernels.

    Args:
        partitions: number of a chain -> its parts; relax's groups for those that are missing.
    """
    split = {}
    changes = []
    for number, chain in enumerate(fusable.chains):
        partition = partitions.get(number, chain.default)
        split[chain.at] = [chain.part(span) for span in partition]
        if partition != chain.default:
            changes.append(Change(chain.name, NAME, chain.spelled(partition)))
    graph = fusable.graph
    mod = regrouped(graph, split)
    return finished(replace(graph.model, mod=mod), target), Report(NAME, tuple(changes))


def choices(
    chain: Chain, target: Target, config: FuseConfig | None = None
) -> tuple[list[Span], list[Refusal]]:
    """The parts that a chain may be made of, relax's groups first, and what is refused."""
    config = config or FuseConfig()
    default = list(chain.default)
    found, refusals = list(default), []
    for start in range(len(chain.atoms)):
        for end in range(start + 1, len(chain.atoms) + 1):
            if (start, end) in default:
                continue
            reason = _refused(chain, (start, end), config)
            if reason is None:
                found.append((start, end))
            else:
                refusals.append(Refusal(chain.spelled(((start, end),)), NAME, reason))
    return found, refusals


def kernels_of(chain: Chain, spans: Sequence[Span], target: Target) -> dict[Span, tirx.PrimFunc]:
    """The kernel of each part, not scheduled yet."""
    builder = relax.BlockBuilder(_kernels(chain.graph.model.mod))
    calls: list[tuple[Span, tvm.ir.GlobalVar, list[relax.Var]]] = []
    found: dict[Span, tirx.PrimFunc] = {}
    for span in spans:
        group = chain.part(span)
        if len(group) == 1:
            found[span] = group[0].func
            continue
        func, inputs = primitive(group, chain.graph.outputs(group, chain.at))
        gv = builder.add_func(func, "fused_" + "_".join(op.name for op in group))
        calls.append((span, gv, [relax.Var("x", v.ty) for v in inputs]))
    if not calls:
        return found
    with builder.function("main", [v for _, _, inputs in calls for v in inputs]):
        with builder.dataflow():
            made = [builder.emit(relax.Call(gv, inputs)) for _, gv, inputs in calls]
            out = builder.emit_output(relax.Tuple(made))
        builder.emit_func_output(out)
    with target.tvm():
        mod = relax.transform.FuseTIR()(builder.get())
    bindings = [b.value for block in mod["main"].body.blocks for b in block.bindings]
    fused = [mod[value.args[0]] for value in bindings if is_call_tir(value)]
    return found | {span: func for (span, *_), func in zip(calls, fused, strict=True)}


def _kernels(mod: tvm.IRModule) -> tvm.IRModule:
    return tvm.IRModule({g: f for g, f in mod.functions_items() if isinstance(f, tirx.PrimFunc)})


def _refused(chain: Chain, span: Span, config: FuseConfig) -> str | None:
    """Why a part is not offered; None if it is."""
    start, end = span
    begin, stop = next(group for group in chain.default if start < group[1])
    if start > begin or end < stop:
        if not config.apart:
            return "relax's groups are not parted"
        if _kind(chain.atoms[begin][0]) != "other":
            return "nothing is in registers that a part would free"
        if begin < start and end < stop:
            return "what follows a product is cut once at most"
    return None if end <= stop else _not_rows(chain.part(span), config)


def _not_rows(ops: Group, config: FuseConfig) -> str | None:
    """Why operators are no single pass over rows; None if they are."""
    if not config.rows:
        return "passes over rows are not joined"
    kinds = [_kind(op) for op in ops]
    if "other" in kinds:
        name = readable(ops[kinds.index("other")].name)
        return f"{name} makes tiles of its output, or reduces: it is no pass over rows"
    if "rows" not in kinds:
        return "elementwise work alone has no schedule as one kernel with several results"
    if len({_row(op) for op in ops}) > 1:
        return "their rows differ"
    return None


def _kind(op: Op) -> str:
    """Whether an operator works on rows, elementwise, or in any other way."""
    family = space_name(op.func)
    if family in _ROWS:
        return "rows"
    pattern = (op.func.attrs or {}).get("op_pattern")
    plain = family == DEFAULT and pattern is not None and int(pattern) <= _INJECTIVE
    return "elementwise" if plain else "other"


def _row(op: Op) -> tuple[int, ...]:
    """The leading extents of what an operator makes, or nothing if that is no tensor of rows."""
    shape = tuple(int(d) for d in op.results[0].ty.shape.values)
    return shape[:-1] if len(shape) > 1 else ()


def _chains(graph: Grouped, config: FuseConfig) -> tuple[list[list[int]], list[Refusal]]:
    """Positions of the groups of each chain, and why others do not go on."""
    chain_of: dict[int, list[int]] = {}
    chains: list[list[int]] = []
    refusals: list[Refusal] = []
    for position, item in enumerate(graph.items):
        if isinstance(item, Plain) or position in chain_of:
            continue
        chain = [position]
        chains.append(chain)
        chain_of[position] = chain
        while (following := _next(graph, chain, chain_of, refusals, config)) is not None:
            chain.append(following)
            chain_of[following] = chain
    return chains, refusals


def _next(
    graph: Grouped,
    chain: list[int],
    chain_of: Mapping[int, list[int]],
    refusals: list[Refusal],
    config: FuseConfig,
) -> int | None:
    """The group that may go on a chain, if there is one."""
    end = graph.items[chain[-1]]
    assert not isinstance(end, Plain)
    earlier = {r for p in chain for r in results_of(graph.items[p])} - set(end[-1].results)
    readers = dict.fromkeys(at for r in end[-1].results for at in graph.readers.get(r, ()))
    for at in readers:
        item = graph.items[at] if at >= 0 else None
        if item is None or isinstance(item, Plain) or at in chain_of:
            continue
        if not any(r in item[0].reads for r in end[-1].results):
            continue
        if not earlier.isdisjoint(reads_of(item)):
            continue  # more than one result would lead on: no place to part the chain
        between = (end[-1], item[0])
        reason = _not_rows(between, config)
        if reason is None and len(end[-1].results) == 1 and not _around(graph, chain, at, chain_of):
            return at
        if reason is not None and any(_kind(op) == "rows" for op in between):
            refusals.append(Refusal(" | ".join(readable(op.name) for op in between), NAME, reason))
    return None


def _around(graph: Grouped, chain: list[int], to: int, chain_of: Mapping[int, list[int]]) -> bool:
    """Whether a path leads from the chain to another item but for the direct step."""
    stack = list(graph.after(chain) - {to})
    seen: set[int] = set()
    while stack:
        at = stack.pop()
        if at == to:
            return True
        if at in seen:
            continue
        whole = chain_of.get(at, [at])
        seen.update(whole)
        stack += graph.after(whole)
    return False


def _atoms(graph: Grouped, at: int) -> tuple[Group, ...]:
    """The operators of an item between the places where a single result leads on."""
    item = graph.items[at]
    assert not isinstance(item, Plain)
    atoms: list[Group] = []
    begin = 0
    for i in range(1, len(item) + 1):
        made = {r for op in item[:i] for r in op.results}
        leading = {v for op in item[i:] for v in op.reads if v in made}
        if i == len(item) or (leading and leading <= set(item[i - 1].results)):
            atoms.append(tuple(item[begin:i]))
            begin = i
    return tuple(atoms)


def _begins(atoms: Sequence[Group], groups: Sequence[Group | Plain]) -> tuple[int, ...]:
    """At which atoms relax's groups begin."""
    first = {id(group[0]) for group in groups if isinstance(group, tuple)}
    return tuple(i for i, atom in enumerate(atoms) if id(atom[0]) in first)
