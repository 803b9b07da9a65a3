"""The code for ARM cores against its goals, by llvm-mca: estimates, like everything that it says."""

import pytest

from benchmarks.arm_code import HEADINGS, Row, cells, document, rows_of
from benchmarks.arm_kernels import CORES, FAMILIES
from benchmarks.mca import Analyser, McaError, find_analyser


def why_not():
    try:
        find_analyser()
    except McaError as error:
        return str(error)
    return None


analyses = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
BY_CORE = {core.mcpu: core for core in CORES}
BY_NAME = {family.name: family for family in FAMILIES}
GOALS = [
    ("GEMM fp32", "fmla", 0.8),
    ("GEMM fp16", "fmla", 0.8),
    ("GEMM int8", "sdot", 0.75),
    ("conv 3x3 fp32", "fmla", 0.8),
    ("conv 3x3 int8", "sdot", 0.75),
    ("attention fp32", "fmla", 0.8),
]


def best(core, family, limit):
    """The rows by instruction."""
    found = rows_of(BY_CORE[core], BY_NAME[family], find_analyser(), limit)
    return {row.instruction: row for row in found}


@analyses
@pytest.mark.parametrize("core", ["cortex-a76", "neoverse-n1"])
@pytest.mark.parametrize(("family", "instruction", "share"), GOALS)
def test_inner_loops_are_close_to_the_models_peak(core, family, instruction, share):
    row = best(core, family, 2)[instruction]
    assert row.spills == 0
    assert share <= row.share <= 1.01


@analyses
@pytest.mark.parametrize(
    "core",
    [
        pytest.param("cortex-a710", marks=pytest.mark.slow),
        pytest.param("neoverse-v1", marks=pytest.mark.slow),
        "neoverse-n2",
    ],
)
def test_matrices_of_codes_are_worth_their_instruction(core):
    rows = best(core, "GEMM int8", 2)
    matrices, dots = rows["usmmla"], rows["usdot"]
    assert matrices.spills == dots.spills == matrices.spilling == 0
    assert matrices.products > 1.15 * dots.products


@analyses
@pytest.mark.parametrize("family", ["GEMM fp32", "GEMM int8", "sparse fp32", "sparse int8"])
def test_the_first_schedules_for_a_core_that_works_in_order_stay_in_registers(family):
    for row in best("cortex-a55", family, 1).values():
        assert (row.spills, row.spilling) == (0, 0)
        assert row.share > 0.3


def test_a_table_says_that_it_is_an_estimate():
    row = Row(
        "Core", "kernel", "Model", "fmla", "8", 80, 64, 0, 32.0, 0.998, 8.0, spilling=1, tried=4
    )
    assert dict(zip(HEADINGS, cells(row), strict=True)) == {
        "core": "Core",
        "model": "Model",
        "kernel": "kernel",
        "by": "fmla",
        "tile": "8",
        "instructions": "80",
        "multiplies": "64",
        "spills": "0",
        "cycles": "32.0",
        "est. % of peak": "100",
        "products a cycle": "8.0",
        "points that spill": "1 of 4",
    }
    text = document([row], Analyser("llvm-mca-22", "22.1.8"), ["--quick"])
    assert "no device was timed" in text
    assert "estimate by llvm-mca" in text
    assert "`python -m benchmarks.arm_code --quick`\nwith llvm-mca 22.1.8" in text
    assert "| Core | Model | kernel | fmla |" in text
