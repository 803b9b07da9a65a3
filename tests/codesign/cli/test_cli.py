"""The command line itself: help, JSON, exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from codesign import cli
from codesign.cli import main
from codesign.cli.options import parse_dims
from codesign.errors import UserError
from codesign.listing import generic_targets
from codesign.loop.workshop import BuildError
from targets.catalog import catalog_targets

COMMANDS = "compile sweep bench run report records widths targets doctor".split()


def ended(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    told = capsys.readouterr()
    return int(caught.value.code or 0), told.out, told.err


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_that_names_the_command(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = ended([command, "--help"], capsys)
    assert code == 0
    text = " ".join(out.split())
    assert "Example" in text
    assert f"codesign {command}" in text
    assert "--json" in text


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ended(["--help"], capsys)
    for command in COMMANDS:
        assert command in out


def test_an_unknown_flag_is_the_users_error(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ended(["targets", "--jsom"], capsys)
    assert code == 2
    assert "--jsom" in err
    assert ended(["sweeep"], capsys)[0] == 2
    assert ended(["bench"], capsys)[0] == 2
    assert ended(["compile", "m.onnx", "--threads", "0"], capsys)[0] == 2


def test_targets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = ended(["targets", "--json"], capsys)
    assert (code, err) == (0, "")
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [*generic_targets(), *catalog_targets()]
    known = {row["name"]: row for row in rows}
    assert known["znver4"]["int8_dot_product"] is True
    assert (known["x86-64-v3"]["vector_bits"], known["x86-64-v3"]["block"]) == (256, 16)


def test_targets_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ended(["targets"], capsys)
    assert "znver4" in out
    assert "raspberry-pi-5" in out
    with pytest.raises(json.JSONDecodeError):
        json.loads(out)


def test_one_target_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ended(["targets", "pixel-8/gpu"], capsys)
    assert code == 0
    assert "Mali-G715" in out
    page = json.loads(ended(["targets", "graviton3", "--json"], capsys)[1])
    assert page["kernels"]["int8"] == "usdot"
    code, out, err = ended(["targets", "pixle-8"], capsys)
    assert (code, out) == (2, "")
    assert "try --target pixel-8" in " ".join(err.split())


def test_dimensions_are_read() -> None:
    assert parse_dims(None) == {}
    assert parse_dims(["batch=1", "x.1=128"]) == {"batch": 1, "x.1": 128}
    for wrong in ("batch", "=3", "batch=", "batch=-1", "batch=1.5", "batch=0"):
        with pytest.raises(UserError, match="dimension could not be read") as raised:
            parse_dims([wrong])
        assert wrong in raised.value.got


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("wrong", got="a [bold]", allowed="b", next="do c"), 2, "got: a [bold]"),
        (BuildError("the model could not be built", got="clang"), 1, "could not be built"),
        (KeyboardInterrupt(), 130, "the same command goes on from here"),
        (ZeroDivisionError("x"), 1, "please report it"),
    ],
)
def test_errors_become_exit_codes(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail(args: object) -> None:
        raise error

    monkeypatch.setattr(cli, "app", fail)
    found, out, err = ended([], capsys)
    assert (found, out) == (code, "")
    assert words in " ".join(err.split())
    assert ("Traceback" in err) == (
        not isinstance(error, UserError | BuildError | KeyboardInterrupt)
    )


def test_ctrl_c_behind_a_call_of_the_compiler_is_no_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """TVM turns a KeyboardInterrupt in a callback into a RuntimeError."""

    def app(args: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(cli, "app", app)
    code, _, err = ended([], capsys)
    assert code == 130
    assert "Traceback" not in err
    assert signal.getsignal(signal.SIGINT) is before


def test_help_does_not_import_the_compiler() -> None:
    """So that it comes at once."""
    program = (
        "import sys\nfrom codesign.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'tvm' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_ctrl_c_says_that_the_command_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("codesign.doctor.examine", interrupted)
    code, _, said = ended(["doctor"], capsys)
    assert code == 130
    assert "the same command goes on from here" in said
