"""What every kernel becomes on AArch64, read in its assembly: the instruction meant, in registers.

Whether it computes the right numbers is tested by the other files, emulated (see conftest).
"""

from __future__ import annotations

import re

import pytest
import tvm
from tvm import te, topi

from targets.kernels.amx import lower_tiles
from targets.kernels.attention import attention, attention_short
from targets.kernels.attention_int8 import attention_int8
from targets.kernels.conv import conv
from targets.kernels.conv_depthwise import conv_depthwise
from targets.kernels.conv_int8 import conv_int8
from targets.kernels.conv_pattern import conv_pattern
from targets.kernels.conv_sparse import conv_sparse
from targets.kernels.conv_sparse_int8 import conv_sparse_int8
from targets.kernels.epilogue import with_epilogue
from targets.kernels.linear import dense
from targets.kernels.linear_bf16 import dense_bf16, round_to_bf16
from targets.kernels.linear_int8 import dense_int8, static_int8
from targets.kernels.linear_sparse import sparse
from targets.kernels.linear_sparse_int8 import sparse_int8
from targets.kernels.linear_weight_only import Codes, weight_only
from targets.kernels.merge_tokens import merge_tokens
from targets.kernels.norm import layer_norm
from targets.kernels.primfunc import dims, prim_func
from targets.kernels.quantize import quantize_rows
from targets.kernels.quantize_static import quantize_static
from targets.kernels.softmax import softmax
from targets.kernels.spaces import schedules
from targets.kernels.window import Window
from targets.target import KNOWN, find

NEON, DOTPROD, I8MM = "aarch64", "aarch64-dotprod", "aarch64-i8mm"
NB = 8
ROWS = (29,)
K_CODES = 384
"""Inputs of products of codes: LLVM unrolls the loop over a few whole, and keeps weights on the stack for the
next tile of rows."""
WINDOW = Window(14, 14, 64, (3, 3), padding=(1, 1, 1, 1))


def pooling(mode):
    x = te.placeholder(dims(1, 15, 13, 24), "float32", name="x")
    y = topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), mode, layout="NHWC")
    return prim_func([x, y])


PRODUCTS = {
    "linear": lambda: with_epilogue(dense(ROWS, 96, 64, NB), bias=True, activation="gelu"),
    "linear of one row": lambda: dense((1,), 96, 64, NB),
    "linear, tanh gelu": lambda: with_epilogue(dense(ROWS, 96, 64, NB), activation="gelu_tanh"),
    "sparse": lambda: with_epilogue(sparse(ROWS, 96, 64, NB, 40), residual=True),
    "weight only, 8 bits": lambda: weight_only((3,), 96, 64, NB, Codes(8, 32, True)),
    "weight only, 4 bits": lambda: weight_only((3,), 96, 64, NB, Codes(4, 32, False)),
    "conv": lambda: with_epilogue(conv(1, WINDOW, 64, NB), bias=True, activation="silu"),
    "conv sparse": lambda: conv_sparse(1, WINDOW, 64, NB, 256),
    "conv depthwise": lambda: with_epilogue(conv_depthwise(1, WINDOW), activation="relu"),
    "conv pattern": lambda: conv_pattern(1, WINDOW, 64, 20, 6, 4),
    "attention": lambda: attention(1, 61, 2, 32, (1, 1, 1, 61), 0.25),
    "attention, short": lambda: attention_short(1, 61, 2, 32, (1, 1, 1, 61), 0.25),
    "merge tokens": lambda: merge_tokens(1, 61, 40, 96, 4),
}
INT8 = {
    "int8": lambda: with_epilogue(dense_int8(ROWS, K_CODES, 64, NB), bias=True),
    "static int8": lambda: with_epilogue(static_int8(ROWS, K_CODES, 64, NB), bias=True, codes=True),
    "sparse int8": lambda: sparse_int8(ROWS, K_CODES, 64, NB, 40),
    "conv int8": lambda: with_epilogue(conv_int8(1, WINDOW, 64, NB), bias=True, codes=True),
    "conv sparse int8": lambda: conv_sparse_int8(1, WINDOW, 64, NB, 40),
    "attention int8": lambda: attention_int8(1, 61, 2, 32, (1, 1, 1, 61), 0.25),
}
ROW_BY_ROW = {
    "quantize": lambda: quantize_rows(ROWS, 1024),
    "quantize static": lambda: quantize_static((29, 96)),
    "round to bf16": lambda: round_to_bf16(ROWS, 96),
    "layer norm": lambda: layer_norm((*ROWS, 1024), 1e-5),
    "softmax": lambda: softmax((*ROWS, 1024)),
    "max pooling": lambda: pooling("max"),
    "average pooling": lambda: pooling("avg"),
}

DOTS = {
    NEON: r"sadalp\s+v\d+\.4s",
    DOTPROD: r"sdot\s+v\d+\.4s",
    I8MM: r"(usdot|sudot|usmmla)\s+v\d+\.4s",
}
FMLA = r"fmla\s+v\d+\.4s"

LANE = re.compile(
    r"(mov|ins)\s+v\d+\.[bhs]\[|[us]?mov\s+\w+, v\d+\.\w\[|(ld|st)1\s+\{ v\d+\.\w \}\["
)
"""Numbers moved in or out of a vector one by one; halves of one are how 8 bytes are repeated."""

VECTORS_ON_STACK = re.compile(r"(ld|st)u?[rp]\s+[qd]\d+.*\[sp")
LIBM = re.compile(r"\sbl\s+(exp|tanh|erf|pow)")  # the logarithm of a token's growth is one a token
SCALAR = re.compile(r"f(add|sub|mul|madd|msub|div|max|min|maxnm|minnm)\s+s\d")
VECTOR = re.compile(r"\w+\s+v\d+\.(16b|8h|4s|2d)")


