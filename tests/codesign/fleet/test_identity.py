"""What a device may be compiled for, from what it tells."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from codesign.conditions import PHONE
from codesign.errors import UserError
from codesign.fleet import NoDeviceError, Wanted
from codesign.fleet.identity import Identity, identify
from codesign.worker import Failure, Reply
from targets.catalog import library
from targets.cpu import _LLVM_NAMES
from targets.detect import to_toml
from targets.device_file import read_device
from targets.errors import TargetError
from targets.target import KNOWN, find

SPELLED = {llvm: linux for linux, llvm in _LLVM_NAMES.items()}


def x86(name, vendor=None):
    """Facts of a processor with just what a target needs, as /proc/cpuinfo spells it."""
    target = KNOWN[name]
    flags = " ".join(SPELLED.get(f, f) for f in sorted(target.features))
    maker = target.vendor if vendor is None else vendor
    text = f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: Some CPU\nflags\t\t: {flags}\n"
    return {"cpuinfo": text, "machine": "x86_64", "hwcap": 0, "hwcap2": 0, "cpus": []}


PI_4 = {
    "cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU variant\t: 0x0\nCPU part\t: 0xd08\n",
    "machine": "aarch64",
    "hwcap": 0x887,
    "hwcap2": 0,
    "cpus": [{"cpu": 0, "max_khz": 1800000, "caches": []}],
    "model": "Raspberry Pi 4 Model B Rev 1.2",
}
WELL = {"cores": 4, "emulated": False}


@pytest.mark.parametrize("name", [n for n, t in KNOWN.items() if t.architecture == "x86_64"])
def test_an_x86_device_is_the_best_that_its_features_and_maker_allow(name):
    target = Identity("pc", WELL, x86(name)).target("host")
    assert target.architecture == "x86_64"
    assert target.features == KNOWN[name].features
    assert target.vendor in ("", KNOWN[name].vendor)


def test_an_intel_processor_is_no_zen_though_it_has_all_of_its_features():
    assert KNOWN["znver4"].features <= KNOWN["sapphirerapids"].features
    assert Identity("pc", WELL, x86("sapphirerapids")).target("host").name == "sapphirerapids"


def test_an_x86_device_that_tells_no_processor_is_an_error_of_the_user():
    facts = {"cpuinfo": "", "machine": "x86_64"}
    with pytest.raises(UserError, match="no processor told") as error:
        Identity("pc", WELL, facts).target("host")
    assert "--target" in str(error.value)


def test_an_arm_device_is_what_it_describes():
    identity = Identity("My Pi #4", WELL, PI_4)
    target = identity.target("host")
    assert (target.name, target.mcpu, target.architecture) == ("my-pi-4", "cortex-a72", "aarch64")
    assert target.features == find("raspberry-pi-4").features
    assert identity.target("this-machine") == target
    assert identity.description.name == "my-pi-4"
    assert identity.target("raspberry-pi-4").mcpu == "cortex-a72"


@pytest.mark.parametrize("key", ["My Pi #4", "pi__5", "P\u00e9p\u00e9"])
def test_what_is_written_of_a_device_can_be_read_whatever_its_key(key, tmp_path):
    made = Identity(key, WELL, PI_4).description
    (tmp_path / "pi.toml").write_text(to_toml(made), encoding="utf-8")
    assert read_device(tmp_path / "pi.toml", library()) == made


def test_an_emulated_device_is_described_as_one(tmp_path):
    made = Identity("emulated-arm64", {"emulated": True}, PI_4).description
    assert (made.maker, made.model) == ("QEMU", "emulated processor, no device")
    assert made.chip.maker == "QEMU"


IN_TERMUX = PI_4 | {"system": "android", "libc": "glibc", "model": "Google Pixel 2"}


def test_a_debian_on_a_phone_gets_code_for_linux_and_the_limits_of_a_phone():
    identity = Identity("pixel2", WELL, IN_TERMUX)
    assert identity.target("host").triple == "aarch64-linux-gnu"
    assert identity.gate == PHONE
    with pytest.raises(UserError, match="code for Android does not load") as error:
        identity.target("android-arm64")
    assert "aarch64, Android, with neon" in str(error.value)


def test_a_python_of_android_gets_code_for_android():
    identity = Identity("pixel2", WELL, IN_TERMUX | {"libc": "bionic"})
    assert identity.target("host").triple == "aarch64-linux-android"
    assert identity.target("android-arm64") == find("android-arm64")
    with pytest.raises(UserError, match="code for Linux with glibc does not load"):
        identity.target("raspberry-pi-3")


@pytest.mark.parametrize("name", ["redmi-note-8", "redmi-note-8/gpu", "android-arm64"])
def test_a_bundle_for_android_is_refused_on_linux_before_it_is_sent(name):
    target = find(name)
    manifest = {
        "name": name, "machine": "aarch64", "triple": target.triple,
        "features": sorted(target.features),
    }  # fmt: skip
    board = Identity("pi4", WELL, PI_4 | {"system": "linux"})
    with pytest.raises(UserError, match="Android does not load") as error:
        board.check_runs(manifest)
    assert "codesign compile MODEL --device pi4" in str(error.value)
    board.check_runs(manifest | {"triple": "aarch64-linux-gnu"})
    del manifest["triple"]  # of an earlier version, made for Linux as far as it says
    board.check_runs(manifest)


@pytest.mark.parametrize("key", ["", "##", "\N{SNOWMAN}"])
def test_a_key_without_letters_still_has_a_name(key):
    assert Identity(key, WELL, PI_4).target("host").name == "device"


@pytest.mark.parametrize(
    ("facts", "name", "got"),
    [
        (PI_4, "android-arm64+dotprod", "aarch64 without dotprod"),
        (PI_4, "x86-64-v2", "x86_64|aarch64 without .*sse4.2"),
        (x86("x86-64-v3"), "raspberry-pi-4", "x86_64 without neon"),
        (x86("x86-64-v3"), "skylake-avx512", "without avx512bw"),
    ],
)
def test_code_that_the_device_cannot_run_is_refused_with_what_it_lacks(facts, name, got):
    with pytest.raises(UserError, match=got) as error:
        Identity("key", WELL, facts).target(name)
    text = str(error.value)
    assert f"cannot run code for {name}" in text
    assert "leave --target out" in text


def test_a_target_that_nobody_knows_is_refused():
    with pytest.raises(TargetError, match="no-such-phone"):
        Identity("key", WELL, PI_4).target("no-such-phone")


def test_a_device_of_another_architecture_is_refused():
    with pytest.raises(TargetError, match="riscv64"):
        Identity("key", WELL, {"cpuinfo": "", "machine": "riscv64"}).target("host")


def test_a_stock_server_needs_a_target_by_name_and_then_gets_it():
    stock = Identity("phone", {}, {})
    assert stock.target("android-arm64") == find("android-arm64")
    with pytest.raises(UserError, match="stock TVM server") as error:
        stock.target("host")
    assert "--target android-arm64" in str(error.value)
    assert not stock.emulated


def made_for(target, **more):
    """As a bundle's manifest describes the target that it was made for."""
    return {
        "name": target.name, "kind": target.kind, "machine": target.architecture,
        "features": sorted(target.features),
    } | more  # fmt: skip


