"""Estimates of the code for ARM processors: inner loops of every kernel family, judged by llvm-mca.

    python -m benchmarks.arm_code [--quick] [--schedules N] [--json FILE] [--write docs/arm-code.md]

The schedules of a kernel's space are compiled for every core. Of the assembly the loop that multiplies most is
taken, what it keeps on the stack is counted, and LLVM's machine code analyser says how many cycles an
iteration takes. The share of the peak is that of the model's own: the analyser runs independent copies of the same
instruction. No device was timed, and nothing outside the loop is in these figures: no cache miss, no epilogue.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tvm
from tvm import s_tir

from benchmarks.arm_kernels import CORES, FAMILIES, Core, Family, Instruction
from benchmarks.assembly import Loop, busiest
from benchmarks.mca import Analyser, McaError, find_analyser
from targets.kernels.amx import lower_tiles
from targets.kernels.spaces import schedules

QUICK = ("cortex-a76", "neoverse-n1")
_COMMAND = "python -m benchmarks.arm_code"


@dataclass(frozen=True)
class Row:
    """The best schedule of a kernel on a core: an estimate.

    Attributes:
        core, kernel: for people.
        model: whose tables the analyser has for the core.
        instruction: what is multiplied with.
        tile: decisions of the schedule, in the order in which it takes them.
        instructions: of an iteration of the loop.
        multiplies: those of them that multiply what differs from row to row.
        spills: loads from the stack and stores to it in the loop.
        cycles: of an iteration.
        share: of the model's peak, 0 to 1.
        products: multiplications a cycle.
        spilling, tried: schedules of the space whose loop uses the stack, and all.
    """

    core: str
    kernel: str
    model: str
    instruction: str
    tile: str
    instructions: int
    multiplies: int
    spills: int
    cycles: float
    share: float
    products: float
    spilling: int
    tried: int


def rows_of(
    core: Core, family: Family, analyser: Analyser, limit: int | None = None
) -> Iterator[Row]:
    """A row for each instruction that the family's kernels multiply with on a core, where there is a loop of it.

    Args:
        limit: schedules of the space to compile at most, for each instruction; None for all.
    """
    target, instructions = core.made(), family.on(core.i8mm)
    # those of another instruction come first, and may be one more
    limit = limit and limit * len(instructions) + (len(instructions) - 1)
    found: list[tuple[str, str]] = []
    for sch in schedules(family.make(target), target, limit=limit):
        compiled = tvm.compile(lower_tiles(sch.mod), target=target.tvm())
        found.append((decisions(sch), compiled.mod.inspect_source("asm")))
    for instruction in instructions:
        judged = []
        for tile, text in found:
            loop = busiest(text, instruction.pattern)
            if loop is not None:
                judged.append(judge(core, family, instruction, analyser, tile, loop))
        if judged:
            best = max(judged, key=lambda row: (row.spills == 0, row.share))
            spilling = sum(row.spills > 0 for row in judged)
            yield Row(**{**asdict(best), "spilling": spilling, "tried": len(judged)})


def judge(
    core: Core, family: Family, instruction: Instruction, analyser: Analyser, tile: str, loop: Loop
) -> Row:
    """What the analyser says of one loop."""
    features = core.made().features
    estimate = analyser.estimate(loop.instructions, core.mcpu, features)
    peak = analyser.peak(instruction.example, core.mcpu, features)
    count = (loop.varying if instruction.shares else loop.count)(instruction.pattern)
    rate = count / estimate.cycles
    return Row(
        core=core.name,
        kernel=family.name,
        model=estimate.model,
        instruction=instruction.example.split()[0],
        tile=tile,
        instructions=len(loop.instructions),
        multiplies=count,
        spills=loop.spills,
        cycles=estimate.cycles,
        share=rate / peak,
        products=rate * instruction.products,
        spilling=0,
        tried=1,
    )


def decisions(sch: s_tir.Schedule) -> str:
    """The choices of a schedule, e.g. ``8`` rows or ``1x4x8``."""
    values = [
        str(int(inst.attrs[0][int(sch.trace.decisions[inst])]))
        for inst in sch.trace.insts
        if inst.kind.name == "SampleCategorical"
    ]
    return "x".join(values) or "only one"


HEADINGS = (
    "core", "model", "kernel", "by", "tile", "instructions", "multiplies", "spills", "cycles",
    "est. % of peak", "products a cycle", "points that spill",
)  # fmt: skip


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    return (
        row.core,
        row.model,
        row.kernel,
        row.instruction,
        row.tile,
        str(row.instructions),
        str(row.multiplies),
        str(row.spills),
        f"{row.cycles:.1f}",
        f"{100 * row.share:.0f}",
        f"{row.products:.1f}",
        f"{row.spilling} of {row.tried}",
    )


def document(rows: Sequence[Row], analyser: Analyser, arguments: Sequence[str]) -> str:
    """docs/arm-code.md."""
    lines = [
        "# The code for ARM processors: estimates",
        "",
        f"Written by `{' '.join([_COMMAND, *arguments])}`",
        f"with llvm-mca {analyser.version} and TVM {tvm.__version__}.",
        "**Every figure is an estimate by llvm-mca; no device was timed.** It is of the loop that",
        "multiplies most in a kernel's assembly, all loads served by the first-level cache; what comes",
        "before and after the loop is not in it.",
        "",
        "- *model*: whose tables LLVM uses for the core. It has none of their own for Cortex-A76 (it takes",
        "  those of Cortex-A57: one FMLA of a vector a cycle where the core does two), Cortex-X1 (Neoverse V1)",
        "  and Cortex-A710 (Neoverse N2). Neoverse N1 is Cortex-A76 made for servers: its rows are the better",
        "  estimate for that core.",
        "- *tile*: decisions of the best schedule of the space, among them rows or columns of the register tile.",
        "- *multiplies*: instructions that multiply inputs by weights; SDOT that only sums weights is not",
        "  counted.",
        "- *est. % of peak*: of what the same model says of independent copies of the instruction.",
        "- *products a cycle*: multiplications, to compare instructions with each other.",
        "- *points that spill*: schedules of the space whose loop uses the stack, of those with such a loop.",
        "",
        "| " + " | ".join(HEADINGS) + " |",
        "|" + " --- |" * len(HEADINGS),
        *("| " + " | ".join(cells(row)) + " |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Compile, analyse, print, and write what is asked for."""
    from rich.console import Console
    from rich.table import Table

    parser = argparse.ArgumentParser(prog="python -m benchmarks.arm_code")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--write", type=Path, help="write the table as Markdown to this file")
    parser.add_argument(
        "--quick", action="store_true", help="two schedules of each kernel, two cores"
    )
    parser.add_argument("--schedules", type=int, metavar="N", help="at most so many of each kernel")
    given = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(given)
    limit = 2 if options.quick else options.schedules
    try:
        analyser = find_analyser()
    except McaError as error:
        print(error, file=sys.stderr)
        return 2
    cores = [core for core in CORES if not options.quick or core.mcpu in QUICK]
    rows = [
        row
        for core in cores
        for family in FAMILIES
        for row in rows_of(core, family, analyser, limit)
    ]
    title = f"estimate by llvm-mca {analyser.version}, no device was timed"
    table = Table(title=title)
    for heading in HEADINGS:
        table.add_column(heading)
    for row, later in zip(rows, [*rows[1:], None], strict=True):
        table.add_row(*cells(row), end_section=later is None or later.core != row.core)
    Console(width=150).print(table)
    if options.json:
        made = {"estimate": title, "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(made, indent=1) + "\n")
    if options.write:
        options.write.write_text(document(rows, analyser, given))
    return 0


if __name__ == "__main__":
    sys.exit(main())
