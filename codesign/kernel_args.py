"""What arguments a kernel takes, so that random ones can be made that stay in bounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import tvm_ffi
from tvm import ir, tirx
from tvm.sym import Analyzer, detect_linear_equation


@dataclass(frozen=True)
class KernelArg:
    """One argument of a kernel.

    Attributes:
        shape, dtype: of the tensor.
        output: the kernel writes it.
        bound: values are indices in [0, bound); 0 if they are not used as indices.
    """

    shape: tuple[int, ...]
    dtype: str
    output: bool = False
    bound: int = 0

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"shape": list(self.shape)}


def kernel_args(func: tirx.PrimFunc) -> tuple[KernelArg, ...]:
    """Arguments of a kernel with static shapes.

    Give the function before scheduling: afterwards intrinsics may hide what is read and written.

    Raises:
        ValueError: an argument is no tensor of static shape.
    """
    written = _written(func)
    bounds = _index_bounds(func)
    return tuple(
        _arg(p, written, min((b for source, b in bounds if source.same_as(p)), default=0))
        for p in func.params
    )


def _arg(param: ir.Var, written: list[ir.Var], bound: int) -> KernelArg:
    if not isinstance(param.ty, tirx.BufferType):
        raise ValueError(f"argument {param.name} is not a tensor")
    if any(not isinstance(d, tirx.IntImm) for d in param.ty.shape):
        raise ValueError(f"argument {param.name} has no static shape: {param.ty.shape}")
    shape = tuple(int(d) for d in param.ty.shape)
    output = any(param.same_as(w) for w in written)
    return KernelArg(shape, str(param.ty.dtype), output, bound)


def _written(func: tirx.PrimFunc) -> list[ir.Var]:
    found: list[ir.Var] = []
    tvm_ffi.structural_walk(func.body, (tirx.BufferStore, lambda store: found.append(store.buffer)))
    return found


def _index_bounds(func: tirx.PrimFunc) -> list[tuple[ir.Var, int]]:
    """Tensors whose values index another tensor, with how many values are valid there.

    Every index expression is taken apart as ``coefficient * load + rest``; the largest value of
    the rest over all loops must stay inside the dimension together with the load.
    """
    analyzer = _loop_ranges(func)
    bounds: list[tuple[ir.Var, int]] = []

    def visit(load: ir.TensorLoad) -> None:
        for extent, index in zip(load.source.ty.shape, load.indices, strict=True):
            for inner in _integer_loads(index):
                bounds.append((inner.source, _bound(index, inner, extent, analyzer)))

    tvm_ffi.structural_walk(func.body, (ir.TensorLoad, visit))
    return bounds


def _loop_ranges(func: tirx.PrimFunc) -> Analyzer:
    analyzer = Analyzer()

    def loop(node: tirx.For) -> None:
        analyzer.bind(node.loop_var, ir.Range.from_min_extent(node.min, node.extent), True)

    def axis(node: tirx.IterVar) -> None:
        if node.dom is not None:
            analyzer.bind(node.var, node.dom, True)

    tvm_ffi.structural_walk(func.body, ((tirx.For, loop), (tirx.IterVar, axis)))
    return analyzer


def _integer_loads(index: ir.Expr) -> list[ir.TensorLoad]:
    loads: list[ir.TensorLoad] = []
    tvm_ffi.structural_walk(index, (ir.TensorLoad, lambda load: loads.append(load)))
    return [load for load in loads if "int" in str(load.source.ty.dtype)]


def _bound(index: ir.Expr, inner: ir.TensorLoad, extent: ir.Expr, analyzer: Analyzer) -> int:
    value = tirx.Var("value", str(extent.ty.dtype))

    def replace(node: ir.TensorLoad) -> ir.Expr:
        same = tvm_ffi.structural_equal(node, inner)
        return value.astype(str(inner.source.ty.dtype)) if same else node

    def uncast(node: tirx.Cast) -> ir.Expr:
        return value if _is_cast_of(node, value) else node

    plain = tvm_ffi.structural_map(index, ((ir.TensorLoad, replace), (tirx.Cast, uncast)))
    parts = detect_linear_equation(plain, [value])
    if not parts:
        return 1  # index 0 only: not linear, but surely inside if anything is
    coefficient = int(analyzer.simplify(parts[0]))
    rest = analyzer.const_int_bound(parts[1]).max_value
    return max(1, (int(extent) - 1 - int(rest)) // coefficient + 1) if coefficient > 0 else 1


def _is_cast_of(node: tirx.Cast, value: ir.Var) -> bool:
    inner = node.value
    while isinstance(inner, tirx.Cast):
        inner = inner.value
    return inner.same_as(value)
