"""Layers of quantised models that integer kernels can compute, as the graph says them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax

from passes.lower_conv import window_of
from passes.model import Model
from passes.patterns import shape_of
from passes.report import Refusal
from passes.rewrite import Rewriting, bindings_of
from passes.sites import Linear
from targets.kernels.quantize_static import LAST_CODE

NAME = "integers"

VIEWS = frozenset({"relax.reshape", "relax.permute_dims", "relax.strided_slice"})
"""Operators that move codes and do not look at them."""

SIGNED = 128
"""What is added to int8 codes so that they are uint8."""

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Static:
    """A layer on codes whose scale and zero point are known.

    Attributes:
        site: its weight is the parameter of codes.
        inputs: variable of the codes [..., K], or of the image of codes.
        weight: int8 [N, K], zero points taken off.
        scale: float32 [N], of the weight.
        step, zero: of the codes of inputs; zero as uint8 codes have it.
    """

    site: Linear
    inputs: relax.Var
    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    step: float
    zero: int
    kind: ClassVar[str] = "static int8"


@dataclass(frozen=True)
class Dynamic:
    """A product of codes with an int8 weight, ``astype(matmul(codes - zero, weight), float32)``.

    Attributes:
        inputs: variable of uint8 codes [..., K].
        zero: variable of their zero point, one number.
        weight: int8 [N, K].
    """

    site: Linear
    inputs: relax.Var
    zero: relax.Expr
    weight: NDArray[np.int8]
    kind: ClassVar[str] = "dynamic int8"


class Codes:
    """What is known of a graph: values, and which codes of activations may become uint8."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = Rewriting(model, {})
        self.made: dict[relax.Var, relax.Var] = {}
        """A tensor of codes -> the result of ``quantize`` that it is, or a view of."""
        bad: set[relax.Var] = set()
        outputs = set(relax.analysis.free_vars(model.main.body.body))
        for binding in bindings_of(model):
            var, value = binding.var, binding.value
            name = op_of(value)
            root = self.made.get(value.args[0]) if name in (*VIEWS, "relax.dequantize") else None
            if name == "relax.quantize" and self._quantizes(value):
                self.made[var] = var
            elif root is not None and name in VIEWS:
                self.made[var] = root
            elif self.made and (root is None or self.numbers(value) is None):
                bad |= {self.made[v] for v in relax.analysis.free_vars(value) if v in self.made}
        bad |= {self.made[v] for v in outputs if v in self.made}
        self.made = {var: root for var, root in self.made.items() if root not in bad}

    def _quantizes(self, call: relax.Call) -> bool:
        """Whether a kernel for constant scales does what ``call`` does."""
        known = self.numbers(call) is not None and call.ty.ndim >= 1
        types = str(call.args[0].ty.dtype), str(call.attrs.out_dtype)
        return known and types in (("float32", "uint8"), ("float32", "int8"))

    def numbers(self, call: relax.Call) -> tuple[float, int] | None:
        """Scale and zero point of ``quantize`` or ``dequantize`` if both are one number."""
        arrays = [self.known(a) for a in call.args[1:]]
        if any(a is None or a.size != 1 for a in arrays):
            return None
        scale, zero = (a.reshape(()) for a in arrays if a is not None)
        return float(scale), int(zero)

    def known(self, expr: relax.Expr) -> Array | None:
        """The array of a weight or of a constant."""
        if isinstance(expr, tvm.ir.GenericConst):
            array: Array = expr.value.numpy()
            return array
        return self.model.weights.get(expr.name) if isinstance(expr, relax.Var) else None

    def raised(self, codes: relax.Var) -> int:
        """What these codes have more in the new graph than in the old one."""
        return SIGNED if codes in self.made and str(codes.ty.dtype) == "int8" else 0


def static_layer(codes: Codes, binding: relax.Binding) -> Static | Refusal | None:
    """The layer that ends in a binding; why it stays float32; None if its weight is no codes."""
    graph, call = codes.graph, binding.value
    product, conv = graph.call(call, "matmul"), graph.call(call, "nn.conv2d")
    turned = None if product is None else graph.call(product.args[1], "permute_dims")
    source = turned.args[0] if turned is not None else None if conv is None else conv.args[1]
    weight = None if source is None else graph.call(source, "dequantize")
    if weight is None or (array := codes.known(weight.args[0])) is None:
        return None
    name = weight.args[0].name
    given, taken = _given(codes, call.args[0]), _taken(codes, weight, array)
    reason = None if conv is None else _unlike_kernels(conv)
    if reason is not None or isinstance(given, str) or isinstance(taken, str):
        texts = (reason, given, taken)
        return Refusal(name, NAME, next(t for t in texts if isinstance(t, str)))
    rows = prod(shape_of(binding.var)[:-1])
    n, k = taken[0].shape
    window = None if conv is None else window_of(conv)
    site = Linear(name, name, None, rows, k, n, window)
    return Static(site, given[0], *taken, *given[1:])


