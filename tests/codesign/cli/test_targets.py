"""The command ``targets``: what can be compiled for, one of them, and what a connected device is."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from benchmarks.faults.farm import KEY
from codesign.cli import app
from codesign.errors import UserError
from codesign.fleet import identity
from codesign.fleet.identity import Identity, look_at
from codesign.where import Where
from targets.errors import TargetError
from targets.target import find, host

PI_4 = {
    "cpuinfo": "processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
    "CPU variant\t: 0x0\nCPU part\t: 0xd08\n",
    "machine": "aarch64",
    "hwcap": 0x887,
    "hwcap2": 0,
    "cpus": [{"cpu": 0, "max_khz": 1800000, "caches": []}],
    "model": "Raspberry Pi 4 Model B Rev 1.2",
}


def run(*words):
    return CliRunner().invoke(app, ["targets", *words])


@pytest.mark.parametrize("words", [(), ("list",)])
def test_the_list_is_what_the_group_says_alone(words):
    result = run(*words)
    assert result.exit_code == 0
    assert "raspberry-pi-4" in result.output
    told = json.loads(run(*words, "--json").stdout)
    assert "raspberry-pi-4" in json.dumps(told)


@pytest.mark.parametrize("words", [("pixel-8",), ("show", "pixel-8")])
def test_a_target_is_explained(words):
    result = run(*words)
    assert result.exit_code == 0
    assert "pixel-8" in result.output
    assert "pixel-8" in json.dumps(json.loads(run(*words, "--json").stdout))


def test_an_unknown_target_is_refused():
    result = run("no-such-phone")
    assert isinstance(result.exception, TargetError)
    assert "no-such-phone" in str(result.exception)


@pytest.fixture
def pi(monkeypatch):
    """A Raspberry Pi 4 behind every tracker."""

    class Fleet:
        def __init__(self, wanted, say):
            assert str(wanted.tracker) == "127.0.0.1:9190"
            self.wanted = wanted

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def request(self, op, params, deadline):
            assert op == "ask_device"
            facts = params["what"] == "device.facts"
            return SimpleNamespace(result=PI_4 if facts else {"cores": 4})

    monkeypatch.setattr(identity, "Fleet", Fleet)


def test_a_device_is_described_and_the_description_is_a_target(pi, tmp_path):
    path = tmp_path / "pi.toml"
    result = run("detect", "--device", "My Pi", "-o", str(path))
    assert result.exit_code == 0, result.output
    assert str(path) in result.stdout.replace("\n", "")
    target = find(str(path))
    assert (target.mcpu, target.architecture) == ("cortex-a72", "aarch64")
    assert target.features == find("raspberry-pi-4").features
    assert target == Identity("My Pi", {}, PI_4).target("host")


def test_without_a_file_the_description_is_printed(pi, tmp_path):
    printed = run("detect", "--device", "pi")
    assert printed.exit_code == 0
    path = tmp_path / "pi.toml"
    path.write_text(printed.stdout)
    assert find(str(path)).mcpu == "cortex-a72"


def test_for_programs_it_is_json(pi, tmp_path):
    told = json.loads(run("detect", "--device", "pi", "--json").stdout)
    assert (told["name"], told["file"]) == ("pi", None)
    path = tmp_path / "deep" / "pi.toml"
    path.parent.mkdir()
    told = json.loads(run("detect", "--device", "pi", "-o", str(path), "--json").stdout)
    assert told["file"] == str(path)
    assert path.read_text() == told["toml"]


def test_what_it_does_not_tell_is_told(pi):
    result = run("detect", "--device", "pi")
    assert "not told: " in result.stderr
    assert "not told: " not in result.stdout


def test_a_stock_server_cannot_be_described(monkeypatch, pi):
    monkeypatch.setattr(identity, "identify", lambda fleet: Identity("pi", {}, {}))
    result = run("detect", "--device", "pi")
    assert isinstance(result.exception, UserError)
    assert "stock TVM server" in str(result.exception)
    assert "codesign devices serve" in str(result.exception)


def test_a_real_server_tells_what_it_is(farm):
    found = look_at(Where(device=KEY, tracker=str(farm.tracker)))
    assert found.target("host").features == host().features
    assert found.target("host").architecture == host().architecture
    if host().architecture == "x86_64":
        words = ("detect", "--device", KEY, "--tracker", str(farm.tracker))
        assert "only 64-bit ARM devices are described" in str(run(*words).exception)
