"""The phones and boards of the catalog, and what each of them gives to compile for."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from tvm import te
from tvm.target.codegen import llvm_get_cpu_features, llvm_is_valid_cpu

from targets.catalog import catalog_targets, library
from targets.cores import CORES, LITTLE, PARTS, WITH_SVE2
from targets.description import GpuDescription
from targets.device_file import read_device, to_toml
from targets.device_targets import ASSUMED_L2, ASSUMED_THREADS, TRIPLES, gpu_of
from targets.features import AARCH64, closed
from targets.target import KNOWN, PLATFORMS, device_of, find

DEVICES = library().devices
TARGETS = catalog_targets()


def features_in_llvm(target: tvm.target.Target) -> frozenset[str]:
    return AARCH64 & {str(name) for name in llvm_get_cpu_features(target)}


def of_core(core: str) -> frozenset[str]:
    return features_in_llvm(
        tvm.target.Target({"kind": "llvm", "mcpu": core, "mtriple": "aarch64-linux-gnu"})
    )


def test_there_are_many_and_each_says_where_it_comes_from():
    assert len(DEVICES) >= 28
    for device in DEVICES.values():
        assert device.sources, device.name
        assert device.chip.sources, device.name
        assert all(len(source) > 10 for source in device.all_sources), device.name


def test_generations_of_cores_and_gpus_are_covered():
    cores = {c.core for d in DEVICES.values() for c in d.chip.clusters}
    without = "cortex-a53 cortex-a57 cortex-a72 cortex-a73"
    dotprod = "cortex-a55 cortex-a75 cortex-a76 cortex-a77 cortex-a78 cortex-x1 neoverse-n1"
    i8mm = "cortex-a510 cortex-a710 cortex-x2 cortex-x3 cortex-x4 neoverse-v1 neoverse-n2"
    assert {*without.split(), *dotprod.split(), *i8mm.split()} <= cores
    generations = {d.chip.gpu.generation for d in DEVICES.values() if d.chip.gpu}
    assert {"a5xx", "a6xx", "a7xx", "midgard", "bifrost", "valhall"} <= generations


@pytest.mark.parametrize("core", sorted(CORES))
def test_llvm_knows_every_core(core):
    assert llvm_is_valid_cpu(core, "aarch64-linux-gnu")


def test_cores_that_have_sve2():
    assert {core for core in CORES if "sve2" in of_core(core)} == WITH_SVE2
    assert LITTLE <= CORES
    assert all(number < 0x1000 for parts in PARTS.values() for number in parts)


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_system_grants_no_more_than_its_cores_can_do(name):
    chip = DEVICES[name].chip
    assert frozenset(chip.features) == closed(chip.features)
    for cluster in chip.clusters:
        assert set(chip.features) <= of_core(cluster.core), cluster.core


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_targets_of_a_device(name):
    device = DEVICES[name]
    names = [n for n in TARGETS if n == name or n.startswith(f"{name}/")]
    first, *others = device.chip.clusters
    gpu = [f"{name}/gpu"] if device.chip.gpu else []
    assert names == [name, *(f"{name}/{c.name}" for c in others), *gpu]
    assert TARGETS[name].mcpu == first.core
    for made in names:
        target = find(made, 2)
        assert target.threads == 2
        assert target.features == set(device.chip.features)
        assert target.triple == TRIPLES[device.system]
        assert device_of(made) is device
        assert (target.gpu is not None) == made.endswith("/gpu")


@pytest.mark.parametrize("name", sorted(n for n in TARGETS if not n.endswith("/gpu")))
def test_code_gets_just_the_features_that_the_system_grants(name):
    target = TARGETS[name]
    made = target.tvm()
    assert str(made.attrs["mcpu"]) == target.mcpu
    assert features_in_llvm(made) == target.features


@pytest.mark.parametrize("name", sorted(n for n in TARGETS if n.endswith("/gpu")))
def test_a_gpu_is_a_target_of_opencl(name):
    target = TARGETS[name]
    made = target.tvm()
    gpu = target.gpu
    assert made.kind.name == "opencl"
    assert [str(key) for key in made.keys] == [
        "opencl",
        "gpu",
    ]  # adreno: TVM's pipeline for textures
    assert int(made.attrs["max_threads_per_block"]) == gpu.max_threads
    assert int(made.attrs["max_shared_memory_per_block"]) == gpu.local_bytes
    assert int(made.attrs["thread_warp_size"]) == 1  # or TVM leaves out barriers
    assert str(made.host.attrs["mcpu"]) == target.mcpu
    assert features_in_llvm(made.host) == target.features


def test_caches_are_those_of_one_core():
    assert find("raspberry-pi-4").l2_bytes == 256 * 1024  # of 1 MiB for four
    assert find("rock-5b").l2_bytes == 512 * 1024
    assert find("rock-5b/little").l2_bytes == 128 * 1024
    assert find("pixel-8").l2_bytes == ASSUMED_L2


def test_what_is_not_known_is_assumed_on_the_safe_side():
    told = DEVICES["galaxy-s25"].chip.gpu
    assert (told.max_threads, told.int8_dot, told.units) == (None, None, None)
    gpu = find("galaxy-s25/gpu").gpu
    assert (gpu.max_threads, gpu.int8_dot, gpu.units) == (ASSUMED_THREADS, False, 0)
    assert "integer dot product of the GPU" in DEVICES["galaxy-s25"].unknown()
    assert not gpu_of(GpuDescription("a GPU", "mali")).fp16


def test_facts_that_were_wrong_once():
    assert [c.max_ghz for c in DEVICES["pixel-7"].chip.clusters] == [2.85, 2.35, 1.8]
    assert find("rock-5b/gpu").gpu.int8_dot
    assert find("galaxy-s25/gpu").gpu.fp16


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_a_device_goes_to_a_file_and_comes_back(name, tmp_path: Path):
    path = tmp_path / "device.toml"
    path.write_text(to_toml(DEVICES[name]), encoding="utf-8")
    assert read_device(path) == DEVICES[name]


@pytest.mark.parametrize(
    ("name", "instruction"),
    [("pixel-2-xl", "fmla"), ("raspberry-pi-5", "fmla"), ("android-arm64+fullfp16", "fmla")],
)
def test_code_is_made_for_it(name, instruction):
    a, b, c = (te.placeholder((64,), "float32", name=n) for n in "abc")
    out = te.compute((64,), lambda i: a[i] * b[i] + c[i], name="out")
    func = te.create_prim_func([a, b, c, out])
    sch = tvm.s_tir.Schedule(func)
    _, inner = sch.split(sch.get_loops(sch.get_sblock("out"))[0], [None, 4])
    sch.vectorize(inner)
    code = tvm.compile(sch.mod, target=find(name).tvm()).mod.inspect_source("asm")
    assert instruction in code


def test_an_instruction_that_the_system_withholds_is_not_used():
    n = te.var("n")
    a, b = (te.placeholder((n,), "float32", name=name) for name in "ab")
    func = te.create_prim_func([a, b, te.compute((n,), lambda i: a[i] * b[i] + a[i], name="out")])
    granted = find("graviton3")
    withheld = replace(granted, features=granted.features - {"sve"})
    for target, scalable in ((granted, True), (withheld, False)):
        code = tvm.compile(func, target=target.tvm()).mod.inspect_source("asm")
        assert (re.search(r"\bz\d+\.", code) is not None) == scalable


def test_no_target_of_a_device_hides_another():
    assert not (set(KNOWN) | set(PLATFORMS)) & set(TARGETS)


def test_the_catalog_is_read_without_tvm():
    code = "import sys, targets.detect; from targets.target import find; find('pixel-8/gpu');"
    code += "sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
