"""Targets and the doctor's findings as rows."""

from __future__ import annotations

from codesign.doctor import Check
from codesign.listing import doctor_table, targets_dict, targets_table
from targets.target import KNOWN, host


def test_the_machine_itself_comes_first() -> None:
    first, *rest = targets_dict()
    assert first["name"] == "host"
    assert first["mcpu"] == host().mcpu
    assert set(first["features"]) == set(host().features)
    assert [row["name"] for row in rest] == list(KNOWN)


def test_a_row_for_each_target() -> None:
    table = targets_table()
    assert table.row_count == len(KNOWN) + 1
    told = dict(zip(table.columns[0].cells, table.columns[3].cells, strict=True))
    assert (told["znver4"], told["skylake-avx512"]) == ("yes", "no")
    more = [list(table.columns[i].cells)[1:] for i in (4, 5, 6)]
    bf16, fp16, tiles = (dict(zip(KNOWN, column, strict=True)) for column in more)
    assert (bf16["znver4"], bf16["icelake-server"]) == ("yes", "no")
    assert (fp16["sapphirerapids"], fp16["znver5"]) == ("yes", "no")
    assert (tiles["sapphirerapids"], tiles["znver5"]) == ("yes", "no")


def test_what_is_wrong_stands_beside_what_mends_it() -> None:
    checks = [Check("linker", "fail", "none", "apt-get install lld"), Check("tvm", "ok", "1")]
    table = doctor_table(checks)
    assert list(table.columns[1].cells) == ["[red]fail", "[green]ok"]
    assert list(table.columns[3].cells) == ["apt-get install lld", ""]
