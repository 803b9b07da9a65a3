"""What a device tells about itself becomes its description."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from targets.catalog import library
from targets.cores import core_of
from targets.description import check
from targets.detect import CacheFacts, CpuFacts, DeviceFacts, OpenClFacts, describe, to_toml
from targets.device_file import read_device
from targets.emulated import COMPILER, EMULATOR
from targets.errors import TargetError
from targets.target import find

# Bits of AT_HWCAP and AT_HWCAP2, as Linux numbers them.
ASIMD, ASIMDHP, ASIMDDP, SVE = 1 << 1, 1 << 10, 1 << 20, 1 << 22
SVE2, I8MM, BF16 = 1 << 1, 1 << 13, 1 << 14


def cpuinfo(cores: list[tuple[int, int]], features: str = "fp asimd", tail: str = "") -> str:
    """The text of an ARM kernel for (implementer, part) of each processor."""
    blocks = (
        f"processor\t: {i}\nBogoMIPS\t: 38.40\nFeatures\t: {features}\nCPU implementer\t: {who:#x}\n"
        f"CPU architecture: 8\nCPU variant\t: 0x1\nCPU part\t: {part:#x}\nCPU revision\t: 1\n"
        for i, (who, part) in enumerate(cores)
    )
    return "\n".join(blocks) + tail


def caches(l1: str, l2: str | None = None, l3: str | None = None, shared: str | None = None):
    told = [CacheFacts(1, "Data", l1), CacheFacts(1, "Instruction", "64K")]
    told += [CacheFacts(2, "Unified", l2, shared)] if l2 else []
    return tuple(told + ([CacheFacts(3, "Unified", l3)] if l3 else []))


RASPBERRY_PI_4 = DeviceFacts(
    cpuinfo=cpuinfo(
        [(0x41, 0xD08)] * 4,
        "fp asimd evtstrm crc32 cpuid",
        "\nHardware\t: BCM2711\nRevision\t: c03112\nModel\t\t: Raspberry Pi 4 Model B Rev 1.2\n",
    ),
    machine="aarch64",
    hwcap=0x887,
    cpus=tuple(CpuFacts(i, 1_800_000, caches("32K", "1024K")) for i in range(4)),
    model="Raspberry Pi 4 Model B Rev 1.2",
)

PHONE = DeviceFacts(  # a Snapdragon 8 Gen 2, whose system keeps SVE2 to itself
    cpuinfo=cpuinfo(
        [*[(0x41, 0xD46)] * 3, *[(0x41, 0xD4D)] * 2, *[(0x41, 0xD47)] * 2, (0x41, 0xD4E)],
        "fp asimd aes atomics fphp asimdhp asimdrdm asimddp asimdfhm i8mm bf16 bti",
        "\nHardware\t: Qualcomm Technologies, Inc SM8550\n",
    ),
    machine="aarch64",
    hwcap=ASIMD | ASIMDHP | ASIMDDP,
    hwcap2=I8MM | BF16,
    cpus=(
        *(CpuFacts(i, 2_016_000, caches("32K", "256K", "8192K")) for i in range(3)),
        *(CpuFacts(i, 2_803_200, caches("64K", "512K", "8192K")) for i in range(3, 7)),
        CpuFacts(7, 3_187_200, caches("64K", "1024K", "8192K")),
    ),
    system="android",
    model="Xiaomi 2210132C",
    opencl=OpenClFacts(
        name="QUALCOMM Adreno(TM) 740",
        max_work_group_size=1024,
        local_mem_bytes=32768,
        compute_units=6,
        extensions="cl_khr_fp16 cl_khr_integer_dot_product cl_qcom_perf_hint",
    ),
)

GRAVITON3 = DeviceFacts(
    cpuinfo=cpuinfo([(0x41, 0xD40)] * 8, "fp asimd asimdhp asimddp sve i8mm bf16"),
    machine="aarch64",
    hwcap=ASIMD | ASIMDHP | ASIMDDP | SVE,
    hwcap2=I8MM | BF16,
    cpus=tuple(CpuFacts(i, None, caches("64K", "1024K", "32768K", str(i))) for i in range(8)),
    model="Amazon EC2 c7g.2xlarge",
)

EMULATED = DeviceFacts(  # QEMU's user mode 7.2: the text is that of its host
    cpuinfo="processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n"
    "\nprocessor\t: 1\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2\n",
    machine="aarch64",
    hwcap=0x119FFB,
    cpus=(CpuFacts(0), CpuFacts(1)),
)


def test_a_raspberry_pi():
    device = describe(RASPBERRY_PI_4)
    (cluster,) = device.chip.clusters
    assert (cluster.core, cluster.count, cluster.max_ghz) == ("cortex-a72", 4, 1.8)
    assert (cluster.l1d_bytes, cluster.l2_bytes, cluster.l2_shared_by) == (32768, 1 << 20, 4)
    assert device.name == "raspberry-pi-4-model-b-rev-1-2"
    assert (device.maker, device.system, device.chip.maker) == ("Raspberry", "linux", "BCM2711")
    known = library().chips["bcm2711"]
    assert device.chip.features == known.features
    assert (cluster.core, cluster.l2_bytes) == (known.clusters[0].core, known.clusters[0].l2_bytes)


def test_a_phone_of_four_clusters():
    device = describe(PHONE)
    told = [(c.name, c.core, c.count) for c in device.chip.clusters]
    assert told == [
        ("big", "cortex-x3", 1),
        ("middle", "cortex-a710", 2),
        ("middle-2", "cortex-a715", 2),
        ("little", "cortex-a510", 3),
    ]
    assert set(device.chip.features) == {"neon", "fullfp16", "dotprod", "i8mm", "bf16"}
    assert device.chip.features == library().chips["snapdragon-8-gen-2"].features
    assert device.chip.l3_bytes == 8 << 20
    gpu = device.chip.gpu
    assert (gpu.name, gpu.family, gpu.generation) == ("Adreno 740", "adreno", "a7xx")
    assert (gpu.max_threads, gpu.subgroup, gpu.units) == (1024, 64, 6)
    assert gpu.fp16 is gpu.int8_dot is True


def test_a_server_with_sve_alone():
    device = describe(GRAVITON3)
    (cluster,) = device.chip.clusters
    assert (cluster.core, cluster.count, cluster.max_ghz) == ("neoverse-v1", 8, None)
    assert (cluster.l2_bytes, cluster.l2_shared_by) == (1 << 20, 1)
    assert device.chip.features == library().chips["aws-graviton3"].features
    assert "highest clock of big" in device.unknown()


def test_an_emulated_processor_is_what_its_hwcaps_say():
    device = describe(EMULATED)
    (cluster,) = device.chip.clusters
    assert (cluster.core, cluster.count) == ("generic", 2)
    assert set(device.chip.features) == {"neon", "fullfp16", "dotprod"}
    assert device.name == "unknown-device"


def test_the_emulator_here_tells_its_hwcaps(tmp_path):
    if (lacks := [p for p in (COMPILER, EMULATOR) if shutil.which(p) is None]) != []:
        pytest.skip(f"no {' and no '.join(lacks)}")
    source, program = tmp_path / "told.c", tmp_path / "told"
    source.write_text(
        "#include <stdio.h>\n#include <sys/auxv.h>\n"
        'int main(void) { printf("%lu %lu", getauxval(16), getauxval(26)); return 0; }\n'
    )
    subprocess.run([COMPILER, "-static", str(source), "-o", str(program)], check=True)
    told = {}
    for cpu in ("cortex-a57", "cortex-a76", "neoverse-n1"):
        done = subprocess.run(
            [EMULATOR, "-cpu", cpu, str(program)], capture_output=True, text=True, check=True
        )
        hwcap, hwcap2 = map(int, done.stdout.split())
        facts = DeviceFacts(Path("/proc/cpuinfo").read_text(), "aarch64", hwcap, hwcap2)
        told[cpu] = set(describe(facts).chip.features)
    dotprod = {"neon", "fullfp16", "dotprod"}
    assert told == {"cortex-a57": {"neon"}, "cortex-a76": dotprod, "neoverse-n1": dotprod}


def test_without_hwcaps_the_features_are_those_of_the_text():
    text = cpuinfo([(0x41, 0xD0B)] * 2, "fp asimd asimdhp asimddp sha3")
    assert set(describe(DeviceFacts(text, "arm64")).chip.features) == {
        "neon",
        "fullfp16",
        "dotprod",
    }


@pytest.mark.parametrize(
    ("core", "hwcap", "hwcap2", "granted"),
    [
        (0xD4E, ASIMD | SVE, SVE2, {"neon", "fullfp16", "sve", "sve2"}),
        (0xD4E, ASIMD | SVE, 0, {"neon"}),  # a Snapdragon 8 Gen 1 says so and means neither
        (0xD4E, ASIMD, SVE2, {"neon"}),
        (0xD40, ASIMD | SVE, 0, {"neon", "fullfp16", "sve"}),
    ],
)
def test_one_half_of_sve2_is_none(core, hwcap, hwcap2, granted):
    facts = DeviceFacts(cpuinfo([(0x41, core)]), "aarch64", hwcap, hwcap2)
    assert set(describe(facts).chip.features) == granted


def test_an_old_kernel_tells_of_one_core_for_all():
    text = "Processor\t: AArch64 Processor rev 4 (aarch64)\n"
    text += "".join(f"processor\t: {i}\n" for i in range(4))
    text += "Features\t: fp asimd crc32\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n"
    (cluster,) = describe(DeviceFacts(text, "aarch64")).chip.clusters
    assert (cluster.core, cluster.count) == ("cortex-a53", 4)


def test_blocks_without_a_number_are_counted():
    text = "\n".join(["CPU implementer : 0x41", "CPU part : 0xd05"] * 3)
    (cluster,) = describe(DeviceFacts(text, "aarch64", ASIMD)).chip.clusters
    assert (cluster.core, cluster.count) == ("cortex-a55", 3)


def test_processors_that_sleep_are_like_those_of_their_clock():
    text = cpuinfo([(0x41, 0xD05), (0x41, 0xD05)])
    text += cpuinfo([(0x41, 0xD0B)]).replace("processor\t: 0", "processor\t: 4")
    clocks = [1_800_000] * 4 + [2_400_000] * 2 + [3_000_000]
    cpus = tuple(CpuFacts(i, khz) for i, khz in enumerate(clocks))
    told = describe(DeviceFacts(text, "aarch64", ASIMD, cpus=cpus)).chip.clusters
    assert [(c.core, c.count) for c in told] == [
        ("generic", 1),  # nobody told what it is
        ("cortex-a76", 2),
        ("cortex-a55", 4),
    ]


def test_equal_clocks_do_not_hide_which_cores_are_big():
    cpus = tuple(CpuFacts(i, 1_989_000) for i in range(8))
    text = cpuinfo([(0x41, 0xD03)] * 4 + [(0x41, 0xD09)] * 4)
    told = describe(DeviceFacts(text, "aarch64", ASIMD, cpus=cpus)).chip.clusters
    assert [(c.name, c.core) for c in told] == [("big", "cortex-a73"), ("little", "cortex-a53")]


def test_who_shares_a_cache_is_read_where_it_is_told():
    cpus = tuple(
        CpuFacts(i, 2_000_000, caches("64K", "512K", shared=f"{i // 2 * 2}-{i // 2 * 2 + 1}"))
        for i in range(4)
    )
    text = cpuinfo([(0x41, 0xD46)] * 4)
    (cluster,) = describe(DeviceFacts(text, "aarch64", ASIMD, cpus=cpus)).chip.clusters
    assert (cluster.count, cluster.l2_shared_by) == (4, 2)


@pytest.mark.parametrize(
    ("told", "name", "family"),
    [
        ("QUALCOMM Adreno(TM)", "QUALCOMM Adreno(TM)", "opencl"),
        ("QUALCOMM Adreno(TM) 640", "Adreno 640", "adreno"),
        ("FD630", "FD630", "opencl"),
        ("Mali-G78 r0p1", "Mali-G78", "mali"),
        ("Mali-T860", "Mali-T860", "mali"),
        ("Immortalis-G720 MC12", "Immortalis-G720", "mali"),
        ("pthread-AMD EPYC", "pthread-AMD EPYC", "opencl"),
        ("", "unknown GPU", "opencl"),
    ],
)
def test_names_of_gpus(told, name, family):
    facts = DeviceFacts(cpuinfo([(0x41, 0xD05)]), "aarch64", ASIMD, opencl=OpenClFacts(told))
    gpu = describe(facts).chip.gpu
    assert (gpu.name, gpu.family) == (name, family)
    assert gpu.fp16 == (library().gpus[name].fp16 if name in library().gpus else None)


def test_extensions_decide_over_the_catalog():
    opencl = OpenClFacts("Mali-G710", extensions="cl_khr_icd cl_arm_integer_dot_product_int8")
    gpu = describe(DeviceFacts(cpuinfo([]), "aarch64", ASIMD, opencl=opencl)).chip.gpu
    assert (gpu.fp16, gpu.int8_dot, gpu.subgroup) == (False, True, 16)


def test_numbers_of_cores():
    assert core_of(0x41, 0xD0B) == core_of(0x51, 0x804) == "cortex-a76"
    assert core_of(0x51, 0x805) == "cortex-a55"
    assert (core_of(0x61, 0x023), core_of(0xC0, 0xAC3)) == ("apple-m1", "ampere1")
    assert (core_of(0x4E, 0x004), core_of(0x53, 0x003)) == ("carmel", "exynos-m4")
    assert core_of(0x41, 0xFFF) == core_of(0x99, 0xD0B) == "generic"


@pytest.mark.parametrize("facts", [RASPBERRY_PI_4, PHONE, GRAVITON3, EMULATED])
def test_it_goes_to_a_file_that_is_a_target(facts, tmp_path):
    path = tmp_path / "found.toml"
    device = describe(facts)
    path.write_text(to_toml(device), encoding="utf-8")
    assert read_device(path) == device
    assert find(str(path)).features == set(device.chip.features)
    assert re.search(r"told by the device itself", path.read_text())


AS_JSON = {
    "cpuinfo": cpuinfo([(0x41, 0xD0B)]),
    "machine": "aarch64",
    "hwcap": ASIMD,
    "hwcap2": 0,
    "cpus": [
        {"cpu": 0, "max_khz": None, "caches": [{"level": 1, "type": "Data", "size": "64K"}]},
        {"cpu": 1, "max_khz": 2400000, "caches": []},
    ],
    "system": "linux",
    "model": "Board",
    "opencl": {
        "name": "Mali-G610",
        "max_work_group_size": 1024,
        "local_mem_bytes": 32768,
        "compute_units": 4,
        "extensions": ["cl_khr_fp16", "cl_khr_icd"],
        "driver": "a newer device says more",
    },
    "uptime": 3,
}


def test_facts_come_as_json():
    facts = DeviceFacts.from_json(json.loads(json.dumps(AS_JSON)))
    assert facts.cpus[0].caches == (CacheFacts(1, "Data", "64K"),)
    assert facts.cpus[1] == CpuFacts(1, 2400000)
    assert facts.opencl.extensions == "cl_khr_fp16 cl_khr_icd"
    assert DeviceFacts.from_json(AS_JSON | {"opencl": None}).opencl is None
    assert describe(facts).chip.gpu.units == 4


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"machine": "armv7l"}, "only 64-bit ARM"),
        ({"machine": ""}, "no machine told"),
        ({"hwcap": -1}, "hwcaps are bits"),
        ({"hwcap": "0x2"}, "hwcap has a wrong value"),
        ({"cpus": [{"max_khz": 1}]}, "lacks the key 'cpu'"),
        ({"cpus": {"cpu": 0}}, "a list"),
        ({"system": "symbian"}, "system is unknown"),
        ({"cpus": [{"cpu": 0, "max_khz": 10**9}]}, "max_ghz is impossible"),
        ({"opencl": {"name": 3}}, "opencl.name has a wrong value"),
        ({"opencl": {"name": "x", "compute_units": -4}}, "units is impossible"),
    ],
)
def test_what_cannot_be_is_said(change, says):
    with pytest.raises(TargetError) as caught:
        describe(DeviceFacts.from_json(AS_JSON | change))
    assert says in str(caught.value)
    with pytest.raises(TargetError):
        DeviceFacts.from_json([])


_LINES = st.sampled_from(
    ["processor\t: 0", "processor : 99999999", "CPU part : 0xd05", "CPU part : x", "CPU part",
     "CPU implementer : 0x41", "Features : asimd sve sve2 i8mm", "Hardware : \x00\u2028", "flags : avx"]
)  # fmt: skip
_SIZES = st.sampled_from(["32K", "1M", "", "-1K", "0K", "9999999999G", "64 KiB", "512"])
_FACTS = st.builds(
    DeviceFacts,
    cpuinfo=st.lists(_LINES | st.text(max_size=20), max_size=12).map("\n".join),
    machine=st.just("aarch64"),
    hwcap=st.integers(0, 1 << 64),
    hwcap2=st.integers(0, 1 << 64),
    cpus=st.lists(
        st.builds(
            CpuFacts,
            st.integers(-1, 9),
            st.none() | st.integers(-1, 1 << 40),
            st.lists(
                st.builds(
                    CacheFacts,
                    st.integers(0, 4),
                    st.sampled_from(["Data", "Instruction", "Unified", "?"]),
                    _SIZES,
                    st.none()
                    | st.sampled_from(["0-3", "0,2", "x", "3-0", ""])
                    | st.text(max_size=9),
                ),
                max_size=4,
            ).map(tuple),
        ),
        max_size=6,
    ).map(tuple),
    system=st.sampled_from(["linux", "android"]),
    model=st.text(max_size=30),
    opencl=st.none()
    | st.builds(
        OpenClFacts,
        st.sampled_from(["Adreno 740", "Mali-G78", ""]) | st.text(max_size=20),
        st.none() | st.integers(-1, 1 << 20),
        st.none() | st.integers(-1, 1 << 30),
        st.none() | st.integers(-1, 1 << 20),
        st.none() | st.text(max_size=20),
    ),
)


@given(facts=_FACTS)
@settings(max_examples=300, deadline=None)
def test_whatever_a_device_tells_is_a_device_or_an_error_of_the_user(facts):
    try:
        device = describe(facts)
    except TargetError:
        return
    assert check(device, "again") is device
    with TemporaryDirectory() as folder:
        path = Path(folder, "found.toml")
        path.write_text(to_toml(device), encoding="utf-8")
        assert read_device(path) == device