def codes_of(func, target, count=1):
    """The assembly of the first schedules of a kernel."""
    for sch in schedules(func, target, limit=count):
        yield tvm.compile(lower_tiles(sch.mod), target=target.tvm()).mod.inspect_source("asm")


def innermost(code):
    """The instructions of every loop without a loop in it."""
    lines, labels, loops = code.splitlines(), {}, []
    for i, line in enumerate(lines):
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = i
        jump = re.match(r"\s+(?:b|b\.\w+|cbn?z|tbn?z)\s.*?(\.LBB\w+)", line)
        if jump and jump[1] in labels:
            loops.append((labels[jump[1]], i))
    for first, last in loops:
        if not any((a, b) != (first, last) and first <= a and b <= last for a, b in loops):
            body = lines[first + 1 : last + 1]
            yield [line.strip() for line in body if re.match(r"\s+[a-z]", line)]


def count(pattern, lines):
    return sum(bool(re.match(pattern, line)) for line in lines)


def check_product(code, instruction, at_least=6):
    """The loops that do little but multiply: sums stay in registers, nothing is taken apart."""
    hot = [loop for loop in innermost(code) if count(instruction, loop) >= at_least]
    hot = [loop for loop in hot if count(instruction, loop) >= len(loop) / 5]
    assert hot, "no loop consists of the instruction"
    for loop in hot:
        assert not [line for line in loop if VECTORS_ON_STACK.match(line)], "sums on the stack"
        assert not [line for line in loop if LANE.match(line)], "a vector is taken apart"


def others(names, targets):
    """All (name, target): on the first of the targets in every run, on the others where time allows."""
    return [
        pytest.param(name, target, marks=() if target == targets[0] else pytest.mark.slow)
        for target in targets
        for name in names
    ]


@pytest.mark.parametrize(("name", "on"), others(PRODUCTS, (DOTPROD, NEON, I8MM)))
def test_products_of_floats(name, on):
    (code,) = codes_of(PRODUCTS[name](), find(on))
    check_product(code, FMLA, 2 if "one row" in name else 6)
    assert not re.search(LIBM, code), "a call of libm"
    if "linear" in name:
        assert not re.search(r"\sfdiv\s+s\d", code), "the activation is no vector code"


@pytest.mark.parametrize(("name", "on"), others(INT8, (DOTPROD, NEON, I8MM)))
def test_products_of_codes(name, on):
    (code,) = codes_of(INT8[name](), find(on))
    if name == "attention int8" and on == NEON:  # no instruction is meant for words of codes
        assert re.search(r"\smla\s+v\d+\.4s", code)
    elif on == NEON or (name, on) == (
        "attention int8",
        I8MM,
    ):  # known: some of its loops use the stack
        assert re.search(DOTS[on], code)
    else:
        check_product(code, DOTS[on])


@pytest.mark.parametrize(
    ("on", "instruction"), [(I8MM, r"bfdot\s+v\d+\.4s"), (DOTPROD, FMLA), (NEON, FMLA)]
)
def test_products_of_bfloat16(on, instruction):
    (code,) = codes_of(dense_bf16(ROWS, 96, 64, NB), find(on))
    check_product(code, instruction)


@pytest.mark.slow
@pytest.mark.parametrize("on", [DOTPROD])
@pytest.mark.parametrize("name", ["linear", "sparse", "conv", "conv sparse", *list(INT8)[:5]])
def test_no_point_that_is_tried_early_spills(name, on):
    func = {**PRODUCTS, **INT8}[name]()
    for code in codes_of(func, find(on), count=3):
        check_product(code, DOTS[on] if name in INT8 else FMLA)


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_work_on_rows_is_vector_code(name):
    (code,) = codes_of(ROW_BY_ROW[name](), find(DOTPROD))
    busiest = max(innermost(code), key=lambda loop: count(VECTOR, loop))
    assert count(VECTOR, busiest) >= 3
    assert count(VECTOR, busiest) > 4 * count(SCALAR, busiest)
    assert not re.search(LIBM, code), "a call of libm"


def test_what_sdot_leaves_out_is_added_after_the_loop():
    """SDOT on codes less 128: in the loop there are only the sums of the weights, once for all rows."""
    (code,) = codes_of(static_int8((29,), 96, 64, NB), find(DOTPROD))
    loop = max(innermost(code), key=lambda body: count(DOTS[DOTPROD], body))
    dots, by_element = count(DOTS[DOTPROD], loop), count(r"sdot\s.*\.4b\[", loop)
    vectors = NB // 4 * 4  # of weights that a step takes
    assert by_element >= 6 * vectors
    assert dots == by_element + vectors
    assert count(r"(add|shl|mla)\s+v\d+\.4s", loop) == 0


@pytest.mark.parametrize("name", ["int8", "static int8", "conv int8"])
def test_matrices_of_codes_are_multiplied_first_where_there_is_an_instruction(name):
    (code,) = codes_of(INT8[name](), find(I8MM))
    check_product(code, r"usmmla\s+v\d+\.4s")


def test_features_reach_the_compiler():
    assert {t.name for t in KNOWN.values() if t.architecture == "aarch64"} == {NEON, DOTPROD, I8MM}
    for name in (NEON, DOTPROD, I8MM):
        target = find(name, 2)
        made = target.tvm()
        assert str(made.attrs["mtriple"]).startswith("aarch64")
        assert {str(f) for f in made.attrs["mattr"]} == {f"+{f}" for f in target.features}
        assert (target.block, target.registers) == (NB, 32)
    assert [find(n).dot for n in (NEON, DOTPROD, I8MM)] == ["", "sdot", "usdot"]
