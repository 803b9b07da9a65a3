"""The graph that normalisation writes: emits operators, materialises views, collects weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tvm
from tvm import relax, tirx

from passes.normalize.values import Array, Static, Tensor, Value
from passes.normalize.views import Shape


class Graph:
    """A Relax function under construction.

    Every tensor operator goes through ``emit``, so that ``producer`` can tell what a variable is:
    rules look backwards through it to recognise a decomposed operator when its last part arrives.
    """

    def __init__(self, builder: relax.BlockBuilder, reserved: Sequence[str]) -> None:
        self._builder = builder
        self._kernels = dict(builder.get().functions_items())
        self._names = set(reserved)
        self._producers: dict[relax.Var, relax.Expr] = {}
        self._sources: dict[relax.Var, Tensor] = {}
        self._matmuls: dict[relax.Expr, tuple[Tensor, Tensor]] = {}
        self._read: dict[tuple[object, ...], relax.Var] = {}
        self._splits: dict[tuple[relax.Expr, int, int], relax.Var] = {}
        self._shared: dict[int, tuple[Static, relax.Expr]] = {}
        self.weights: dict[relax.Var, Array] = {}

    def emit(self, expr: relax.Expr) -> relax.Var:
        """Bind an expression to a new variable."""
        var = self._builder.emit(expr)
        self._producers[var] = self._builder.lookup_binding(var)
        return var

    def typed(self, expr: relax.Expr) -> relax.Expr:
        """An expression with its type, not bound to anything."""
        return self._builder.normalize(expr)

    def kernel(self, name: tvm.ir.GlobalVar) -> tirx.PrimFunc:
        """A kernel that the imported module brought along."""
        return self._kernels[name]

    def once(self, key: tuple[object, ...], make: Callable[[], relax.Expr]) -> relax.Var:
        """Emit what ``make`` gives, or return what an earlier call with this key emitted."""
        if key not in self._read:
            self._read[key] = self.emit(make())
        return self._read[key]

    def tensor(self, expr: relax.Expr) -> Tensor:
        """Bind an expression and return it as a value."""
        return Tensor.of(self.emit(expr))

    def producer(self, var: relax.Expr, *ops: str) -> relax.Call | None:
        """The call that made ``var`` if it is one of the operators ``ops`` (without "relax.")."""
        call = self._producers.get(var) if isinstance(var, relax.Var) else None
        if isinstance(call, relax.Call) and call.op.name.removeprefix("relax.") in ops:
            return call
        return None

    def source(self, var: relax.Expr) -> Tensor:
        """What ``var`` is a view of; itself if it was not materialised from a view."""
        found = self._sources.get(var)
        return Tensor.of(var) if found is None else found

    def known(self, expr: relax.Expr) -> Array | None:
        """The array behind a constant or a weight variable."""
        if isinstance(expr, tvm.ir.GenericConst):
            array: Array = expr.value.numpy()
            return array
        return self.weights.get(expr) if isinstance(expr, relax.Var) else None

    def note_matmul(self, var: relax.Expr, x: Tensor, y: Tensor) -> None:
        """Remember the operands of a product of two tensors as values."""
        self._matmuls[var] = (x, y)

    def matmul(self, var: relax.Expr) -> tuple[Tensor, Tensor] | None:
        """The operands of a product of two tensors, as values."""
        return self._matmuls.get(var)

    def scalar(self, expr: relax.Expr) -> float | None:
        """The number behind a constant of one element."""
        array = self.known(expr)
        return None if array is None or array.size != 1 else float(array.reshape(-1)[0])

    def read(self, value: Value) -> relax.Expr:
        """An expression with exactly this value."""
        if isinstance(value, Tensor):
            return self._materialise(value)
        if isinstance(value, Static):
            return self._static(value)
        if isinstance(value, tuple):
            return relax.Tuple([self.read(v) for v in value])
        return value

    def _materialise(self, value: Tensor) -> relax.Expr:
        if value.direct:
            return value.var
        key = (value.var, value.view.steps(), value.broadcast)
        if key not in self._read:
            self._read[key] = self._write(value)
            if value.broadcast is None:
                self._sources[self._read[key]] = value
        return self._read[key]

    def _write(self, value: Tensor) -> relax.Var:
        call = self.producer(value.var, "dequantize")
        if call is not None and isinstance(call.args[0], relax.Var) and _of_one_scale(call):
            # codes are what is moved: they are smaller, and the next layer may read them as they are
            codes = self.read(Tensor(call.args[0], value.view, value.broadcast))
            return self.emit(relax.Call(call.op, [codes, *call.args[1:]], call.attrs))
        first, axes, shape = value.view.steps()
        order = value.view.axis_order()
        if axes is not None and order is not None:
            var = self.emit(relax.op.permute_dims(value.var, list(order)))
        else:
            var = self._reshaped(value.var, first)
            if axes is not None:
                var = self.emit(relax.op.permute_dims(var, list(axes)))
            var = self._reshaped(var, shape)
        if value.broadcast is not None:
            var = self.emit(relax.op.broadcast_to(var, value.broadcast))
        return var

    def _reshaped(self, var: relax.Expr, shape: Shape) -> relax.Expr:
        same = Tensor.of(var).shape == shape
        return var if same else self.emit(relax.op.reshape(var, shape))

    def part(self, var: relax.Expr, axis: int, index: int, count: int) -> relax.Var:
        """One of ``count`` equal parts of an axis; all parts come from one R.split."""
        key = (var, axis, count)
        if key not in self._splits:
            rank = var.ty.ndim
            last = -1 if axis == rank - 1 else axis
            self._splits[key] = self.emit(relax.op.split(var, count, axis=last))
        return self.emit(relax.TupleGetItem(self._splits[key], index))

    def _static(self, value: Static) -> relax.Expr:
        """A constant, or a weight that all readers of the same value share."""
        key = id(value.array)
        if key not in self._shared:
            # the value is kept beside its expression, so that its id is not given to another array
            self._shared[key] = (value, self.weight(value) if _is_weight(value) else _const(value))
        return self._shared[key][1]

    def own(self, value: Static) -> Static:
        """The same value, not shared: its reader gets a weight of its own."""
        return Static(value.array.copy(), value.name)

    def weight(self, value: Static, fallback: str = "constant") -> relax.Var:
        """A weight shared with no other reader, named after where the value comes from."""
        array = _compact(value.array)
        base = value.name or fallback
        name, number = base, 1
        while name in self._names:
            number += 1
            name = f"{base}.{number}"
        self._names.add(name)
        var = relax.Var(name, relax.TensorType(array.shape, str(array.dtype)))
        self.weights[var] = array
        return var


def _of_one_scale(call: relax.Call) -> bool:
    return all(a.ty.ndim == 0 for a in call.args[1:])


def _is_weight(value: Static) -> bool:
    return value.array.size > 1 and value.array.dtype.kind == "f"


def _const(value: Static) -> relax.Expr:
    return relax.const(_compact(value.array), value.dtype)


def _compact(array: Array) -> Array:
    # ascontiguousarray alone turns a scalar into a vector
    return np.ascontiguousarray(array).reshape(array.shape)
