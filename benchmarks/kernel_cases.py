"""What ``benchmarks.kernels`` times: each kernel family on the shapes of a model, with its reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, softmax
from tvm import tirx

from targets.kernels.attention import attention
from targets.kernels.attention_int8 import attention_int8, attention_int8_reference
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense, pack_dense
from targets.kernels.linear_int8 import GROUP, dense_int8, pack_int8
from targets.kernels.linear_sparse import pack_sparse, sparse
from targets.kernels.linear_sparse_int8 import pack_sparse_int8, sparse_int8
from targets.kernels.norm import layer_norm
from targets.kernels.quantize import quantize_reference, quantize_rows
from targets.kernels.softmax import softmax as softmax_kernel

Array = NDArray[np.generic]

ROWS = 128
"""Tokens of the one sentence that all shapes are for."""

DENSITIES = (0.5, 0.25)


@dataclass(frozen=True)
class Encoder:
    """The sizes of one model's layer: what they are called in BERT."""

    hidden: int
    ffn: int
    heads: int

    @property
    def linears(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers: QKV, attention's output, up, down."""
        c, f = self.hidden, self.ffn
        return (c, 3 * c), (c, c), (c, f), (f, c)


ENCODERS = {"minilm": Encoder(384, 1536, 12), "bert-base": Encoder(768, 3072, 12)}


@dataclass(frozen=True)
class Case:
    """One kernel on one shape.

    Attributes:
        kernel, shape: for the table.
        dtype: of the arithmetic that dominates: float32 or int8.
        func: the unscheduled function.
        inputs: its arguments but for the outputs.
        outputs: shape and dtype of each output.
        expected: the first output in float64.
        operations: useful additions and multiplications; 0 where counting them says nothing.
        moved: bytes read and written, each once.
    """

    kernel: str
    shape: str
    dtype: str
    func: tirx.PrimFunc
    inputs: tuple[Array, ...]
    outputs: tuple[tuple[tuple[int, ...], str], ...]
    expected: NDArray[np.float64]
    operations: int = 0

    @property
    def moved(self) -> int:
        results = sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in self.outputs)
        return results + sum(a.nbytes for a in self.inputs)


