"""Every kernel that whole models lower to for a mobile GPU, run on this machine and compared with the processor.

    python -m benchmarks.opencl_kernels
    python -m benchmarks.opencl_kernels --targets mali --models minilm --formats sparse

Needs an OpenCL driver (PoCL) and pyopencl. It shows that kernels are right, not how fast a phone runs them. Where the
driver has no float16, kernels of it run with float32 in its place, and say so.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tvm import tirx

    from codesign.prepare import Prepared
    from passes.model import Model, TensorSpec
    from passes.sites import Linear
    from targets.target import Target

Array = NDArray[Any]

LIMIT, LIMIT_FP16 = 1e-5, 5e-3
"""Largest error of a right kernel, by the largest magnitude of its output: float32 sums in another order, or
sums in float16 where the other side rounds them, or rounds others."""

LIMIT_WHOLE = 1e-4
"""The same of the outputs of a whole model, whose layers hand on what they round."""

TOKENS = 1000
"""Numbers of tokens that every vocabulary has."""

HALF_SIZE = 0.25
"""Standard deviation of float16 numbers: an error of their sums is seen before an activation hides or cuts them."""

SPARSE_DENSITY = 0.5
FORMATS = ("fp32", "sparse", "fp16")


@dataclass(frozen=True)
class Row:
    """One kernel.

    Attributes:
        kernel: readable name.
        calls: in one run of the model.
        starts: kernels that the device runs for one call.
        groups, items: work groups of the largest of them, and its work items in a group.
        local_bytes: most local memory of a group.
        error: largest deviation by the largest magnitude.
        note: what was not as on a phone; what was wrong.
        limit: of the error.
    """

    kernel: str
    calls: int
    starts: int
    groups: int
    items: str
    local_bytes: int
    error: float
    note: str = ""
    limit: float = LIMIT

    @property
    def right(self) -> bool:
        return self.error <= self.limit


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table for each model, format and target; 1 if a kernel is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--targets", nargs="+", default=["adreno", "mali"])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    options = parser.parse_args(arguments)

    from targets.pocl import device_name, lacking
    from targets.target import find

    if (absent := lacking()) is not None:
        print(f"no kernel can be run: {absent}", file=sys.stderr)
        return 2
    print(f"on {device_name()}: this shows what kernels compute, not how fast a phone does it")
    wrong = 0
    for model in options.models:
        prepared = MODELS[model]()
        for name in options.targets:
            target = find(name)
            for form in options.formats:
                rows = check(compressed(prepared, target, form), target)
                wrong += report(f"{model}, {form}, {target.name}", rows)
            error = whole_model(prepared, target)
            print(f"{model}, fp32, {target.name}: run as a whole, relative error {error:.1e}")
            wrong += error > LIMIT_WHOLE
    return 1 if wrong else 0


def minilm() -> Prepared:
    """all-MiniLM-L6-v2 with its weights, for one text of 128 tokens."""
    from codesign.prepare import prepare
    from examples import minilm_retrieval

    return prepare(minilm_retrieval.model())


def mobilenet_v2() -> Prepared:
    """MobileNetV2 for one image of 224 x 224; its weights are random."""
    from benchmarks.models.zoo import PUBLISHED
    from codesign.prepare import prepare

    return prepare(PUBLISHED["mobilenet_v2"].make())


MODELS: dict[str, Callable[[], Prepared]] = {"minilm": minilm, "mobilenet_v2": mobilenet_v2}


def compressed(prepared: Prepared, target: Target, form: str) -> Model:
    """The model with its first linear layers in a format; the pruning is by magnitude and solves nothing."""
    if form == "fp32":
        return prepared.model
    if form == "fp16":
        from codesign.compile import in_half
        from passes.fp16 import Fp16

        return in_half(prepared, target, Fp16(), None)
    from passes.format_linear import format_linears
    from passes.formats import Solved
    from passes.sparse import Sparse, choices

    layers: list[tuple[Linear, Solved]] = []
    for site in prepared.sites.linears:
        if choices(site, target)[0] and len(layers) < MOST_SPARSE:
            weight = np.asarray(prepared.model.weights[site.weight], np.float32)
            weight = weight.reshape(len(weight), -1)
            mask = by_magnitude(weight, target.block, SPARSE_DENSITY)
            kept = weight * np.repeat(mask, target.block, axis=0)[: len(weight)]
            bias = None if site.bias is None else np.asarray(prepared.model.weights[site.bias])
            parts = {"mask": mask}
            layers.append((site, Solved(Sparse(SPARSE_DENSITY, target.block), kept, bias, parts)))
    return format_linears(prepared.model, layers, target)[0]


MOST_SPARSE = 8
"""Layers that are pruned: what is checked are kernels, and they soon repeat."""


def by_magnitude(weight: Array, block: int, density: float) -> NDArray[np.bool_]:
    """bool [blocks, K]: the inputs of largest norm for each block of outputs."""
    n, k = weight.shape
    padded = np.zeros((-(-n // block) * block, k), np.float32)
    padded[:n] = weight
    norms = np.square(padded.reshape(-1, block, k)).sum(axis=1)
    order = np.argsort(-norms, axis=1)[:, : max(1, round(density * k))]
    mask = np.zeros_like(norms, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def check(model: Model, target: Target) -> Iterator[Row]:
    """Build the library of a model for the target's host, then run each distinct kernel here."""
    from codesign.kernels import kernels
    from codesign.pipeline import compile_model
    from targets.link import Linker

    lowered, executable = compile_model(model, target)
    linker = Linker("ld.lld", shutil.which("ld.lld") or "ld.lld")  # for any processor
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "lib.so"
        executable.export_library(str(library), fcompile=linker)
        size = library.stat().st_size / 1e6
    print(f"library of {size:.1f} MB, host {target.architecture} {target.triple or 'linux'}")
    for kernel in kernels(lowered):
        yield check_kernel(kernel.name, kernel.func, target, kernel.count)