def _unlike_kernels(conv: relax.Call) -> str | None:
    """What kernels of integers lack for a convolution; None if nothing."""
    if int(conv.attrs.groups) != 1:
        return f"a convolution in {int(conv.attrs.groups)} groups has no integer kernel"
    if (conv.attrs.data_layout, conv.attrs.out_layout) != ("NHWC", "NHWC"):
        return "its image does not lie channels last"
    return None


def _given(codes: Codes, x: relax.Expr) -> tuple[relax.Var, float, int] | str:
    """Codes of a layer's inputs, their scale, and what stands for zero; or why there are none."""
    call = codes.graph.call(x, "dequantize")
    if call is None:
        return "its inputs are no codes"
    var, numbers = call.args[0], codes.numbers(call)
    if numbers is None:
        return "the codes of its inputs have more than one scale"
    if str(var.ty.dtype) != "uint8" and var not in codes.made:
        return f"the {var.ty.dtype} codes of its inputs are read as they are elsewhere"
    zero = numbers[1] + codes.raised(var)
    if not 0 <= zero <= LAST_CODE:
        return "the zero point of its inputs is none of their codes"
    return var, numbers[0], zero


def _taken(
    codes: Codes, call: relax.Call, array: Array
) -> tuple[NDArray[np.int8], NDArray[np.float32]] | str:
    """Codes [N, K] without zero points and scales [N] of a weight, or why kernels cannot have them."""
    scale, zero = (codes.known(a) for a in call.args[1:])
    if array.ndim not in (2, 4) or array.dtype.kind not in "iu" or array.dtype.itemsize != 1:
        return f"its weight is {array.dtype}{list(array.shape)}"
    if scale is None or zero is None:
        return "the scales of its weight are computed"
    n = len(array)
    if scale.size not in (1, n) or zero.size not in (1, n) or (scale.size > 1 and call.attrs.axis):
        return "the scales of its weight are not one an output"
    flat = array.reshape(n, -1).astype(np.int32) - zero.reshape(-1, 1).astype(np.int32)
    if not _is_int8(flat):
        return "its weight less its zero points is wider than int8"
    return flat.astype(np.int8), np.broadcast_to(scale.reshape(-1), n).astype(np.float32)


def dynamic_layer(codes: Codes, binding: relax.Binding) -> Dynamic | Refusal | None:
    """The product of integers that a binding gives as float32, if it is one with a known weight."""
    graph = codes.graph
    cast = graph.call(binding.value, "astype")
    product = None if cast is None else graph.call(cast.args[0], "matmul")
    if (
        cast is None
        or product is None
        or str(product.ty.dtype) != "int32"
        or str(cast.ty.dtype) != "float32"
    ):
        return None
    array = codes.known(product.args[1])
    name = f"{binding.var.name}.weight"
    if array is None or array.ndim != 2:
        return Refusal(name, NAME, "both factors of the product are computed")
    if not _is_int8(array):
        return Refusal(name, NAME, "its weight less its zero point is wider than int8")
    less = graph.call(product.args[0], "subtract")
    wide = None if less is None else graph.call(less.args[0], "astype")
    if less is None or wide is None or str(wide.args[0].ty.dtype) != "uint8":
        return Refusal(name, NAME, "its inputs are no uint8 codes less their zero point")
    if prod(shape_of(less.args[1])) != 1 or wide.args[0].ty.ndim < 2:
        return Refusal(name, NAME, "the codes of its inputs have more than one zero point")
    weight = np.ascontiguousarray(array.T).astype(np.int8)
    rows = prod(shape_of(binding.var)[:-1])
    site = Linear(name, name, None, rows, *array.shape)
    return Dynamic(site, wide.args[0], less.args[1], weight)


def op_of(value: relax.Expr) -> str:
    return (
        value.op.name if isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.Op) else ""
    )


def _is_int8(array: Array) -> bool:
    return bool(array.min(initial=0) >= -128 and array.max(initial=0) <= 127)
