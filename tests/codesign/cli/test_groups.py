"""The word of a command group that may be left out."""

from __future__ import annotations

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from codesign.cli.groups import group_with


def made(alone=None):
    app = typer.Typer(cls=group_with("show", alone))

    @app.command("list")
    def list_(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        print(f"list {as_json}")

    @app.command()
    def show(name: str, as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
        print(f"show {name} {as_json}")

    return app


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "list False"),
        (["--json"], "list True"),
        (["list"], "list False"),
        (["list", "--json"], "list True"),
        (["pixel-8"], "show pixel-8 False"),
        (["pixel-8", "--json"], "show pixel-8 True"),
        (["--json", "pixel-8"], "show pixel-8 True"),
        (["show", "list"], "show list False"),
        (["show", "show"], "show show False"),
    ],
)
def test_what_the_words_stand_for(words, said):
    result = CliRunner().invoke(made("list"), words)
    assert result.exit_code == 0, result.output
    assert result.output.strip() == said


@pytest.mark.parametrize("alone", [None, "list"])
def test_help_is_the_help_of_the_group(alone):
    result = CliRunner().invoke(made(alone), ["--help"])
    assert result.exit_code == 0
    assert "Commands" in result.output
    assert "show" in result.output


def test_without_a_command_for_no_word_one_is_asked_for():
    result = CliRunner().invoke(made(), [])
    assert result.exit_code == 2
    assert "list" not in result.output.splitlines()[:1]


def test_two_unknown_words_are_an_error_of_the_user():
    result = CliRunner().invoke(made("list"), ["one", "two"])
    assert result.exit_code == 2
    assert "two" in result.output
