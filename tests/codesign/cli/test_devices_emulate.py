"""``codesign devices emulate`` without an emulator: what it refuses and what it prints."""

from __future__ import annotations

import json

import pytest

from codesign.cli import devices_emulate as command
from codesign.cli.devices_emulate import emulate
from codesign.devices.emulator import EmulatedRoot
from codesign.errors import UserError


@pytest.fixture
def made(tmp_path, monkeypatch):
    root = EmulatedRoot(tmp_path / "arm", "3.11", (), (), 7)
    monkeypatch.setattr(command, "make_root", lambda say: say("making") or root)
    return root


def test_another_architecture_is_refused(made):
    with pytest.raises(UserError, match="not emulated") as caught:
        emulate("riscv64")
    assert caught.value.allowed == "arm64"


def test_preparing_starts_nothing_and_says_where_it_is(made, capsys):
    emulate("arm64", prepare_only=True)
    said = capsys.readouterr()
    assert said.out == f"ready: {made.folder}\n"
    assert "making" in said.err


def test_a_program_reads_json(made, capsys):
    emulate("aarch64", prepare_only=True, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert found == {"root": str(made.folder), "python": "3.11", "bytes": 7}


def test_devices_that_end_by_themselves_end_the_command(capsys):
    class Ended:
        name = "emulated-1"

        class process:  # noqa: N801
            poll = staticmethod(lambda: 9)

        last_words = staticmethod(lambda: "no memory")

    command._watch((Ended(),))
    assert "emulated-1 ended with status 9" in capsys.readouterr().err
