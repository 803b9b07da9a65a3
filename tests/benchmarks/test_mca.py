"""Reading llvm-mca: its answers, its version, and what it is asked."""

import json

import pytest

from benchmarks import mca
from benchmarks.mca import Analyser, McaError, find_analyser, parse, version_of, without_jumps


def answer(cycles=409, unit="N1UnitB"):
    region = {"SummaryView": {"TotalCycles": cycles, "Iterations": 100}}
    return json.dumps({"CodeRegions": [region], "TargetInfo": {"Resources": [unit, "Other"]}})


def test_cycles_and_whose_tables():
    assert parse(answer()) == (409, "Neoverse N1")
    assert parse(answer(7, "A57UnitB")) == (7, "Cortex-A57")
    assert parse(answer(7, "CortexA55UnitALU.\x00")) == (7, "Cortex-A55")
    assert parse(answer(7, "V9UnitB")) == (7, "V9Unit")
    assert parse(answer(7, "Ports")) == (7, "Ports")


@pytest.mark.parametrize("text", ["", "{}", '{"CodeRegions": []}', "error: no such CPU", "[1]"])
def test_what_is_no_answer(text):
    with pytest.raises(McaError, match="not an answer"):
        parse(text)


def test_version():
    assert version_of("Debian LLVM version 22.1.8\n  Optimized build.") == "22.1.8"
    assert version_of("LLVM version 16") == "16"
    assert version_of("gcc 12") is None


def test_jumps_stay_instructions():
    assert without_jumps(["subs\tx0, x0, #1", "b.ne\t.LBB3_5"]) == "subs\tx0, x0, #1\nb.ne\t#0\n"


@pytest.fixture
def found(monkeypatch):
    """``found({"llvm-mca": "14.0.6", ...})``: the analysers of a machine."""

    def only(versions):
        find_analyser.cache_clear()
        monkeypatch.setattr(mca.shutil, "which", lambda name: name if name in versions else None)

        def run(command, **options):
            text = f"LLVM version {versions[command[0]]}\n"
            return mca.subprocess.CompletedProcess(command, 0, text, "")

        monkeypatch.setattr(mca.subprocess, "run", run)

    yield only
    find_analyser.cache_clear()


def test_the_newest_is_taken(found):
    found({"llvm-mca": "14.0.6", "llvm-mca-16": "16.0.0", "llvm-mca-22": "22.1.8"})
    assert find_analyser() == Analyser("llvm-mca-22", "22.1.8")
    assert find_analyser().major == 22


def test_old_ones_do(found):
    found({"llvm-mca": "14.0.6"})
    with pytest.raises(McaError, match=r"llvm-mca 14\.0\.6"):
        find_analyser()
    found({})
    with pytest.raises(McaError, match="none"):
        find_analyser()


def why_not():
    try:
        find_analyser()
    except McaError as error:
        return str(error)
    return None


analyses = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


@analyses
def test_the_peak_is_that_of_the_model():
    """Neoverse N1 multiplies two vectors a cycle; LLVM takes Cortex-A76 for a Cortex-A57, which does one."""
    fmla = "fmla v{}.4s, v30.4s, v31.4s"
    assert find_analyser().peak(fmla, "neoverse-n1") == pytest.approx(2, rel=0.05)
    assert find_analyser().peak(fmla, "cortex-a76") == pytest.approx(1, rel=0.05)


@analyses
def test_a_chain_takes_its_latency():
    one = find_analyser().estimate(["fmul v0.4s, v0.4s, v1.4s", "b.ne .LBB0_1"], "neoverse-n1")
    assert one.model == "Neoverse N1"
    assert one.cycles == pytest.approx(3, abs=0.1)


@analyses
def test_what_it_does_not_take():
    with pytest.raises(McaError, match="nonsense"):
        find_analyser().estimate(["nonsense x0"], "neoverse-n1")
