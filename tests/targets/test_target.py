"""Targets are data: widths, threads, features, and the names a person may give."""

from __future__ import annotations

import subprocess
import sys

import pytest

from targets.cpu import Processor
from targets.errors import TargetError
from targets.target import KNOWN, find, host


def test_widths():
    assert (find("znver4").lanes, find("znver4").block) == (16, 32)
    assert (find("x86-64-v3").lanes, find("x86-64-v3").block) == (8, 16)
    with_vnni = {name for name, target in KNOWN.items() if target.has_vnni}
    assert "znver4" in with_vnni
    assert "alderlake" in with_vnni
    assert {name for name, target in KNOWN.items() if target.has_tiles} == {"sapphirerapids"}
    with_fp16 = {name for name, target in KNOWN.items() if target.has_fp16}
    assert with_fp16 == {"sapphirerapids", "aarch64-dotprod", "aarch64-i8mm"}
    with_bf16 = {name for name, target in KNOWN.items() if target.has_bf16}
    assert with_bf16 == {"znver4", "znver5", "sapphirerapids", "aarch64-i8mm"}
    assert not with_vnni & {name for name in KNOWN if name.startswith("aarch64")}
    assert not with_vnni & {"x86-64-v2", "x86-64-v3", "x86-64-v4", "skylake-avx512"}


def test_threads():
    two = find("x86-64-v3", 2)
    assert two.threads == 2
    assert str(two) == "x86-64-v3 (2 threads)"
    assert str(two.with_threads(1)) == "x86-64-v3 (1 thread)"
    with pytest.raises(TargetError) as caught:
        two.with_threads(0)
    assert caught.value.got == "0"


def test_tvm_knows_every_target_and_its_features():
    for target in KNOWN.values():
        made = target.with_threads(3).tvm()
        assert str(made.attrs["mcpu"]) == target.mcpu
        assert int(made.attrs["num-cores"]) == 3


def test_unknown_names_say_what_is_known():
    with pytest.raises(TargetError) as caught:
        find("znver44")
    assert caught.value.got == "znver44"
    assert "x86-64-v3" in caught.value.allowed
    assert "znver" in caught.value.next
    with pytest.raises(TargetError) as caught:
        find("!")
    assert "codesign targets" in caught.value.next


def processor(vendor, features):
    return lambda: Processor(vendor, "a model", frozenset(features), 4)


@pytest.mark.parametrize(
    ("vendor", "like", "extra", "name"),
    [
        ("AuthenticAMD", "znver4", (), "znver4"),
        ("GenuineIntel", "znver4", (), "icelake-server"),  # AMD's names are for AMD
        ("AuthenticAMD", "x86-64-v3", ("sha",), "x86-64-v3"),
        ("GenuineIntel", "skylake-avx512", (), "skylake-avx512"),
        ("GenuineIntel", "sapphirerapids", ("movdiri",), "sapphirerapids"),
        ("", "x86-64-v2", (), "x86-64-v2"),
        ("", "aarch64", ("dotprod",), "aarch64"),  # without fp16
        ("", "aarch64-dotprod", ("sha2",), "aarch64-dotprod"),
        ("", "aarch64-i8mm", (), "aarch64-i8mm"),
    ],
)
def test_host_is_the_best_that_fits(monkeypatch, vendor, like, extra, name):
    features = {*KNOWN[like].features, *extra}
    monkeypatch.setattr("targets.target.this_processor", processor(vendor, features))
    found = host(2)
    assert (found.name, found.threads, found.description) == (name, 2, "a model")
    assert not found.missing()
    assert find("host") == find("this-machine") == host()


@pytest.mark.parametrize(("told", "l2_bytes"), [(768 << 10, 768 << 10), (None, 1 << 20)])
def test_the_cache_of_the_host_is_what_it_tells(monkeypatch, told, l2_bytes):
    znver4 = KNOWN["znver4"]
    machine = Processor("AuthenticAMD", "a model", znver4.features, 4, told)
    monkeypatch.setattr("targets.target.this_processor", lambda: machine)
    assert (host().name, host().l2_bytes) == ("znver4", l2_bytes)


def test_a_machine_that_nothing_fits(monkeypatch):
    monkeypatch.setattr("targets.target.this_processor", processor("RISC-V", {"v"}))
    with pytest.raises(TargetError) as caught:
        host()
    assert "a model: v" in caught.value.got
    assert find("x86-64-v2").missing() == KNOWN["x86-64-v2"].features


def test_targets_are_read_without_tvm():
    code = "import sys, targets.target, targets.link; sys.exit('tvm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
