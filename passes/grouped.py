"""A lowered graph before its operators become kernels: which of them relax's fixed rule groups, and others.

`relax.transform.FuseOps` puts each operator into one group; here the groups are taken apart into their
operators again, so that other groups can be formed of them (see `passes.fuse`) and made into kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tvm
import tvm_ffi
from tvm import relax, tirx

from passes.model import Model
from passes.rewrite import bindings_of


@dataclass(frozen=True, eq=False)
class Op:
    """One call of a kernel that is not fused yet.

    Attributes:
        call: ``call_tir`` on variables of the graph.
        func: what it calls; ``name``: readable.
        var: what it is bound to.
        results: the variables that others read: ``var``, or the fields of the tuple that it is.
    """

    call: relax.Call
    func: tirx.PrimFunc
    name: str
    var: relax.Var
    results: tuple[relax.Var, ...]

    @property
    def operands(self) -> list[relax.Expr]:
        return list(self.call.args[1].fields)

    @property
    def reads(self) -> list[relax.Var]:
        """The variables among its operands."""
        return [a for a in self.operands if isinstance(a, relax.Var)]


Group: TypeAlias = tuple[Op, ...]
"""Operators that become one kernel, in order of computation."""


@dataclass(frozen=True, eq=False)
class Plain:
    """A binding that is no kernel: a view, a tuple, a group that is left as it is."""

    var: relax.Var
    value: relax.Expr

    @property
    def results(self) -> tuple[relax.Var, ...]:
        return (self.var,)

    @property
    def reads(self) -> list[relax.Var]:
        return list(relax.analysis.free_vars(self.value))


Item: TypeAlias = Group | Plain


def reads_of(item: Item) -> list[relax.Var]:
    """The variables that an item reads and does not make itself."""
    if isinstance(item, Plain):
        return item.reads
    own = {r for op in item for r in (op.var, *op.results)}
    return [v for op in item for v in op.reads if v not in own]


def results_of(item: Item) -> list[relax.Var]:
    """The variables that an item makes."""
    return list(item.results) if isinstance(item, Plain) else [r for op in item for r in op.results]


class Grouped:
    """``main`` of a lowered model as groups.

    Attributes:
        model: after FuseOps.
        items: in order of computation, or in any order after ``merged``.
        readers: variable -> positions of the items that read it; -1 is the result of the model.
    """

    def __init__(self, model: Model, items: Sequence[Item] | None = None) -> None:
        self.model = model
        self.items = tuple(_items(model) if items is None else items)
        self._hashes: dict[str, int] = {}
        self.readers: dict[relax.Var, list[int]] = {}
        for position, item in enumerate(self.items):
            for var in reads_of(item):
                self.readers.setdefault(var, []).append(position)
        for var in relax.analysis.free_vars(model.main.body.body):
            self.readers.setdefault(var, []).append(-1)

    def merged(self, chains: Iterable[Sequence[int]]) -> Grouped:
        """The same with the items at the positions of each chain as one."""
        first = {positions[0]: positions for positions in chains}
        gone = {p for positions in first.values() for p in positions[1:]}
        items: list[Item] = []
        for position, item in enumerate(self.items):
            if position in first:
                groups = (self.items[p] for p in first[position])
                items.append(tuple(op for g in groups if isinstance(g, tuple) for op in g))
            elif position not in gone:
                items.append(item)
        return Grouped(self.model, items)

    def hash_of(self, op: Op) -> int:
        """Structural hash of the kernel that an operator calls."""
        name = str(op.call.args[0].name_hint)
        if name not in self._hashes:
            self._hashes[name] = int(tvm_ffi.structural_hash(op.func))
        return self._hashes[name]

    def after(self, positions: Iterable[int]) -> set[int]:
        """Positions of the items that read what those at ``positions`` make."""
        made = (r for p in positions for r in results_of(self.items[p]))
        return {at for r in made for at in self.readers.get(r, ()) if at >= 0} - set(positions)

    def outputs(self, group: Group, among: int) -> list[relax.Var]:
        """What others read of a group that is part of the item ``among``."""
        inside = {id(op) for op in group}
        item = self.items[among]
        rest = [] if isinstance(item, Plain) else [op for op in item if id(op) not in inside]
        later = {v for op in rest for v in op.reads}
        return [
            r
            for op in group
            for r in op.results
            if r in later or any(at != among for at in self.readers.get(r, ()))
        ]


def _items(model: Model) -> list[Item]:
    """Bindings of ``main`` in order, primitive functions taken apart."""
    bindings = bindings_of(model)
    fields: dict[relax.Var, list[relax.Binding]] = {}
    whole: set[relax.Var] = set(relax.analysis.free_vars(model.main.body.body))
    for binding in bindings:
        if isinstance(binding.value, relax.TupleGetItem):
            fields.setdefault(binding.value.tuple_value, []).append(binding)
        else:
            whole |= set(relax.analysis.free_vars(binding.value))
    taken: set[relax.Var] = set()
    items: list[Item] = []
    for binding in bindings:
        var, value = binding.var, binding.value
        if var in taken:
            continue
        ops = _inlined(model.mod, var, value)
        if ops and isinstance(ops[-1].var.ty, tvm.ir.TupleType):
            parts = sorted(fields.get(var, []), key=lambda b: int(b.value.index))
            every = len(var.ty.fields) == len({int(b.value.index) for b in parts}) == len(parts)
            if var in whole or not every:
                ops = ()
            else:
                taken |= {b.var for b in parts}
                last = ops[-1]
                results = tuple(b.var for b in parts)
                ops = (*ops[:-1], Op(last.call, last.func, last.name, var, results))
        items.append(ops or Plain(var, value))
    return items


def _inlined(mod: tvm.IRModule, var: relax.Var, value: relax.Expr) -> Group:
    """The operators of one binding; none if it is no group of plain ``call_tir``."""
    if not isinstance(value, relax.Call):
        return ()
    if is_call_tir(value):
        return (_op(mod, var, value),)
    func = mod.functions.get(value.op) if isinstance(value.op, tvm.ir.GlobalVar) else None
    if not isinstance(func, relax.Function) or not isinstance(func.body, relax.SeqExpr):
        return ()
    known: dict[relax.Var, relax.Expr] = dict(zip(func.params, value.args, strict=True))
    inner = [b for block in func.body.blocks for b in block.bindings]
    if not all(is_call_tir(b.value) for b in inner) or func.body.body not in [inner[-1].var]:
        return ()
    ops = []
    for binding in inner:
        args = [known.get(a, a) for a in _operands(binding)]
        last = binding is inner[-1]
        known[binding.var] = var if last else relax.Var(binding.var.name, binding.var.ty)
        call = relax.call_tir(binding.value.args[0], relax.Tuple(args), out_types(binding.value))
        ops.append(_op(mod, known[binding.var], call))
    return tuple(ops)


def _operands(binding: relax.Binding) -> Sequence[relax.Expr]:
    fields: Sequence[relax.Expr] = binding.value.args[1].fields
    return fields


def out_types(call: relax.Call) -> object:
    """What ``relax.call_tir`` is told of the outputs of a call."""
    (ty,) = call.ty_args
    return list(ty.fields) if isinstance(ty, tvm.ir.TupleType) else ty


def _op(mod: tvm.IRModule, var: relax.Var, call: relax.Call) -> Op:
    gv = call.args[0]
    return Op(call, mod[gv], str(gv.name_hint), var, (var,))


def is_call_tir(value: relax.Expr) -> bool:
    """Whether an expression is a call of a kernel."""
    return isinstance(value, relax.Call) and value.op == tvm.ir.Op.get("relax.call_tir")


class Emitter:
    """Puts groups into a function under construction, each as a primitive function of its own."""

    def __init__(self, kernels: Mapping[tvm.ir.GlobalVar, tirx.PrimFunc]) -> None:
        self.builder = relax.BlockBuilder(tvm.IRModule(dict(kernels)))
        self.known: dict[relax.Var, relax.Expr] = {}

    def plain(self, item: Plain) -> None:
        """Emit a binding as it is."""
        value = _Substitute(self.known).visit_expr(item.value)
        self.known[item.var] = self.builder.emit(value, item.var.name)

    def group(self, group: Group, outputs: Sequence[relax.Var]) -> None:
        """Emit a group, of which ``outputs`` are read."""
        if len(group) == 1:
            (op,) = group
            args = [self.known.get(a, a) for a in op.operands]
            made = self.builder.emit(
                relax.call_tir(op.call.args[0], relax.Tuple(args), out_types(op.call)), op.var.name
            )
            self._bind(op.results if len(op.results) > 1 else [op.var], made)
            return
        func, inputs = primitive(group, outputs)
        gv = self.builder.add_func(func, "fused_" + "_".join(op.name for op in group))
        made = self.builder.emit(relax.Call(gv, [self.known.get(v, v) for v in inputs]))
        self._bind(outputs, made)

    def _bind(self, results: Sequence[relax.Var], made: relax.Var) -> None:
        if len(results) == 1:
            self.known[results[0]] = made
            return
        for index, result in enumerate(results):
            self.known[result] = self.builder.emit(relax.TupleGetItem(made, index), result.name)


def primitive(
    group: Group, outputs: Sequence[relax.Var]
) -> tuple[relax.Function, list[relax.Expr]]:
    """The primitive function of a group of several operators, and the operands it is called on."""
    own = {r for op in group for r in op.results}
    inputs = list(dict.fromkeys(a for op in group for a in op.operands if a not in own))
    known = {a: relax.Var(getattr(a, "name", f"constant{i}"), a.ty) for i, a in enumerate(inputs)}
    builder = relax.BlockBuilder()
    params = [known[v] for v in inputs]
    with builder.function("group", params, attrs={"Primitive": True}, private=True):
        with builder.dataflow():
            for op in group:
                args = [known[a] for a in op.operands]
                call = relax.call_tir(op.call.args[0], relax.Tuple(args), out_types(op.call))
                made = builder.emit(call, op.var.name)
                if op.results == (op.var,):
                    known[op.var] = made
                else:
                    fields = (relax.TupleGetItem(made, i) for i in range(len(op.results)))
                    known |= {r: builder.emit(f) for r, f in zip(op.results, fields, strict=True)}
            read = [known[v] for v in outputs]
            out = builder.emit_output(read[0] if len(read) == 1 else relax.Tuple(read))
        builder.emit_func_output(out)
    return builder.get()["group"], inputs


@relax.expr_functor.mutator
class _Substitute(relax.PyExprMutator):  # type: ignore[misc]
    def __init__(self, known: Mapping[relax.Var, relax.Expr]) -> None:
        super().__init__()
        self._known = known

    def visit_var_(self, var: relax.Var) -> relax.Expr:
        return self._known.get(var, var)

    def visit_dataflow_var_(self, var: relax.Var) -> relax.Expr:
        return self._known.get(var, var)


def regrouped(grouped: Grouped, split: Mapping[int, Iterable[Group]]) -> tvm.IRModule:
    """The graph with other groups, as a module of primitive functions and ``main``.

    Args:
        grouped: the graph.
        split: position of an item -> the groups that its operators form.
    """
    model = grouped.model
    kernels = {g: f for g, f in model.mod.functions_items() if g.name_hint != "main"}
    emitter = Emitter(kernels)
    params = list(model.main.params)
    emitter.known |= {p: p for p in params}
    waiting: list[tuple[int, Item]] = [
        (position, part)
        for position, item in enumerate(grouped.items)
        for part in split.get(position, (item,))
        if not (isinstance(part, Plain) and part.var in [model.main.body.body])
    ]
    with emitter.builder.function("main", params, attrs=dict(model.main.attrs or {})):
        with emitter.builder.dataflow():
            while waiting:
                later = []
                for position, item in waiting:
                    if any(v not in emitter.known for v in reads_of(item)):
                        later.append((position, item))
                    elif isinstance(item, Plain):
                        emitter.plain(item)
                    else:
                        emitter.group(item, grouped.outputs(item, position))
                if len(later) == len(waiting):
                    raise RuntimeError("groups that read each other")
                waiting = later
            result = model.main.body.body
            tuples = [i.value for i in grouped.items if isinstance(i, Plain) and i.var in [result]]
            value = tuples[0] if tuples and isinstance(tuples[0], relax.Tuple) else result
            out = emitter.builder.emit_output(_Substitute(emitter.known).visit_expr(value))
        emitter.builder.emit_func_output(out)
    return emitter.builder.get()
