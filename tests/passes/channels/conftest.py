"""Models of any graph, made by emitting operators, and the same in NumPy float64 without TVM's kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from scipy.special import erf
from tvm import relax

from passes.model import Model, TensorSpec

Array = NDArray[Any]


class Draft:
    """A canonical model under construction; weights are made as they are met, biases never zero."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0) -> None:
        self.bb = relax.BlockBuilder()
        self.rng = np.random.default_rng(seed)
        self.x = relax.Var("x", relax.TensorType(list(shape), "float32"))
        self.weights: dict[str, Array] = {}
        self.params: dict[str, relax.Var] = {}
        self._function = self.bb.function("main", [self.x])
        self._function.__enter__()
        self._dataflow = self.bb.dataflow()
        self._dataflow.__enter__()

    def emit(self, expr: relax.Expr) -> relax.Var:
        return self.bb.emit(expr)

    def weight(self, name: str, *shape: int) -> relax.Var:
        if name not in self.params:
            scale = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 1.0
            self.weights[name] = (scale * self.rng.standard_normal(shape)).astype(np.float32)
            self.params[name] = relax.Var(name, relax.TensorType(list(shape), "float32"))
        return self.params[name]

    def conv(
        self,
        x: relax.Var,
        name: str,
        out: int,
        kernel: int = 3,
        *,
        bias: bool = True,
        groups: int = 1,
        padding: int | None = None,
        **attrs: Any,
    ) -> relax.Var:
        weight = self.weight(f"{name}.w", out, shape(x)[-1] // groups, kernel, kernel)
        attrs |= {"padding": kernel // 2 if padding is None else padding, "groups": groups}
        y = self.emit(
            relax.op.nn.conv2d(x, weight, data_layout="NHWC", kernel_layout="OIHW", **attrs)
        )
        return self.emit(relax.op.add(y, self.weight(f"{name}.b", out))) if bias else y

    def linear(self, x: relax.Var, name: str, out: int, *, bias: bool = True) -> relax.Var:
        weight = self.weight(f"{name}.w", out, shape(x)[-1])
        y = self.emit(relax.op.matmul(x, self.emit(relax.op.permute_dims(weight, [1, 0]))))
        return self.emit(relax.op.add(y, self.weight(f"{name}.b", out))) if bias else y

    def relu(self, x: relax.Var) -> relax.Var:
        return self.emit(relax.op.nn.relu(x))

    def pooled(self, x: relax.Var) -> relax.Var:
        return self.emit(relax.op.mean(x, axis=[1, 2]))

    def flat(self, x: relax.Var) -> relax.Var:
        return self.emit(relax.op.reshape(x, (shape(x)[0], -1)))

    def model(self, *outputs: relax.Var) -> Model:
        result = self.bb.emit_output(relax.Tuple(list(outputs)))
        self._dataflow.__exit__(None, None, None)
        self.bb.emit_func_output(result)
        self._function.__exit__(None, None, None)
        module = tvm.IRModule(dict(self.bb.get().functions_items()))
        body = module["main"]
        main = relax.Function([self.x, *self.params.values()], body.body, body.ret_ty)
        specs = tuple(TensorSpec(f"y{i}", shape(y), "float32") for i, y in enumerate(outputs))
        inputs = (TensorSpec("x", shape(self.x), "float32"),)
        module["main"] = main.with_attr("global_symbol", "main")
        return Model(module, self.weights, inputs, specs, "draft").check("the test")


def shape(expr: relax.Expr) -> tuple[int, ...]:
    return tuple(int(d) for d in expr.ty.shape.values)


@pytest.fixture(scope="session")
def draft() -> type[Draft]:
    return Draft


@pytest.fixture(scope="session")
def evaluate() -> Callable[..., list[Array]]:
    """``evaluate(model, x, weights={})``: the outputs in float64, some weights replaced."""

    def run(model: Model, x: Array, weights: Mapping[str, Array] | None = None) -> list[Array]:
        given = {**model.weights, **(weights or {})}
        values: dict[relax.Var, Any] = {model.main.params[0]: x.astype(np.float64)}
        for param in model.main.params[1:]:
            values[param] = given[param.name].astype(np.float64)

        def read(expr: relax.Expr) -> Any:
            if isinstance(expr, relax.Tuple):
                return tuple(read(field) for field in expr.fields)
            if isinstance(expr, relax.TupleGetItem):
                return read(expr.tuple_value)[expr.index]
            if isinstance(expr, tvm.ir.GenericConst):
                return expr.value.numpy()
            if isinstance(expr, relax.ShapeExpr):
                return tuple(int(d) for d in expr.values)
            if isinstance(expr, relax.Call):
                name = expr.op.name.removeprefix("relax.")
                return OPERATORS[name](expr.attrs, *(read(a) for a in expr.args))
            return values[expr] if isinstance(expr, relax.Var) else float(expr.value)

        for block in model.main.body.blocks:
            for binding in block.bindings:
                values[binding.var] = read(binding.value)
                if isinstance(binding.var.ty, relax.TensorType):
                    assert values[binding.var].shape == shape(binding.var)
        return list(values[model.main.body.body])

    return run


def windows(x: Array, kernel: tuple[int, int], attrs: Any, fill: float) -> Array:
    """[N, Ho, Wo, C, kh, kw] of an image [N, H, W, C]."""
    top, left, bottom, right = (int(p) for p in attrs.padding)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    (sh, sw), (dh, dw) = ([int(n) for n in a] for a in (attrs.strides, attrs.dilation))
    reach = ((kernel[0] - 1) * dh + 1, (kernel[1] - 1) * dw + 1)
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axis=(1, 2))
    return view[:, ::sh, ::sw, :, ::dh, ::dw]


def conv2d(attrs: Any, x: Array, w: Array) -> Array:
    assert (attrs.data_layout, attrs.kernel_layout, attrs.out_layout) == ("NHWC", "OIHW", "NHWC")
    groups = int(attrs.groups)
    parts = np.split(windows(x, w.shape[2:], attrs, 0.0), groups, axis=3)
    pairs = zip(parts, np.split(w, groups), strict=True)
    return np.concatenate([np.einsum("nhwcrs,ocrs->nhwo", p, k) for p, k in pairs], axis=-1)


def pool(attrs: Any, x: Array, fill: float, reduce: Callable[..., Array]) -> Array:
    size = tuple(int(n) for n in attrs.pool_size)
    return reduce(windows(x, size, attrs, fill), axis=(4, 5))


def layer_norm(attrs: Any, x: Array, gain: Array, shift: Array) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + float(attrs.epsilon))
    return unit * gain + shift


