"""Dataflow patterns of the canonical form: what a variable is made of, and who reads it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from tvm import relax
from tvm.relax.dpl import DFPattern, is_op, is_tuple_get_item, wildcard

from passes.model import Model
from targets.kernels.window import Window

ELEMENTWISE = frozenset(
    {
        "relax.nn.gelu",
        "relax.nn.gelu_tanh",
        "relax.nn.relu",
        "relax.nn.silu",
        "relax.nn.leakyrelu",
        "relax.tanh",
        "relax.sigmoid",
        "relax.erf",
        "relax.exp",
        "relax.square",
        "relax.clip",
        "relax.negative",
        "relax.abs",
        "relax.sqrt",
        "relax.rsqrt",
        "relax.add",
        "relax.subtract",
        "relax.multiply",
        "relax.divide",
        "relax.power",
        "relax.maximum",
        "relax.minimum",
    }
)
"""Operators that compute each number from the numbers at the same place."""


@dataclass(frozen=True)
class LinearMatch:
    """``y = x W^T (+ b)``: variables of the graph; the names are those of weight parameters.

    With a ``window`` it is a convolution: x is an image, and each row of the product a window of it.
    """

    x: relax.Var
    y: relax.Var
    weight: str
    bias: str | None
    window: Window | None = None

    @property
    def in_features(self) -> int:
        return shape_of(self.x)[-1] if self.window is None else self.window.features

    @property
    def out_features(self) -> int:
        return shape_of(self.y)[-1]

    @property
    def rows(self) -> int:
        """Rows of the product: all leading axes of y together."""
        return prod(shape_of(self.y)[:-1])


@dataclass(frozen=True)
class AttentionMatch:
    """``o = reshape(attention(...))``, [B, S, H * D]; q, k, v are what is reshaped to heads."""

    q: relax.Var
    k: relax.Var
    v: relax.Var
    o: relax.Var
    attention: relax.Var
    heads: int
    head_dim: int


class Flow:
    """The bindings of a model's ``main`` and the canonical patterns in them."""

    def __init__(self, model: Model) -> None:
        self._weights = model.weights
        self._values = dict(relax.analysis.get_var2val(model.main))
        self._vars = {value: var for var, value in self._values.items()}
        self.order = {
            b.var: i for i, b in enumerate(b for c in model.main.body.blocks for b in c.bindings)
        }
        self._readers: dict[relax.Var, list[relax.Var]] = {}
        self._varying = dict.fromkeys(p for p in model.main.params if p.name not in model.weights)
        for var in self.order:
            reads = list(relax.analysis.free_vars(self._values[var]))
            for read in reads:
                self._readers.setdefault(read, []).append(var)
            if any(read in self._varying for read in reads):
                self._varying[var] = None

    def readers(self, var: relax.Var) -> list[relax.Var]:
        """The variables whose value reads ``var``."""
        return self._readers.get(var, [])

    def call(self, var: relax.Expr, *ops: str) -> relax.Call | None:
        """The value of ``var`` if it is a call of one of ``ops`` (with "relax.")."""
        value = self._values.get(var) if isinstance(var, relax.Var) else None
        return value if isinstance(value, relax.Call) and _name(value) in ops else None

    def match(self, pattern: DFPattern, var: relax.Expr) -> dict[DFPattern, relax.Expr] | None:
        """What each part of a pattern stands for; parts that are bound are given as variables."""
        found = pattern.extract_matched_expr(var, self._values)
        if found is None:
            return None
        return {part: self._vars.get(expr, expr) for part, expr in found.items()}

    def weight(self, expr: relax.Expr, rank: int) -> str | None:
        """The name of the weight that an expression is, if it is one with this many axes."""
        known = isinstance(expr, relax.Var) and expr.name in self._weights
        return expr.name if known and len(shape_of(expr)) == rank else None

    def linears(self) -> list[LinearMatch]:
        """All linear layers and convolutions that are linear on windows, in order."""
        found = (self.linear(var) for var in self.order)
        return [m for m in found if m is not None and self._biased(m.y) is None]

    def linear(self, var: relax.Expr) -> LinearMatch | None:
        """The linear layer that ends in ``var``, its bias included."""
        if self.call(var, "relax.add", "relax.matmul", "relax.nn.conv2d") is None:
            return None
        x, w, b = wildcard(), wildcard(), wildcard()
        products = {
            2: is_op("relax.matmul")(x, is_op("relax.permute_dims")(w)),
            4: is_op("relax.nn.conv2d")(x, w),
        }
        for rank, product in products.items():
            for pattern in (is_op("relax.add")(product, b), product):
                match = self.match(pattern, var)
                if match is None:
                    continue
                weight = self.weight(match[w], rank)
                bias = self.weight(match[b], 1) if b in match else None
                window = window_of(self._values[match[product]]) if rank == 4 else None
                whole = isinstance(match[x], relax.Var) and (rank == 2 or window is not None)
                if weight is not None and whole and (bias or b not in match):
                    return LinearMatch(match[x], var, weight, bias, window)
        return None

    def _biased(self, product: relax.Var) -> LinearMatch | None:
        """The linear layer of which ``product`` is only the part before its bias."""
        for reader in self.readers(product):
            match = self.linear(reader)
            if match is not None and self.call(reader, "relax.add") is not None:
                return match
        return None

    def attentions(self) -> list[AttentionMatch]:
        """All attentions on [B, S, H, D] whose result is joined to [B, S, H * D], in order."""
        found = (self.attention(var) for var in self.order)
        return [m for m in found if m is not None]

    def attention(self, var: relax.Var) -> AttentionMatch | None:
        """The attention whose joined result is ``var``."""
        q, k, v, bias = (wildcard() for _ in range(4))
        parts = [is_op("relax.reshape")(t, wildcard()) for t in (q, k, v)]
        plain = is_op("relax.nn.attention")(*parts)
        biased = is_op("relax.nn.attention_bias")(*parts, bias)
        for core in (plain, biased):
            match = self.match(is_op("relax.reshape")(core, wildcard()), var)
            if match is None:
                continue
            call = self._values[match[core]]
            batch, seq, heads, dim = shape_of(call.args[0])
            joined = shape_of(var) == (batch, seq, heads * dim)
            alike = all(shape_of(a)[2:] == (heads, dim) for a in call.args[:3])
            if joined and alike:
                return AttentionMatch(match[q], match[k], match[v], var, match[core], heads, dim)
        return None

    def third(self, var: relax.Expr, index: int) -> relax.Var | None:
        """The variable of which ``var`` is the third number ``index`` along the last axis."""
        source = wildcard()
        split = is_op("relax.split")(source)
        match = self.match(is_tuple_get_item(split, index), var)
        if match is None:
            return None
        call = self._values[match[split]]
        last = int(call.attrs.axis) in (-1, len(shape_of(call.args[0])) - 1)
        widths = {shape_of_type(field) for field in call.ty.fields}
        found = match[source]
        whole = last and len(call.ty.fields) == 3 and len(widths) == 1
        return found if whole and isinstance(found, relax.Var) else None

    def normalised(self, var: relax.Expr) -> relax.Var | None:
        """x if ``var`` is the layer normalisation of x over its last axis."""
        call = self.call(var, "relax.nn.layer_norm")
        if call is None or [int(a) for a in call.attrs.axes] not in ([-1], [call.ty.ndim - 1]):
            return None
        return call.args[0] if isinstance(call.args[0], relax.Var) else None

    def varies(self, var: relax.Expr) -> bool:
        """Whether a variable depends on an input of the model."""
        return var in self._varying

    def cuts(self) -> list[relax.Var]:
        """The variables, inputs among them, that alone carry what is needed later; in order."""
        last: dict[relax.Var, int] = {}
        for var in self._varying:
            ends = [self.order[r] for r in self._readers.get(var, [])]
            last[var] = max(ends, default=-1)
        live: set[relax.Var] = {v for v in self._varying if v not in self.order and last[v] >= 0}
        found = list(live) if len(live) == 1 else []
        for var, at in self.order.items():
            live = {v for v in live if last[v] > at}
            if var in self._varying and last[var] > at:
                live.add(var)
                if len(live) == 1 and isinstance(var.ty, relax.TensorType):
                    found.append(var)
        return found

    def only_reader(self, var: relax.Var) -> relax.Var | None:
        """The one variable that reads ``var``; None if there are none or several."""
        readers = self.readers(var)
        return readers[0] if len(readers) == 1 else None

    def elementwise_source(self, var: relax.Var) -> tuple[relax.Var, list[str]] | None:
        """The one variable that ``var`` is an elementwise function of, and the operators between.

        Only numbers may enter besides it, and nothing outside may read what is between.
        """
        between: list[relax.Var] = []
        pending, sources = [var], set()
        while pending:
            at = pending.pop()
            call = self.call(at, *ELEMENTWISE)
            if call is None or self.linear(at) is not None:
                sources.add(at)
                continue
            if at not in between:
                between.append(at)
                pending += [a for a in call.args if isinstance(a, relax.Var)]
        inside = {*between, var}
        closed = all(r in inside for v in between if not v.same_as(var) for r in self.readers(v))
        if len(sources) != 1 or not between or not closed:
            return None
        source = sources.pop()
        if any(r not in inside for r in self.readers(source)):
            return None
        ops = [_name(self._values[v]).split(".")[-1] for v in reversed(between)]
        return source, ops


def window_of(conv: relax.Call) -> Window | None:
    """The windows of a canonical R.nn.conv2d; None if it is grouped or not canonical."""
    attrs = conv.attrs
    canonical = (str(attrs.data_layout), str(attrs.kernel_layout)) == ("NHWC", "OIHW")
    if not canonical or int(attrs.groups) != 1:
        return None
    _, height, width, channels = shape_of(conv.args[0])
    kernel = shape_of(conv.args[1])[2:]
    strides, padding, dilation = (
        tuple(int(v) for v in values) for values in (attrs.strides, attrs.padding, attrs.dilation)
    )
    return Window(
        height,
        width,
        channels,
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (padding[0], padding[1], padding[2], padding[3]),
        (dilation[0], dilation[1]),
    )


def shape_of(expr: relax.Expr) -> tuple[int, ...]:
    """The static shape of a tensor expression."""
    return shape_of_type(expr.ty)


def shape_of_type(ty: relax.TensorType) -> tuple[int, ...]:
    """The static shape that a tensor type states."""
    return tuple(int(n) for n in ty.shape.values)


def _name(call: relax.Call) -> str:
    return str(getattr(call.op, "name", ""))
