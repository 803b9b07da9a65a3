"""Environments of the peers: pins, stamps, variables."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import environments
from benchmarks.peers.environments import (
    CONVERTERS,
    REFERENCE,
    RUNTIMES,
    Environment,
    EnvironmentFailedError,
    make,
    variables,
)

EVERY = {e.name: e for e in (*RUNTIMES.values(), *CONVERTERS.values(), REFERENCE)}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(environments, "HOME", tmp_path / "peers")
    return tmp_path / "peers"


@pytest.mark.parametrize("environment", EVERY.values(), ids=EVERY.keys())
def test_everything_is_pinned(environment: Environment) -> None:
    for package in (*environment.packages, *environment.bare):
        assert package.count("==") == 1


@pytest.mark.parametrize("name", ["litert-torch", "executorch", "pnnx", "onnxscript"])
def test_what_drags_torch_in_says_which(name: str) -> None:
    users = [e for e in EVERY.values() if any(p.startswith(f"{name}==") for p in e.packages)]
    assert users
    assert all(environments.TORCH in e.packages for e in users)


def test_ready_only_with_the_same_pins(home: Path) -> None:
    environment = Environment("x", ("a==1",), ("b==2",))
    assert not environment.ready
    (home / "x").mkdir(parents=True)
    (home / "x" / "pins.txt").write_text(environment.pins)
    assert environment.ready
    assert not Environment("x", ("a==2",), ("b==2",)).ready
    assert not Environment("x", ("a==1", "b==2")).ready


def test_a_failed_installation_is_not_ready_and_names_the_log(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Environment("x", ("no-such-package-is-asked-for==0",))
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(EnvironmentFailedError, match=r"x\.log"):
        make(environment)
    assert not environment.ready


def test_a_ready_environment_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = Environment("x", ("a==1",))
    (home / "x").mkdir(parents=True)
    (home / "x" / "pins.txt").write_text(environment.pins)
    monkeypatch.setattr("subprocess.run", pytest.fail)
    make(environment)


def test_a_peer_that_starts_pip_finds_its_own_and_no_index(home: Path) -> None:
    values = variables(Environment("x", ()))
    assert values["PATH"].split(":")[0] == str(home / "x" / "bin")
    assert values["PIP_NO_INDEX"] == "1"
    assert values["CI"] == "true"
    assert values["NNCF_CI"] == "1"
