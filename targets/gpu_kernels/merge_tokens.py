"""`targets.kernels.merge_tokens` for GPUs: the same decisions, each token's by work items of its own.

Where that goes through the tokens one after the other, this counts: a token's rank is the number of those that cost
more, its place the number of kept ones before it, and what is merged is a sum over all tokens of those that belong.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import te, tirx

from targets.kernels.merge_tokens import FAMILY_NAME, PADDING, STRIDE
from targets.kernels.primfunc import axis, dims, f32, family, prim_func

_OPAQUE = 8  # relax's OpPatternKind: nothing is fused into it
_LOWEST = -3.4028234663852886e38
_NOWHERE = 1 << 30


def merge_tokens_gpu(batch: int, seq: int, keep: int, width: int) -> tirx.PrimFunc:
    """PrimFunc that leaves ``keep`` of ``seq`` tokens, as `merge_tokens` does; see there for the arguments.

    Raises:
        ValueError: ``keep`` is not from 1 to ``seq``.
    """
    if not 1 <= keep <= seq:
        raise ValueError(f"{keep} of {seq} tokens cannot be kept")
    x = te.placeholder(dims(batch, seq, width), "float32", name="x")
    bias = te.placeholder(dims(batch, 1, 1, seq), "float32", name="bias")
    size = te.placeholder(dims(batch, seq), "float32", name="size")
    tokens, limit = dims(batch, seq), tirx.IntImm("int32", keep)

    def each(name: str, value: Callable[..., tirx.Expr]) -> te.Tensor:
        return te.compute(tokens, value, name=name)

    def over(name: str, value: Callable[..., tirx.Expr], reducer: te.CommReducer) -> te.Tensor:
        k = axis(seq, f"{name}_k")
        return te.compute(tokens, lambda n, j: reducer(value(n, j, k), axis=k), name=name)

    d = axis(-(-width // STRIDE), "d")
    like = te.compute(
        dims(batch, seq, seq),
        lambda n, i, j: te.sum(x[n, i, d * STRIDE] * x[n, j, d * STRIDE], axis=d),
        name="like",
    )
    real = each("real", lambda n, j: _one_if(bias[n, 0, 0, j] > f32(PADDING)))
    inverse = each(
        "inverse",
        lambda n, j: tirx.Select(
            like[n, j, j] > f32(1e-30), f32(1) / tirx.sqrt(like[n, j, j]), f32(0)
        ),
    )

    def cosine(n: tirx.Var, j: tirx.Var, k: tirx.Expr) -> tirx.Expr:
        value = like[n, k, j] * inverse[n, k] * inverse[n, j]
        earlier = tirx.all(k < j, real[n, k] != 0, value > f32(-1))  # no NaN is
        return tirx.Select(earlier, value, f32(-1))

    nearest = over("nearest", cosine, te.max)

    def loss(n: tirx.Var, j: tirx.Var) -> tirx.Expr:
        merged = tirx.Select(nearest[n, j] < 1, (f32(1) - nearest[n, j]) * size[n, j], f32(0))
        first = tirx.Select(j == 0, f32(-_LOWEST), merged)  # it has none before it
        return tirx.Select(real[n, j] != 0, first, f32(-1))

    cost = each("cost", loss)

    def dearer(n: tirx.Var, j: tirx.Var, k: tirx.Expr) -> tirx.Expr:
        same = tirx.all(cost[n, k] == cost[n, j], k < j)
        return _one_if(tirx.any(cost[n, k] > cost[n, j], same))

    rank = over("rank", dearer, te.sum)
    kept = each("kept", lambda n, j: _one_if(rank[n, j] < limit))
    slot = over("slot", lambda n, j, k: tirx.Select(k < j, kept[n, k], _i32(0)), te.sum)

    def leads(n: tirx.Var, j: tirx.Var, k: tirx.Expr) -> tirx.Expr:
        value = like[n, k, j] * inverse[n, k]
        earlier = tirx.all(k < j, kept[n, k] != 0, real[n, k] != 0, value > f32(_LOWEST))
        return tirx.Select(earlier, value, f32(_LOWEST))

    most = over("most", leads, te.max)

    def first_of(n: tirx.Var, j: tirx.Var, k: tirx.Expr) -> tirx.Expr:
        value = leads(n, j, k)
        found = tirx.all(value == most[n, j], value > f32(_LOWEST))
        return tirx.Select(found, slot[n, k], _i32(_NOWHERE))

    leader = over("leader", first_of, te.min)

    def target(n: tirx.Var, k: tirx.Var) -> tirx.Expr:
        other = tirx.Select(leader[n, k] < _i32(_NOWHERE), leader[n, k], _i32(0))
        return tirx.Select(kept[n, k] != 0, slot[n, k], other)

    place = each("place", target)

    def belongs(n: tirx.Var, s: tirx.Var, k: tirx.Expr) -> tirx.Expr:
        counts = tirx.any(kept[n, k] != 0, real[n, k] != 0)
        return tirx.all(place[n, k] == s.astype("int32"), counts)

    a, b, c = axis(seq, "a"), axis(seq, "b"), axis(seq, "c")
    new_size = te.compute(
        dims(batch, keep),
        lambda n, s: te.sum(tirx.Select(belongs(n, s, a), size[n, a], f32(0)), axis=a),
        name="new_size",
    )
    total = te.compute(
        dims(batch, keep, width),
        lambda n, s, i: te.sum(
            tirx.Select(belongs(n, s, b), x[n, b, i] * size[n, b], f32(0)), axis=b
        ),
        name="total",
        attrs=family(FAMILY_NAME),
    )
    merged = te.compute(
        dims(batch, keep, width), lambda n, s, i: total[n, s, i] / new_size[n, s], name="merged"
    )

    def grown(n: tirx.Var, s: tirx.Var) -> tirx.Expr:
        own = tirx.all(kept[n, c] != 0, slot[n, c] == s.astype("int32"))
        value = bias[n, 0, 0, c] + tirx.log(new_size[n, s] / size[n, c])
        return te.sum(tirx.Select(own, value, f32(0)), axis=c)

    new_bias = te.compute(dims(batch, 1, 1, keep), lambda n, _, __, s: grown(n, s), name="new_bias")
    func = prim_func([x, bias, size, merged, new_bias, new_size, place])
    return func.with_attr("op_pattern", _OPAQUE)


def _i32(value: int) -> tirx.IntImm:
    return tirx.IntImm("int32", value)


def _one_if(condition: tirx.Expr) -> tirx.Expr:
    """int32 1 or 0."""
    return tirx.Select(condition, _i32(1), _i32(0))
