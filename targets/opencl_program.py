"""What a scheduled function becomes for OpenCL: kernels in OpenCL C, and how the host starts them.

Read out of the code that TVM makes, so that limits are checked, and kernels run, on what a phone gets.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.ir.instrument import pass_instrument

from targets.codegen import compile_functions
from targets.target import Target

_LOCAL = re.compile(r"__local\s+(\w+?)(\d*)\s+(\w+)\[(\d+)\]")
_BYTES = {"char": 1, "uchar": 1, "bool": 1, "short": 2, "ushort": 2, "half": 2, "int": 4, "uint": 4, "float": 4,
          "long": 8, "ulong": 8, "double": 8}  # fmt: skip


@dataclass(frozen=True)
class Array:
    """A tensor in the memory of the device.

    Attributes:
        name: for people.
        shape, dtype: of the tensor.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Launch:
    """One start of a kernel.

    Attributes:
        kernel: its name in the source.
        arrays: numbers of its arguments among the arrays of the program.
        groups: work groups in each dimension.
        items: work items of a group in each dimension.
        local_bytes: local memory of a group.
    """

    kernel: str
    arrays: tuple[int, ...]
    groups: tuple[int, int, int]
    items: tuple[int, int, int]
    local_bytes: int


@dataclass(frozen=True)
class Program:
    """A function as the device sees it.

    Attributes:
        source: OpenCL C of all its kernels.
        arrays: the arguments of the function in their order, then what it needs in between.
        arguments: how many of them are arguments.
        launches: in their order.
    """

    source: str
    arrays: tuple[Array, ...]
    arguments: int
    launches: tuple[Launch, ...]


def program(scheduled: s_tir.Schedule | tirx.PrimFunc, target: Target) -> Program:
    """Compile a scheduled function of static shapes for an OpenCL target.

    Raises:
        TargetError: it does something outside of work items.
        TypeError: the host does more than to start kernels, as for TVM's own sorting and prefix sums.
    """
    func = scheduled.mod["main"] if isinstance(scheduled, s_tir.Schedule) else scheduled
    mod = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
    split: list[tvm.IRModule] = []

    @pass_instrument
    class Watch:
        def run_after_pass(self, mod: tvm.IRModule, info: tvm.transform.PassInfo) -> None:
            if info.name == "tirx.SplitHostDevice":
                split.append(mod)

    with tvm.transform.PassContext(instruments=[Watch()]):
        built = compile_functions(mod, target.tvm())
    sources = [module.inspect_source() for module in built.mod.imports]
    source = "\n".join(sources)
    host = next(f for gv, f in split[0].functions_items() if gv.name_hint == "main")
    return _Reader(host, source).program()


class _Reader:
    """Reads the host's code: which memory it takes, and which kernels it starts."""

    def __init__(self, host: tirx.PrimFunc, source: str) -> None:
        self.host, self.source = host, source
        self.local = local_memory(source)
        self.arrays: list[Array] = []
        self.known: list[tuple[tvm.ir.Expr, int]] = []
        self.launches: list[Launch] = []

    def program(self) -> Program:
        for param in self.host.params:
            self._add(param)
        self._visit(self.host.body)
        return Program(self.source, tuple(self.arrays), len(self.host.params), tuple(self.launches))

    def _add(self, var: tvm.ir.Expr) -> None:
        self.known.append((var, len(self.arrays)))
        shape = tuple(int(d) for d in var.ty.shape)
        self.arrays.append(Array(var.name, shape, str(var.ty.dtype)))

    def _number(self, expr: tvm.ir.Expr) -> int:
        """Which array an expression points to: a buffer or the data of one."""
        var = expr.args[0] if isinstance(expr, tvm.ir.Call) else expr
        for known, number in self.known:
            if known.same_as(var):
                return number
        raise TypeError(f"a kernel takes more than arrays: {expr}")

    def _visit(self, statement: tirx.Stmt) -> None:
        if isinstance(statement, tirx.SeqStmt):
            for part in statement.seq:
                self._visit(part)
        elif isinstance(statement, tirx.AllocBuffer):
            self._add(statement.buffer)
        elif isinstance(statement, tirx.DeclBuffer):
            self.known.append((statement.buffer, self._number(statement.data)))
        elif isinstance(statement, tirx.Evaluate):
            self._launch(statement.value)
        elif isinstance(statement, tirx.AttrStmt):
            self._visit(statement.body)
        else:
            raise TypeError(f"the host does more than start kernels: {type(statement).__name__}")

    def _launch(self, call: tvm.ir.Expr) -> None:
        if not isinstance(call, tvm.ir.Call) or call.op.name != "tirx.call_ffi_kernel":
            return  # a constant, where a statement was removed
        params = [str(p) for p in call.attrs.launch_params]
        first, *rest = call.args
        arrays = rest[: len(rest) - len(params)]
        extents = {p: int(e) for p, e in zip(params, rest[len(arrays) :], strict=True)}
        groups, items = (_three(extents, kind) for kind in ("block", "thread"))
        name = str(first.value)
        numbers = tuple(self._number(a) for a in arrays)
        self.launches.append(Launch(name, numbers, groups, items, self.local.get(name, 0)))


def _three(extents: dict[str, int], kind: str) -> tuple[int, int, int]:
    """Extents in x, y and z of ``block`` or ``thread``."""
    x, y, z = (extents.get(f"{kind}Idx.{d}", 1) for d in "xyz")
    return x, y, z


def local_memory(source: str) -> dict[str, int]:
    """Bytes of local memory that each kernel of an OpenCL source declares."""
    found: dict[str, int] = {}
    for part in source.split("// Function: ")[1:]:
        name = part.partition("\n")[0].strip()
        found[name] = sum(
            _BYTES[base] * int(lanes or 1) * int(count)
            for base, lanes, _, count in _LOCAL.findall(part)
        )
    return found


def excesses(made: Program, target: Target) -> list[str]:
    """What a program needs beyond the limits of the target's GPU; empty if it fits."""
    assert target.gpu is not None
    gpu, found = target.gpu, []
    for launch in made.launches:
        items = math.prod(launch.items)
        if items > gpu.max_threads:
            found.append(f"{launch.kernel}: {items} work items of {gpu.max_threads}")
        if launch.local_bytes > gpu.local_bytes:
            found.append(f"{launch.kernel}: {launch.local_bytes} bytes of {gpu.local_bytes}")
    return found


def in_float32(made: Program) -> Program:
    """The same kernels with float32 in place of float16, for devices that lack it.

    It computes at the same places in the same order; what float16 rounds is left unrounded.
    """
    lines = [line for line in made.source.splitlines() if not line.startswith(("#", "  #error"))]
    source = re.sub(r"\b(convert_|as_)?half(\d*)\b", r"\1float\2", "\n".join(lines))
    arrays = [replace(a, dtype="float32") if a.dtype == "float16" else a for a in made.arrays]
    return replace(made, source=source, arrays=tuple(arrays))


def arguments(made: Program, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """All arrays of a program: its inputs, and the others full of bytes 0xFF (NaN, -1)."""
    arrays = [np.require(v, requirements="C") for v in inputs]
    for number, (array, value) in enumerate(zip(made.arrays, arrays, strict=False)):
        if value.shape != array.shape or str(value.dtype) != array.dtype:
            got = f"{value.dtype}{value.shape}"
            raise ValueError(f"argument {number} is {array.dtype}{array.shape}, got {got}")
    for array in made.arrays[len(arrays) :]:
        fill = np.full(array.size, 0xFF, np.uint8)
        arrays.append(fill.view(array.dtype).reshape(array.shape))
    return arrays
