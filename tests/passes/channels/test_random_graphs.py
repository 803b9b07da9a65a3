"""Random graphs: pruned, they compute what the dense ones do without the columns of what is gone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from passes.channels.groups import find_groups
from passes.channels.prune import prune_channels

op = relax.op
WIDTHS = st.sampled_from([2, 3, 4, 6, 8])


def shape(var):
    return tuple(int(d) for d in var.ty.shape.values)


class Growth:
    """Grows a graph on a draft: ``images`` are all tensors [N, H, W, C] made so far."""

    def __init__(self, net, data):
        self.net, self.data, self.count = net, data, 0
        self.images = [net.x]

    def draw(self, strategy):
        return self.data.draw(strategy)

    def pick(self, fits=lambda v: True):
        found = [v for v in reversed(self.images) if fits(v)]
        return self.draw(st.sampled_from(found)) if found else None

    def name(self, kind):
        self.count += 1
        return f"{kind}{self.count}"

    def emit(self, expr):
        return self.net.emit(expr)

    def conv(self, x):
        kernel = self.draw(st.sampled_from([1, 3]))
        attrs = {"strides": self.draw(st.sampled_from([1, 1, 2])), "bias": self.draw(st.booleans())}
        if kernel == 3 and min(shape(x)[1:3]) >= 3:
            attrs["dilation"] = self.draw(st.sampled_from([1, 2]))
            attrs["padding"] = self.draw(st.sampled_from([1, [2, 1, 2, 3]]))
            if attrs["dilation"] == 2:
                attrs["padding"] = 2
        return self.net.conv(x, self.name("conv"), self.draw(WIDTHS), kernel, **attrs)

    def linear(self, x):
        return self.net.linear(x, self.name("linear"), self.draw(WIDTHS))

    def grouped(self, x):
        width = shape(x)[-1]
        divisors = [g for g in range(2, width + 1) if width % g == 0]
        if not divisors:
            return None
        groups = self.draw(st.sampled_from(divisors))
        out = groups * self.draw(st.sampled_from([1, 2, 3]))
        return self.net.conv(x, self.name("grouped"), out, 3, groups=groups)

    def shared(self, x):
        """A convolution with the weight of another one."""
        width = shape(x)[-1]
        same = [
            n[:-2]
            for n, w in self.net.weights.items()
            if n.startswith("conv") and w.ndim == 4 and w.shape[1] == width and w.shape[2] == 3
        ]
        if not same:
            return None
        name = self.draw(st.sampled_from(same))
        bias = f"{name}.b" in self.net.params
        return self.net.conv(x, name, len(self.net.weights[f"{name}.w"]), 3, bias=bias)

    def activation(self, x):
        kind = self.draw(st.sampled_from([op.nn.relu, op.nn.gelu, op.sigmoid, None]))
        return self.emit(op.clip(x, -0.5, 0.5) if kind is None else kind(x))

    def pool(self, x):
        kind = self.draw(st.sampled_from([op.nn.max_pool2d, op.nn.avg_pool2d]))
        size = 2 if min(shape(x)[1:3]) >= 2 else 1
        return self.emit(kind(x, [size, size], strides=[size, size], layout="NHWC"))

    def residual(self, x):
        other = self.pick(lambda v: shape(v) == shape(x))
        branch = self.net.conv(other, self.name("conv"), shape(x)[-1], 3)
        return self.emit(op.add(branch, x))

    def add(self, x):
        return self.emit(op.add(x, self.pick(lambda v: shape(v) == shape(x))))

    def concat(self, x):
        parts = [x]
        for _ in range(self.draw(st.integers(1, 2))):
            parts.append(self.pick(lambda v: shape(v)[:3] == shape(x)[:3]))
        return self.emit(op.concat(parts, axis=self.draw(st.sampled_from([-1, 3]))))

    def split(self, x):
        width = shape(x)[-1]
        if width < 2:
            return None
        even = width % 2 == 0 and self.draw(st.booleans())
        cuts = 2 if even else [self.draw(st.integers(1, width - 1))]
        parts = self.emit(op.split(x, cuts, axis=-1))
        first, second = (self.emit(relax.TupleGetItem(parts, i)) for i in range(2))
        self.images.append(first)
        return second

    def excite(self, x):
        """Squeeze and excitation."""
        batch, _, _, width = shape(x)
        name, hidden = self.name("se"), self.draw(WIDTHS)
        keep = self.draw(st.booleans())
        gate = self.emit(op.mean(x, axis=[1, 2], keepdims=keep))
        gate = self.net.relu(self.net.linear(gate, f"{name}.down", hidden))
        gate = self.emit(op.sigmoid(self.net.linear(gate, f"{name}.up", width)))
        if not keep:
            gate = self.emit(op.reshape(gate, (batch, 1, 1, width)))
        if self.draw(st.booleans()):
            gate = self.emit(op.broadcast_to(gate, shape(x)))
        return self.emit(op.multiply(x, gate))

    def shuffle(self, x):
        batch, high, wide, width = shape(x)
        divisors = [g for g in range(2, width) if width % g == 0]
        if not divisors:
            return None
        groups = self.draw(st.sampled_from(divisors))
        parts = self.emit(op.reshape(x, (batch, high, wide, groups, width // groups)))
        return self.emit(op.reshape(self.emit(op.permute_dims(parts, [0, 1, 2, 4, 3])), shape(x)))

    def scale(self, x):
        gain = self.net.weight(self.name("gain"), shape(x)[-1])
        return self.emit(op.multiply(x, gain))

    def norm(self, x):
        name, width = self.name("norm"), shape(x)[-1]
        gain, shift = self.net.weight(f"{name}.w", width), self.net.weight(f"{name}.b", width)
        return self.emit(op.nn.layer_norm(x, gain, shift, axes=[-1]))

    def softmax(self, x):
        return self.emit(op.nn.softmax(x, axis=-1))

    def unknown(self, x):
        return self.emit(op.cumsum(x, axis=3))

    def pad(self, x):
        wide = self.draw(st.sampled_from([[0, 0, 1, 0, 0, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 2]]))
        return self.emit(op.nn.pad(x, wide))

    STEPS = (conv, conv, conv, linear, grouped, shared, activation, activation, pool, residual, add)
    STEPS += (concat, split, excite, shuffle, scale, norm, softmax, unknown, pad, residual, concat)

    def head(self, x):
        """An output: the image itself, its mean, or a layer on it, flattened in one order or the other."""
        kind = self.draw(st.sampled_from(["mean", "flat", "mean", "flat", "turned", "image"]))
        if kind == "image":
            return x
        if kind == "turned":
            x = self.emit(op.permute_dims(x, [0, 3, 1, 2]))
        flat = self.net.pooled(x) if kind == "mean" else self.net.flat(x)
        return self.net.linear(flat, self.name("head"), 5)

    def grow(self):
        for _ in range(self.draw(st.integers(4, 10))):
            x = self.pick() if self.draw(st.integers(0, 3)) == 3 else self.images[-1]
            y = self.draw(st.sampled_from(self.STEPS))(self, x)
            if y is not None and shape(y)[-1] <= 24:
                self.images.append(y)
        outputs = [self.head(self.images[-1])]
        if self.draw(st.integers(0, 3)) == 3:
            outputs.append(self.head(self.pick()))
        return self.net.model(*outputs)


def without_columns(model, keep):
    """The weights of consumers, zero in the columns of removed units."""
    zeroed = {}
    for group, kept in keep.items():
        for site in group.consumers:
            weight = zeroed.setdefault(site.weight, model.weights[site.weight].copy())
            owned = group.of(site.weight, 1).positions
            weight[:, np.delete(owned, kept, axis=0).reshape(-1)] = 0
    return zeroed


def check(data, draft, evaluate):
    """Grow a graph, prune random units of random groups, compare; the number of groups pruned."""
    seed = data.draw(st.integers(0, 2**20))
    size = data.draw(st.sampled_from([(1, 4, 4), (2, 5, 3)]))
    model = Growth(draft((*size, data.draw(st.sampled_from([1, 3, 4]))), seed), data).grow()
    rng = np.random.default_rng(seed)
    groups, _ = find_groups(model)
    keep = {
        group: rng.choice(group.size, rng.integers(1, group.size), replace=False)
        for group in groups
        if rng.random() < 0.8
    }
    pruned, report = prune_channels(model, keep)
    assert len(report.rewrites) == len(keep)
    x = rng.standard_normal(model.inputs[0].shape)
    wanted = evaluate(model, x, without_columns(model, keep))
    for got, want in zip(evaluate(pruned, x), wanted, strict=True):
        assert np.abs(got - want).max() <= 1e-9 * max(1, np.abs(want).max())
    for group in keep:
        for part in group.slices:
            if part.weight in pruned.weights:  # dead code loses its weights
                assert pruned.weights[part.weight].size < model.weights[part.weight].size
    return len(keep)


def run(examples, draft, evaluate):
    pruned = []

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def graphs(data):
        pruned.append(check(data, draft, evaluate))

    graphs()
    assert len(pruned) >= examples
    assert np.mean(np.array(pruned) > 0) > 0.6  # most graphs have something to prune


def test_random_graphs(draft, evaluate):
    run(100, draft, evaluate)


@pytest.mark.slow
def test_500_random_graphs(draft, evaluate):
    run(500, draft, evaluate)
