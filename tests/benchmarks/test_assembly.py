"""Reading loops out of assembly: small texts."""

from benchmarks.assembly import Loop, busiest, innermost

NESTED = """
main:                                   // @main
\t.cfi_startproc
// %bb.0:
\tmov\tx8, #4
.LBB0_1:                                // =>This Loop Header: Depth=1
\tmovi\tv0.2d, #0000000000000000
.LBB0_2:                                // =>  This Inner Loop Header
\tldr\tq1, [x0], #16
\t.loc\t1 2 3
\tldr\tq2, [sp, #32]                   // 16-byte Folded Reload
\tfmla\tv0.4s, v2.4s, v1.s[0]
\tstr\tx9, [sp]
\tsubs\tx9, x9, #1
\tb.ne\t.LBB0_2
// %bb.3:
\tstr\tq0, [x1], #16
\tcbnz\tx8, .LBB0_1
.LBB0_4:
\tfmla\tv3.4s, v2.4s, v1.4s
\ttbz\tw3, #0, .LBB0_5
\tb\t.LBB0_4
.LBB0_5:
\tret
"""


def test_only_loops_without_loops_in_them():
    inner, last = innermost(NESTED)
    assert inner.instructions == (
        "ldr\tq1, [x0], #16",
        "ldr\tq2, [sp, #32]",
        "fmla\tv0.4s, v2.4s, v1.s[0]",
        "str\tx9, [sp]",
        "subs\tx9, x9, #1",
        "b.ne\t.LBB0_2",
    )
    assert last.count("fmla") == 1
    assert last.instructions[-1] == "b\t.LBB0_4"


def test_what_is_on_the_stack_is_counted():
    inner, last = innermost(NESTED)
    assert (inner.spills, last.spills) == (2, 0)
    assert Loop(("ldp\tq0, q1, [sp, #16]", "add\tx0, sp, #8", "ldur\td3, [sp, #-8]")).spills == 2


def test_the_loop_that_multiplies_most_and_is_shortest():
    assert busiest(NESTED, r"fmla\s+v\d+\.4s").instructions[0] == "fmla\tv3.4s, v2.4s, v1.4s"
    assert busiest(NESTED, "ldr").count("ldr") == 2
    assert busiest(NESTED, "usmmla") is None
    assert busiest("", "fmla") is None


def test_sums_of_weights_are_told_from_products():
    loop = Loop(
        (
            "ldp\tq8, q9, [x0], #32",
            "ldr\tq2, [x1], #16",
            "eor\tv2.16b, v2.16b, v0.16b",
            "sdot\tv31.4s, v9.16b, v2.4b[0]",
            "sdot\tv7.4s, v1.16b, v9.16b",
            "sdot\tv30.4s, v8.16b, v2.4b[0]",
            "sdot\tv6.4s, v1.16b, v8.16b",
            "str\tq1, [x2]",
        )
    )
    assert loop.count("sdot") == 4
    assert loop.varying("sdot") == 2
