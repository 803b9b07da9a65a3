"""What one target is, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.table import Table

from codesign.target_page import kernels, target_dict, target_tables
from targets.catalog import library
from targets.device_file import to_toml
from targets.errors import TargetError
from targets.target import find


def told(tables: list[Table]) -> list[list[str]]:
    """The cells of each table, row by row."""
    return [
        [str(cell) for row in zip(*(c.cells for c in t.columns), strict=True) for cell in row]
        for t in tables
    ]


def test_a_phone() -> None:
    facts, clusters, gpu, products, unknown, sources = told(target_tables("galaxy-s23/little"))
    assert "Samsung Galaxy S23, android" in facts
    assert "llvm, cortex-a510, aarch64-linux-android" in facts
    assert "128 KiB, assumed" in facts
    assert clusters[:6] == ["galaxy-s23", "cortex-x3", "1", "3.36 GHz", "64 KiB", "unknown"]
    assert gpu[:4] == ["target", "galaxy-s23/gpu", "family", "adreno, a7xx"]
    assert products[-2:] == ["int8", "usdot"]
    assert "L2 of big, middle, middle-2, little" in unknown
    assert any("sm8550.dtsi" in source for source in sources)


def test_a_board_without_a_gpu_and_with_all_its_caches() -> None:
    facts, clusters, products, unknown, _ = told(target_tables("raspberry-pi-5"))
    assert "512 KiB" in facts
    assert clusters[-2:] == ["64 KiB", "512 KiB"]
    assert products[-2:] == ["int8", "sdot"]
    assert unknown == ["nothing"]


def test_a_cache_of_several_cores() -> None:
    assert told(target_tables("raspberry-pi-4"))[1][-1] == "1024 KiB, shared by 4"


def test_a_target_that_is_no_device() -> None:
    facts, products = told(target_tables("android-arm64+dotprod"))
    assert "dotprod neon" in facts
    assert products[-2:] == ["int8", "sdot"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("aarch64", {"float16": "none", "int8": "none"}),
        ("aarch64-dotprod", {"float16": "fmla on half, 8 products at once", "int8": "sdot"}),
        ("aarch64-i8mm", {"bfloat16": "bfdot", "int8": "usdot"}),
        ("znver5", {"float32": "vfmadd, 16 products at once", "bfloat16": "vdpbf16ps"}),
        ("x86-64-v3", {"bfloat16": "none", "int8": "none"}),
        ("alderlake", {"int8": "vpdpbusd"}),
        ("sapphirerapids", {"bfloat16": "tdpbf16ps, on tiles", "int8": "tdpbusd, on tiles"}),
        ("rockpro64/gpu", {"float16": "OpenCL's fma on half", "int8": "none"}),
        ("pixel-7/gpu", {"int8": "integer dot product of four bytes"}),
        ("opencl", {"float16": "none: no cl_khr_fp16 is known of", "int8": "none"}),
    ],
)
def test_the_instruction_of_each_kind_of_kernel(name: str, expected: dict[str, str]) -> None:
    found = kernels(find(name))
    assert {key: found[key] for key in expected} == expected


def test_for_programs() -> None:
    page = json.loads(json.dumps(target_dict("pixel-8/gpu")))
    assert (page["name"], page["kind"]) == ("pixel-8/gpu", "opencl")
    assert page["device"]["chip"]["cluster"][0]["core"] == "cortex-x3"
    assert page["device"]["chip"]["gpu"]["units"] is None
    assert "compute units of the GPU" in page["unknown"]
    assert page["sources"]
    plain = target_dict("znver5")
    assert plain["device"] is None
    assert plain["kernels"]["int8"] == "vpdpbusd"


def test_a_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(library().devices["rock-5b"]), encoding="utf-8")
    page = target_dict(f"{path}/little")
    assert (page["mcpu"], page["group"]) == ("cortex-a55", "boards and servers")
    assert told(target_tables(str(path)))[1][0] == "rock-5b"


def test_the_biggest_cores_may_be_called_so() -> None:
    assert find("galaxy-s23/big") == find("galaxy-s23")
    assert "galaxy-s23" in told(target_tables("galaxy-s23/big"))[1]
    assert find("galaxy-s23/big+sve").name == "galaxy-s23+sve"


@pytest.mark.parametrize(
    ("name", "what", "allowed"),
    [
        ("pixel-8/middle-2", "no such part", "pixel-8 (its big cores), pixel-8/middle, pixel-8/li"),
        ("raspberry-pi-5/gpu", "no GPU of this device is described", "raspberry-pi-5 (its big"),
    ],
)
def test_a_part_that_a_device_has_not(name: str, what: str, allowed: str) -> None:
    with pytest.raises(TargetError, match=what) as caught:
        find(name)
    assert allowed in caught.value.allowed


def test_a_feature_beyond_what_the_device_grants_is_told() -> None:
    facts = told(target_tables("raspberry-pi-4+dotprod"))[0]
    assert facts[facts.index("beyond it") + 1].startswith("dotprod: nobody tells")
    assert "beyond it" not in told(target_tables("raspberry-pi-5+dotprod"))[0]
    assert "beyond it" not in told(target_tables("aarch64+dotprod"))[0]


def test_a_makers_name_is_not_said_twice() -> None:
    assert "Raspberry Pi 5, linux" in told(target_tables("raspberry-pi-5"))[0]


def test_a_name_that_nothing_has() -> None:
    for show in (target_dict, target_tables):
        with pytest.raises(TargetError, match="unknown target") as caught:
            show("pixel-88")
        assert "pixel-8" in caught.value.next