def test_a_bundle_on_a_stock_server_is_measured_as_what_it_was_made_for():
    stock = Identity("phone", {}, {})
    for name in ("android-arm64", "pixel-8", "pixel-8/gpu", "x86-64-v3"):
        assert stock.target_of(made_for(find(name))) == find(name)


def test_a_bundle_for_a_device_that_only_a_file_describes_is_measured_as_the_best_it_may_be():
    stock, unknown = Identity("phone", {}, {}), made_for(find("pixel-8"), name="my-phone")
    found = stock.target_of(unknown)
    assert found.architecture == "aarch64"
    assert found.features <= find("pixel-8").features
    assert "dotprod" in found.features
    with pytest.raises(TargetError, match="my-phone"):
        stock.target_of(unknown | {"kind": "opencl"})


def test_a_bundle_on_a_server_of_ours_is_measured_as_what_the_device_is():
    pi = Identity("pi", WELL, PI_4)
    assert pi.target_of(made_for(find("aarch64"))) == pi.target("host")
    with pytest.raises(UserError, match="this bundle is for another device"):
        pi.target_of(made_for(find("x86-64-v3")))


@pytest.mark.parametrize("which", ["big", "4-7"])
def test_processors_cannot_be_chosen_on_a_stock_server(which):
    with pytest.raises(UserError, match=which) as error:
        Identity("phone", {}, {}).cpus(which)
    assert "taskset" in str(error.value)


@pytest.mark.parametrize(
    ("told", "facts", "name"),
    [
        (WELL, PI_4, "pi over RPC: Raspberry Pi 4 Model B Rev 1.2, 4 processors"),
        ({"emulated": True, "cores": 2}, {"machine": "aarch64"},
         "pi over RPC: aarch64, 2 processors, emulated"),
        ({}, {"machine": "aarch64"}, "pi over RPC: aarch64, ? processors"),
        ({}, {}, "pi over RPC (stock TVM server)"),
    ],
)  # fmt: skip
def test_its_name_in_records(told, facts, name):
    assert Identity("pi", told, facts).name == name


def fleet(*answers):
    """A fleet that gives these answers, one after the other."""
    left = list(answers)
    return SimpleNamespace(
        wanted=Wanted("127.0.0.1:1", "pi"), request=lambda op, params, deadline: left.pop(0)
    )


def test_a_device_is_asked_for_its_facts_and_its_info():
    found = identify(fleet(Reply(PI_4, ()), Reply(WELL, ())))
    assert found == Identity("pi", WELL, PI_4)


def test_a_stock_server_has_neither():
    assert identify(fleet(Reply(None, ()), Reply(None, ()))) == Identity("pi", {}, {})


def test_a_device_that_fails_to_answer_names_the_doctor():
    with pytest.raises(NoDeviceError, match="codesign doctor --device pi"):
        identify(fleet(Reply(PI_4, ()), Failure("timeout", "no answer")))
