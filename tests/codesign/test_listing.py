"""Targets and the doctor's findings as rows."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from codesign.doctor import Check
from codesign.listing import doctor_table, targets_dict, targets_tables
from targets import gpus
from targets.catalog import catalog_targets, library
from targets.target import KNOWN, PLATFORMS, host


def test_the_machine_itself_comes_first() -> None:
    first, *rest = targets_dict()
    assert first["name"] == "host"
    assert first["mcpu"] == host().mcpu
    assert set(first["features"]) == set(host().features)
    assert [row["name"] for row in rest] == [*KNOWN, *PLATFORMS, *gpus.GENERIC, *catalog_targets()]


def test_a_row_says_what_a_target_multiplies_with() -> None:
    rows = {row["name"]: row for row in targets_dict()}
    assert {row["group"] for row in rows.values()} == {"generic", "phones", "boards and servers"}
    phone, gpu = rows["galaxy-s23"], rows["galaxy-s23/gpu"]
    assert (phone["kind"], phone["gpu"], phone["int8_dot_product"]) == ("llvm", None, True)
    assert (gpu["kind"], gpu["gpu"]["name"], gpu["group"]) == ("opencl", "Adreno 740", "phones")
    assert (gpu["int8_dot_product"], gpu["bf16_dot_product"], gpu["fp16"]) == (True, False, True)
    assert rows["raspberry-pi-4"]["l2_bytes"] == 256 * 1024


def test_a_row_for_each_target() -> None:
    table, *_ = targets_tables()
    assert table.row_count == len(KNOWN) + len(PLATFORMS) + len(gpus.GENERIC) + 1
    told = dict(zip(table.columns[0].cells, table.columns[3].cells, strict=True))
    assert (told["znver4"], told["skylake-avx512"]) == ("yes", "no")
    names = [*KNOWN, *PLATFORMS, *gpus.GENERIC]
    more = [list(table.columns[i].cells)[1:] for i in (4, 5, 6)]
    bf16, fp16, tiles = (dict(zip(names, column, strict=True)) for column in more)
    assert (bf16["znver4"], bf16["icelake-server"]) == ("yes", "no")
    assert (fp16["sapphirerapids"], fp16["znver5"]) == ("yes", "no")
    assert (tiles["sapphirerapids"], tiles["znver5"]) == ("yes", "no")


def test_a_row_for_each_device_under_its_system() -> None:
    _, phones, boards = targets_tables()
    devices = library().devices.values()
    for table, system in ((phones, "android"), (boards, "linux")):
        assert list(table.columns[0].cells) == [d.name for d in devices if d.system == system]
    rows = {name: i for i, name in enumerate(phones.columns[0].cells)}
    told = [list(column.cells)[rows["pixel-8"]] for column in phones.columns]
    assert told[1] == "/middle /little /gpu"
    assert told[2].startswith("1 x cortex-x3 2.914 GHz, 4 x cortex-a715")
    assert told[3:] == ["yes", "no", "yes", "Mali-G715"]


@pytest.mark.parametrize("width", [80, 160])
def test_no_name_is_cut_or_broken(width: int) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    for table in targets_tables(width):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    for name in (*KNOWN, *PLATFORMS, *library().devices):
        assert re.search(rf"^│ {re.escape(name)} +│", text, re.M), name


def test_a_narrow_list_has_a_line_for_each_kind_of_core() -> None:
    _, phones, _ = targets_tables(80)
    rows = {name: i for i, name in enumerate(phones.columns[0].cells)}
    cores, products, gpu = (list(c.cells)[rows["pixel-8"]] for c in phones.columns[1:])
    assert cores.splitlines()[0] == "1 x cortex-x3 2.914 GHz"
    assert len(cores.splitlines()) == 3
    assert (products, gpu) == ("int8 fp16", "Mali-G715")


def test_what_is_wrong_stands_beside_what_mends_it() -> None:
    checks = [Check("linker", "fail", "none", "apt-get install lld"), Check("tvm", "ok", "1")]
    table = doctor_table(checks)
    assert list(table.columns[1].cells) == ["[red]fail", "[green]ok"]
    assert list(table.columns[3].cells) == ["apt-get install lld", ""]
