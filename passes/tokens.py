"""Fewer tokens from a layer on: a static number, so that all shapes stay static.

At the input of a layer, tokens are merged into earlier ones that they are like, padding first (see
`targets.kernels.merge_tokens`); every later layer runs on those that are left. Behind the last layer
each token gets the row of the one that stands for it. So whatever reads the sequence there (a mean
with a mask, the first token, the user) stays as it is, and a mean weighs each row by its tokens.

The idea of a schedule of lengths over layers is that of PoWER-BERT (Goyal et al., 2020), merging
instead of dropping that of ToMe (Bolya et al., 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from tvm import relax, tirx

from passes.errors import PassError
from passes.model import Model, TensorSpec
from passes.patterns import shape_of
from passes.report import Change, Refusal, Report
from passes.rewrite import Rewriting, rewrite
from passes.token_region import ATTENTION, Region, find_region
from targets.gpu_kernels.merge_tokens import merge_tokens_gpu
from targets.kernels.merge_tokens import gather_rows, merge_tokens

if TYPE_CHECKING:
    from passes.sites import Layer
    from targets.target import Target

NAME = "tokens"

BIAS = "tokens.bias"
"""Name of the input that `with_bias` adds."""


@dataclass(frozen=True)
class TokensConfig:
    """What is offered.

    Attributes:
        shares: shares of the tokens kept.
        multiple: lengths are multiples of it: attention works on whole vectors of keys.
    """

    shares: tuple[float, ...] = (0.75, 0.5, 0.25)
    multiple: int = 16


def keep_tokens(
    model: Model, layers: Sequence[Layer], keep: Mapping[str, int], target: Target
) -> tuple[Model, Report]:
    """Leave fewer tokens at the inputs of some layers, and give all of them back behind the last.

    The graph stays canonical: sites stay valid, those of the layers then work on shorter inputs.

    Args:
        model: canonical, none of its layers in another format yet.
        layers: all layers of the model in order of computation.
        keep: tokens that go on, by name of the layer; fewer at each.
        target: decides how tokens are merged.

    Raises:
        PassError: no such layer, lengths that do not fall, a model that needs the whole sequence.
    """
    steps = {layer: keep[layer.name] for layer in layers if layer.name in keep}
    if not keep or len(steps) != len(keep):
        raise PassError(
            "tokens cannot be merged there",
            got=", ".join(sorted(keep)) or "no layer",
            allowed=", ".join(layer.name for layer in layers),
        )
    region = find_region(model, layers[layers.index(next(iter(steps))) :])
    lengths = [shape_of(region.start)[1], *steps.values()]
    if any(b >= a or b < 1 for a, b in pairwise(lengths)):
        raise PassError(
            "the number of tokens must fall",
            got=" to ".join(str(n) for n in lengths),
            allowed=f"fewer at each layer, from {lengths[0] - 1} to 1",
        )
    edit = _TokensEdit(region, {layer.input: n for layer, n in steps.items()}, merging(target))
    written = rewrite(model, model.weights, edit, name=NAME)
    changes = (Change(x.name, NAME, f"{n} of {lengths[0]} tokens") for x, n in steps.items())
    return written, Report(NAME, tuple(changes))


def with_bias(model: Model, layers: Sequence[Layer]) -> tuple[Model, str]:
    """The model whose attention reads a bias from a variable, and that variable's name.

    Where there is none it is a new last input `BIAS`, float32 [batch, 1, 1, tokens]: of zeros, it
    changes nothing, and a very low number hides a token.

    Raises:
        PassError: as `find_region`.
    """
    region = find_region(model, layers)
    if region.bias is not None:
        return model, region.bias.name
    batch, seq, _ = shape_of(region.start)
    zeros = np.zeros((batch, 1, 1, seq), np.float32)

    def edit(graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in region.inside:
            return None
        return _attention(graph, value, graph.weight(BIAS))

    written = rewrite(model, {BIAS: zeros, **model.weights}, edit, name=NAME)
    # the parameters of weights follow those of inputs, so the first of them becomes the last input
    spec = TensorSpec(BIAS, zeros.shape, "float32")
    weights = {n: w for n, w in written.weights.items() if n != BIAS}
    inputs = (*model.inputs, spec)
    return replace(written, weights=weights, inputs=inputs).check(NAME), BIAS


def length(model: Model, layers: Sequence[Layer]) -> int:
    """Tokens of the sequence that the layers work on; raises PassError as `find_region`."""
    return shape_of(find_region(model, layers).start)[1]


def choices(
    model: Model, layers: Sequence[Layer], config: TokensConfig | None = None
) -> tuple[list[dict[str, int]], list[Refusal]]:
    """Settings ``{"keep": tokens}`` offered at every layer of a model, most first, or why none is."""
    config = config or TokensConfig()
    if not layers:
        return [], []
    name = layers[0].name
    try:
        seq = length(model, layers)
    except PassError as error:
        return [], [Refusal(name, NAME, error.got or str(error))]
    offers: list[dict[str, int]] = []
    refusals: list[Refusal] = []
    for share in sorted(config.shares, reverse=True):
        fewer = max(1, round(share * seq / config.multiple)) * config.multiple
        if fewer >= seq:
            reason = f"{share:g} of {seq} tokens, rounded to {config.multiple}, merges none"
            refusals.append(Refusal(name, f"{NAME} {share:g}", reason))
        elif {"keep": fewer} not in offers:
            offers.append({"keep": fewer})
    return offers, refusals


@dataclass
class _Short:
    """The sequence as it is at some place: tokens, their bias and sizes, and where each went."""

    bias: relax.Expr
    size: relax.Expr
    place: relax.Expr | None = None


Merge = Callable[[int, int, int, int], tirx.PrimFunc]
"""From batch, tokens, those to keep and width to the kernel that merges."""


def merging(target: Target) -> Merge:
    """The kernel that merges tokens on a target: one loop after the other, or each token for itself on a GPU."""
    return partial(merge_tokens, lanes=target.lanes) if target.gpu is None else merge_tokens_gpu


class _TokensEdit:
    """Shortens the variables of a region; ``keep`` tokens by the names of layers' inputs."""

    def __init__(self, region: Region, keep: Mapping[str, int], merge: Merge) -> None:
        self._region = region
        self._keep = dict(keep)
        self._merge = merge
        self._short: _Short | None = None

    def __call__(self, graph: Rewriting, var: relax.Var, value: relax.Expr) -> relax.Expr | None:
        if var not in self._region.inside:
            return None
        for read in relax.analysis.free_vars(value):
            if (fewer := self._keep.pop(read.name, None)) is not None:
                graph.put(read, self._merged(graph, read, fewer))
        written = self._on_fewer(graph, value)
        if not var.same_as(self._region.end):
            return written
        return self._given_back(
            graph, graph.emit(graph.new(value) if written is None else written, var.name), var
        )

    def _on_fewer(self, graph: Rewriting, value: relax.Expr) -> relax.Expr | None:
        """What states its shape or reads the bias, for fewer tokens; None for anything else."""
        assert self._short is not None
        if (call := graph.call(value, "reshape")) is not None:
            x = graph.new(call.args[0])
            return relax.op.reshape(x, [*shape_of(x)[:2], *shape_of(value)[2:]])
        return _attention(graph, value, self._short.bias)

    def _merged(self, graph: Rewriting, old: relax.Var, keep: int) -> relax.Var:
        x = graph.new(old)
        batch, seq, width = shape_of(x)
        short = self._short or self._whole(graph, batch, seq)
        kernel = self._merge(batch, seq, keep, width)
        types = [
            relax.TensorType([batch, keep, width], "float32"),
            relax.TensorType([batch, 1, 1, keep], "float32"),
            relax.TensorType([batch, keep], "float32"),
            relax.TensorType([batch, seq], "int32"),
        ]
        call = relax.call_tir(
            graph.kernel(kernel, "merge_tokens"), [x, short.bias, short.size], types
        )
        made = graph.emit(call, "tokens")
        fewer, bias, size, place = (graph.emit(relax.TupleGetItem(made, i)) for i in range(4))
        if short.place is not None:
            place = graph.emit(_gather(graph, place, short.place), "place")
        self._short = _Short(bias, size, place)
        return fewer

    def _whole(self, graph: Rewriting, batch: int, seq: int) -> _Short:
        """The sequence before anything is merged."""
        bias = self._region.bias
        ones, zeros = np.ones((batch, seq), np.float32), np.zeros((batch, 1, 1, seq), np.float32)
        return _Short(relax.const(zeros) if bias is None else graph.new(bias), relax.const(ones))

    def _given_back(self, graph: Rewriting, short: relax.Var, old: relax.Var) -> relax.Var:
        assert self._short is not None
        return graph.emit(_gather(graph, short, self._short.place), f"{old.name}_all")


def _attention(graph: Rewriting, value: relax.Expr, bias: relax.Expr) -> relax.Expr | None:
    """An attention with this bias in place of its own; None if ``value`` is anything else."""
    for op in ATTENTION:
        if (call := graph.call(value, op.removeprefix("relax."))) is not None:
            q, k, v = (graph.new(a) for a in call.args[:3])
            return relax.op.nn.attention(q, k, v, bias, scale=call.attrs.scale)
    return None


def _gather(graph: Rewriting, x: relax.Expr, index: relax.Expr) -> relax.Call:
    """Rows ``index`` [batch, rows] of x [batch, n, ...]."""
    shape, rows, dtype = shape_of(x), shape_of(index)[1], str(x.ty.dtype)
    kernel = graph.kernel(gather_rows(shape, rows, dtype), "gather_rows")
    ty = relax.TensorType([shape[0], rows, *shape[2:]], dtype)
    return relax.call_tir(kernel, [x, index], ty)