def whole_model(prepared: Prepared, target: Target) -> float:
    """Deviation of the model's first output, all kernels run one after the other, from the processor's."""
    import tvm
    from tvm import relax

    from codesign.pipeline import compile_model
    from passes.lower import lower
    from targets.target import host

    inputs = [draw_input(spec) for spec in prepared.model.inputs]
    lowered, executable = compile_model(prepared.model, host())
    values = [tvm.runtime.tensor(v) for v in (*inputs, *lowered.weights.values())]
    outputs = relax.VirtualMachine(executable, tvm.cpu())["main"](*values)
    wanted = (outputs if isinstance(outputs, tvm.runtime.Tensor) else outputs[0]).numpy()
    return deviation(run_model(lower(prepared.model, target), target, inputs)[0], wanted)


def draw_input(spec: TensorSpec) -> Array:
    """An input of a model: an image of random numbers, tokens, or a mask whose last quarter is padding."""
    rng = np.random.default_rng(1)
    if "int" not in spec.dtype:
        return rng.standard_normal(spec.shape).astype(spec.dtype)
    if "mask" in spec.name:
        mask = np.ones(spec.shape, spec.dtype)
        mask[..., -(spec.shape[-1] // 4) :] = 0
        return mask
    return rng.integers(0, TOKENS, spec.shape).astype(spec.dtype)


def run_model(lowered: Model, target: Target, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of a lowered model, each call of a kernel run on the OpenCL device here."""
    import tvm
    from tvm import relax

    from passes.rewrite import bindings_of
    from targets.kernels.spaces import schedules
    from targets.opencl_program import Program, program
    from targets.pocl import run_program

    given = (*inputs, *lowered.weights.values())
    known: dict[relax.Var, Any] = dict(zip(lowered.main.params, given, strict=True))
    programs: dict[str, Program] = {}

    def value(expr: relax.Expr) -> Any:
        if isinstance(expr, relax.Var):
            return known[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Tuple):
            return [value(field) for field in expr.fields]
        if isinstance(expr, relax.TupleGetItem):
            return value(expr.tuple_value)[expr.index]
        if expr.op.name == "relax.reshape":
            return value(expr.args[0]).reshape([int(d) for d in expr.ty.shape.values])
        assert expr.op.name == "relax.call_tir", expr.op.name
        kernel = expr.args[0]
        if kernel.name_hint not in programs:
            found = schedules(lowered.mod[kernel], target, limit=1)
            programs[kernel.name_hint] = program(found[0], target)
        results = run_program(programs[kernel.name_hint], value(expr.args[1]))
        return results if len(results) > 1 else results[0]

    for binding in bindings_of(lowered):
        known[binding.var] = value(binding.value)
    output = value(lowered.main.body.body)
    return output if isinstance(output, list) else [output]


def check_kernel(name: str, func: tirx.PrimFunc, target: Target, calls: int = 1) -> Row:
    """Run the default schedule of one kernel and compare it with the function as it is on the processor."""
    from targets.kernels.spaces import schedules
    from targets.opencl_program import excesses, in_float32, program
    from targets.pocl import has_fp16, run_program

    made = program(schedules(func, target, limit=1)[0], target)
    largest = max(made.launches, key=lambda launch: math.prod(launch.groups))
    items = "x".join(str(i) for i in largest.items if i > 1) or "1"
    local = max(launch.local_bytes for launch in made.launches)
    notes = excesses(made, target)
    inputs = draw(func)
    wanted = on_processor(func, inputs)
    half = any(a.dtype == "float16" for a in made.arrays)
    if half and not has_fp16():
        made = in_float32(made)
        inputs = [v.astype(np.float32) if v.dtype == np.float16 else v for v in inputs]
        notes.append("float16 as float32")
    got = run_program(made, inputs)
    error = max(deviation(g, w) for g, w in zip(got, wanted, strict=True))
    starts, groups = len(made.launches), math.prod(largest.groups)
    limit = LIMIT_FP16 if half else LIMIT
    return Row(name, calls, starts, groups, items, local, error, "; ".join(notes), limit)


def deviation(got: Array, wanted: Array) -> float:
    """Largest difference by the largest magnitude; infinite where one is no number and the other is."""
    g, w = got.astype(np.float64), wanted.astype(np.float64)
    if (np.isnan(g) != np.isnan(w)).any():
        return math.inf
    return float(
        np.nanmax(np.abs(g - w), initial=0.0) / max(np.nanmax(np.abs(w), initial=0.0), 1e-30)
    )


def draw(func: tirx.PrimFunc, seed: int = 0) -> list[Array]:
    """Random inputs of a kernel: normal numbers, any codes, indices that are valid."""
    from codesign.kernel_args import kernel_args

    rng = np.random.default_rng(seed)
    inputs: list[Array] = []
    for arg in (a for a in kernel_args(func) if not a.output):
        if arg.bound:
            inputs.append(rng.integers(0, arg.bound, arg.shape).astype(arg.dtype))
        elif "int" in arg.dtype:
            ends = np.iinfo(arg.dtype)
            inputs.append(rng.integers(ends.min, ends.max, arg.shape, arg.dtype, endpoint=True))
        else:
            size = HALF_SIZE if arg.dtype == "float16" else 1.0
            inputs.append((size * np.asarray(rng.standard_normal(arg.shape))).astype(arg.dtype))
    return inputs


def on_processor(func: tirx.PrimFunc, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of an unscheduled kernel, built by LLVM for this machine."""
    import tvm

    from targets.target import host

    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    kernel = tvm.compile(mod, target=host().tvm())["main"]
    outputs = [p.ty for p in list(func.params)[len(inputs) :]]
    empty = [np.zeros([int(d) for d in ty.shape], str(ty.dtype)) for ty in outputs]
    tensors = [tvm.runtime.tensor(np.require(v, requirements="C")) for v in (*inputs, *empty)]
    kernel(*tensors)
    return [t.numpy() for t in tensors[len(inputs) :]]


def report(title: str, rows: Iterator[Row]) -> int:
    """Print the table of one model; the number of kernels that are wrong."""
    print(f"\n{title}")
    print(
        f"{'kernel':36} {'calls':>5} {'starts':>6} {'groups':>7} {'items':>9} {'local':>6}  error"
    )
    done = []
    for row in rows:
        done.append(row)
        mark = "" if row.right else "  WRONG"
        print(
            f"{row.kernel[:36]:36} {row.calls:5} {row.starts:6} {row.groups:7} {row.items:>9} "
            f"{row.local_bytes:6}  {row.error:.1e}{mark}  {row.note}"
        )
    right = sum(row.right for row in done)
    largest = max((row.error for row in done), default=0.0)
    print(f"{title}: {right} of {len(done)} kernels right, largest relative error {largest:.1e}")
    return len(done) - right


if __name__ == "__main__":
    sys.exit(main())