def split(attrs: Any, x: Array) -> tuple[Array, ...]:
    cuts = attrs.indices_or_sections
    ends = int(cuts) if isinstance(cuts, tvm.tirx.IntImm | int) else [int(c) for c in cuts]
    return tuple(np.split(x, ends, axis=int(attrs.axis)))


OPERATORS: dict[str, Callable[..., Any]] = {
    "add": lambda a, x, y: x + y,
    "multiply": lambda a, x, y: x * y,
    "nn.relu": lambda a, x: np.maximum(x, 0),
    "nn.gelu": lambda a, x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
    "sigmoid": lambda a, x: 1 / (1 + np.exp(-x)),
    "clip": lambda a, x, low, high: np.clip(x, low, high),
    "matmul": lambda a, x, y: x @ y,
    "permute_dims": lambda a, x: x.transpose([int(i) for i in a.axes]),
    "reshape": lambda a, x, to: x.reshape(to),
    "squeeze": lambda a, x: x.squeeze(tuple(int(i) for i in a.axis)),
    "broadcast_to": lambda a, x, to: np.broadcast_to(x, to),
    "concat": lambda a, parts: np.concatenate(parts, axis=int(a.axis)),
    "split": split,
    "mean": lambda a, x: x.mean(tuple(int(i) for i in a.axis), keepdims=bool(a.keepdims)),
    "cumsum": lambda a, x: x.cumsum(int(a.axis)),
    "nn.softmax": lambda a, x: np.exp(x) / np.exp(x).sum(int(a.axis), keepdims=True),
    "nn.layer_norm": layer_norm,
    "nn.conv2d": conv2d,
    "nn.max_pool2d": lambda a, x: pool(a, x, -np.inf, np.max),
    "nn.avg_pool2d": lambda a, x: pool(a, x, 0.0, np.mean),
    "nn.pad": lambda a, x: np.pad(x, np.reshape([int(w) for w in a.pad_width], (-1, 2))),
}
