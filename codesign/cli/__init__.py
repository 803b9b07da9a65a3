"""The command line: every command prints for people, and with ``--json`` for programs.

One file for each command, with its options and what it does. TVM and torch are imported inside the commands,
so that ``--help`` and ``codesign report`` start at once.
"""

from __future__ import annotations

import typer

from codesign.cli import (
    bench,
    compile,
    devices,
    doctor,
    records,
    report,
    run,
    sweep,
    targets,
    widths,
)
from codesign.cli.exit_codes import exit_codes
from codesign.versions import require

app = typer.Typer(
    name="codesign",
    help="Finds the compressed versions of a trained model that are really fastest on a device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command("compile", epilog=compile.EXAMPLES)(compile.command)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.command)
app.command("bench", epilog=bench.EXAMPLES)(bench.command)
app.command("run", epilog=run.EXAMPLES)(run.command)
app.command("report", epilog=report.EXAMPLES)(report.command)
app.command("widths", epilog=widths.EXAMPLES)(widths.command)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.command)
app.add_typer(devices.app, name="devices")
app.add_typer(records.app, name="records")
app.add_typer(targets.app, name="targets")

NEEDS_NO_TVM = ("devices", "doctor", "report", "records")


@app.callback()
def _check(context: typer.Context) -> None:
    """Finds the compressed versions of a trained model that are really fastest on a device."""
    if context.invoked_subcommand not in NEEDS_NO_TVM:
        require()


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``codesign`` command: turns errors into exit codes."""
    with exit_codes():
        app(args=argv)