def cases(model: str, block: int) -> Iterator[Callable[[], Case]]:
    """Makers of all cases of a model, for weights packed to blocks of ``block`` outputs."""
    encoder = ENCODERS[model]
    for k, n in encoder.linears:
        yield partial(linear_case, k, n, block)
        yield partial(int8_case, k, n, block)
        for density in DENSITIES:
            yield partial(sparse_case, k, n, block, density)
            yield partial(sparse_int8_case, k, n, block, density)
    up = encoder.hidden, encoder.ffn
    yield lambda: linear_case(*up, block, gelu=True)
    yield lambda: int8_case(*up, block, gelu=True)
    yield lambda: attention_case(encoder.heads, encoder.hidden // encoder.heads)
    yield lambda: attention_int8_case(encoder.heads, encoder.hidden // encoder.heads)
    for width in (encoder.hidden, encoder.ffn):
        yield partial(quantize_case, width)
    yield lambda: norm_case(encoder.hidden)
    yield lambda: softmax_case(encoder.heads)


def _random() -> np.random.Generator:
    return np.random.default_rng(0)


def _gelu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 0.5 * x * (1 + erf(x / np.sqrt(2)))


def _finished(
    name: str, k: int, n: int, func: tirx.PrimFunc, y: NDArray[np.float64], gelu: bool
) -> tuple[str, str, tirx.PrimFunc, Array, NDArray[np.float64]]:
    """(kernel, shape, function, bias, expected) of a linear layer with bias, and GELU if asked for."""
    bias = _random().standard_normal(n).astype(np.float32)
    func = with_epilogue(func, bias=True, activation="gelu" if gelu else "")
    y = y + bias
    label = f"{name} + gelu" if gelu else name
    return label, f"{ROWS}x{k}x{n}", func, bias, _gelu(y) if gelu else y


def linear_case(k: int, n: int, block: int, gelu: bool = False) -> Case:
    """Dense float32 with bias."""
    rng = _random()
    x = rng.standard_normal((1, ROWS, k)).astype(np.float32)
    w = rng.standard_normal((n, k)).astype(np.float32) * np.float32(k**-0.5)
    y = x.astype(np.float64) @ w.T.astype(np.float64)
    name, shape, func, bias, y = _finished("dense", k, n, dense((1, ROWS), k, n, block), y, gelu)
    inputs = x, pack_dense(w, block), bias
    return Case(
        name, shape, "float32", func, inputs, (((1, ROWS, n), "float32"),), y, 2 * ROWS * k * n
    )


def sparse_case(k: int, n: int, block: int, density: float) -> Case:
    """Vector-sparse float32 with bias."""
    rng = _random()
    kept = round(k * density)
    mask = _mask(-(-n // block), k, kept)
    x = rng.standard_normal((1, ROWS, k)).astype(np.float32)
    w = rng.standard_normal((n, k)).astype(np.float32) * np.float32(k**-0.5)
    w *= np.repeat(mask, block, axis=0)[:n]
    values, index = pack_sparse(w, mask, block)
    y = x.astype(np.float64) @ w.T.astype(np.float64)
    func = sparse((1, ROWS), k, n, block, kept)
    name, shape, func, bias, y = _finished(f"sparse {density:g}", k, n, func, y, False)
    inputs = x, values, index, bias
    return Case(
        name, shape, "float32", func, inputs, (((1, ROWS, n), "float32"),), y, 2 * ROWS * kept * n
    )


def int8_case(k: int, n: int, block: int, gelu: bool = False) -> Case:
    """Dense int8 with bias."""
    activations, q, wscale, exact = _int8_operands(k, n, None)
    w, wsum = pack_int8(q, block)
    func = dense_int8((1, ROWS), k, n, block)
    name, shape, func, bias, y = _finished("dense", k, n, func, exact, gelu)
    inputs = *activations, w, wscale, wsum, bias
    return Case(
        name, shape, "int8", func, inputs, (((1, ROWS, n), "float32"),), y, 2 * ROWS * k * n
    )


def sparse_int8_case(k: int, n: int, block: int, density: float) -> Case:
    """Vector-sparse int8 with bias."""
    groups = k // GROUP
    kept = round(groups * density)
    mask = _mask(-(-n // block), groups, kept)
    activations, q, wscale, exact = _int8_operands(k, n, np.repeat(mask, block, axis=0)[:n])
    values, index, wsum = pack_sparse_int8(q, mask, block)
    func = sparse_int8((1, ROWS), k, n, block, kept)
    name, shape, func, bias, y = _finished(f"sparse {density:g}", k, n, func, exact, False)
    inputs = *activations, values, index, wscale, wsum, bias
    operations = 2 * ROWS * kept * GROUP * n
    return Case(name, shape, "int8", func, inputs, (((1, ROWS, n), "float32"),), y, operations)


def _mask(blocks: int, groups: int, kept: int) -> NDArray[np.bool_]:
    """The same number of kept groups in every row, at random places."""
    rng = _random()
    mask = np.zeros((blocks, groups), bool)
    for row in mask:
        row[rng.permutation(groups)[:kept]] = True
    return mask


def _int8_operands(
    k: int, n: int, kept: NDArray[np.bool_] | None
) -> tuple[tuple[Array, ...], NDArray[np.int8], NDArray[np.float32], NDArray[np.float64]]:
    """((q, scale, zero), weight codes [n, k], weight scales, exact product)."""
    rng = _random()
    x = quantize_reference(rng.standard_normal((1, ROWS, k)).astype(np.float32))
    q = rng.integers(-127, 128, (n, k)).astype(np.int8)
    if kept is not None:
        q *= np.repeat(kept, GROUP, axis=1).astype(np.int8)
    wscale = (rng.random(n) / 127 * k**-0.5).astype(np.float32)
    steps = (x.q.astype(np.int64) - x.zero[..., None]).astype(np.float64)
    exact = (steps @ q.T.astype(np.float64)) * x.scale[..., None].astype(np.float64) * wscale
    return tuple(x), q, wscale, exact


def attention_case(heads: int, dim: int) -> Case:
    """Self-attention with a mask over the keys."""
    qkv, bias = _attention_operands(heads, dim)
    func = attention(1, ROWS, heads, dim, bias.shape, dim**-0.5)
    parts = np.split(qkv.astype(np.float64), 3, axis=-1)
    q, k, v = (p.reshape(1, ROWS, heads, dim).transpose(0, 2, 1, 3) for p in parts)
    p = softmax(q @ k.transpose(0, 1, 3, 2) * dim**-0.5 + bias, axis=-1)
    out = (p @ v).transpose(0, 2, 1, 3).reshape(1, ROWS, heads * dim)
    return _attention("float32", heads, dim, func, (qkv, bias), out)


def attention_int8_case(heads: int, dim: int) -> Case:
    """The same with products in int8; what is compared is the result of the same codes."""
    qkv, bias = _attention_operands(heads, dim)
    func = attention_int8(1, ROWS, heads, dim, bias.shape, dim**-0.5)
    out = attention_int8_reference(qkv, bias, heads, dim**-0.5).astype(np.float64)
    return _attention("int8", heads, dim, func, (qkv, bias), out)


def _attention_operands(heads: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(qkv f32[1, rows, 3*heads*dim], bias f32[1, 1, 1, rows])."""
    qkv = _random().standard_normal((1, ROWS, 3 * heads * dim)).astype(np.float32)
    bias = np.where(np.arange(ROWS) < ROWS - 9, 0, -1e9).astype(np.float32)
    return qkv, bias.reshape(1, 1, 1, ROWS)


def _attention(
    dtype: str,
    heads: int,
    dim: int,
    func: tirx.PrimFunc,
    inputs: tuple[Array, ...],
    out: NDArray[np.float64],
) -> Case:
    shape = f"{ROWS}x{heads}x{dim}"
    outputs = (((1, ROWS, heads * dim), "float32"),)
    operations = 4 * ROWS * ROWS * heads * dim
    return Case("attention", shape, dtype, func, inputs, outputs, out, operations)


def quantize_case(width: int) -> Case:
    """Quantisation of activations; what is compared are the codes."""
    x = _random().standard_normal((1, ROWS, width)).astype(np.float32)
    padded = -(-width // GROUP) * GROUP
    outputs = (
        ((1, ROWS, padded), "uint8"),
        ((1, ROWS), "float32"),
        ((1, ROWS), "int32"),
    )
    expected = quantize_reference(x).q.astype(np.float64)
    func = quantize_rows((1, ROWS), width)
    return Case("quantize", f"{ROWS}x{width}", "int8", func, (x,), outputs, expected)


def norm_case(width: int) -> Case:
    """Layer norm."""
    rng = _random()
    x = rng.standard_normal((1, ROWS, width)).astype(np.float32)
    gamma, beta = rng.standard_normal((2, width)).astype(np.float32)
    wide = x.astype(np.float64)
    mean, var = wide.mean(-1, keepdims=True), wide.var(-1, keepdims=True)
    y = (wide - mean) / np.sqrt(var + 1e-12) * gamma + beta
    func = layer_norm((1, ROWS, width), 1e-12)
    outputs = ((x.shape, "float32"),)
    return Case("layer_norm", f"{ROWS}x{width}", "float32", func, (x, gamma, beta), outputs, y)


def softmax_case(heads: int) -> Case:
    """Softmax of one layer's scores."""
    x = _random().standard_normal((heads, ROWS, ROWS)).astype(np.float32)
    func = softmax_kernel(x.shape)
    expected = softmax(x.astype(np.float64), axis=-1)
    outputs = ((x.shape, "float32"),)
    return Case("softmax", f"{heads}x{ROWS}x{ROWS}", "float32", func, (x,), outputs, expected)
