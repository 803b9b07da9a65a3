"""Convolutions of every format work on strips that fit the cache of the target, and compute the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

from passes.bf16 import Bf16
from passes.format_linear import format_linear
from passes.formats import DENSE
from passes.fp16 import Fp16
from passes.int8_static import Int8Static
from passes.lower import lower
from passes.model import Model
from passes.pattern import Pattern
from passes.sites import Linear
from passes.solve.gram import Gram
from passes.solve.site import Affine, solve_linear
from passes.sparse import Sparse
from targets.kernels.cache import strip_bytes
from targets.kernels.window import Window
from targets.target import Target, find

HOST = find("host")
WINDOW = Window(12, 17, 20, (3, 3), padding=(1, 1, 1, 1))
OUTPUTS = 33
NB = HOST.block

FORMATS = {
    "dense": DENSE,
    "sparse": Sparse(0.3, NB),
    "pattern": Pattern(1.0, NB),
    "single kernels": Pattern(0.5, 1),
    "bfloat16": Bf16(),
    "float16": Fp16(),
    "int8": Int8Static(1.0, NB, taps=9),
    "sparse int8": Int8Static(0.4, NB, taps=9),
}


def strips_of(model: Model) -> list[int]:
    """Bytes of each strip that a kernel of the model stages."""
    found = []
    for func in model.mod.functions.values():
        if isinstance(func, tirx.PrimFunc):
            for buffer in func.body.block.alloc_buffers:
                if str(buffer.name) in ("strip", "planes"):
                    _, _, *numbers = (int(d) for d in buffer.shape)
                    found.append(int(np.prod(numbers)) * np.dtype(str(buffer.dtype)).itemsize)
    return found


def drawn(s: Any) -> list[relax.Var]:
    y = relax.op.nn.conv2d(
        s.x, s.params["fc.w"], padding=WINDOW.padding,
        data_layout="NHWC", kernel_layout="OIHW", out_layout="NHWC",
    )  # fmt: skip
    return [s.bb.emit(y)]


@pytest.mark.parametrize("name", FORMATS)
def test_strips_follow_the_cache(sketch: Callable, execute: Callable, name: str) -> None:
    rng = np.random.default_rng(0)
    w = {"fc.w": rng.standard_normal((OUTPUTS, 20, 3, 3)).astype(np.float32)}
    shape = (2, WINDOW.height, WINDOW.width, WINDOW.channels)
    model = sketch(shape, w, drawn)
    rows, k = WINDOW.out_height * WINDOW.out_width, WINDOW.features
    linear = Linear("fc", "fc.w", None, rows, k, OUTPUTS, WINDOW)
    layer = Affine(w["fc.w"].reshape(OUTPUTS, -1))
    solved = solve_linear(layer, Gram(k).add(rng.standard_normal((400, k))), FORMATS[name])

    def made(target: Target) -> Model:
        written, _ = format_linear(model, linear, solved, target)
        return lower(written, target)

    x = {"x": rng.standard_normal(shape).astype(np.float32)}
    outputs = []
    for kib in (8, 1024):
        target = replace(HOST, l2_bytes=kib << 10)
        lowered = made(target)
        (size,) = strips_of(lowered)
        row = 4 * (WINDOW.width + 2) * WINDOW.channels
        # besides what windows see, a row of padding, and of planes what fills a tile
        assert size <= strip_bytes(target) + 2 * row
        outputs.append((size, *execute(lowered, x)))
    (small, got), (large, wanted) = outputs
    assert small < large
    np.testing.assert_array_equal(got, wanted)
