"""``codesign records``: what was measured, and records between files, devices and people.

``codesign records RUN`` is short for ``codesign records show RUN``; a folder called like a command is given as
``./export``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from codesign.cli.console import emit, out
from codesign.cli.groups import group_with
from codesign.cli.options import JsonFlag

app = typer.Typer(
    cls=group_with("show"),
    no_args_is_help=True,
    epilog="Examples: codesign records runs/demo --json | "
    "codesign records export runs/demo demo.jsonl.gz | "
    "codesign records import demo.jsonl.gz runs/second",
    help="Count what was measured; write records for others and take theirs.",
)

TargetOption = Annotated[
    str | None, typer.Option("--target", "-t", help="Only of this target, whatever its threads.")
]


@app.command(epilog="Example: codesign records show runs/demo --json")
def show(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep.")], as_json: JsonFlag = False
) -> None:
    """Count what a run made and took from earlier runs, and what there is of each device."""
    from codesign.history import counts_table, devices_table, run_counts

    counts = run_counts(run)
    if as_json:
        emit(counts)
    else:
        out.print(counts_table(counts))
        out.print(devices_table(counts))


@app.command(epilog="Example: codesign records export runs/demo phones.jsonl.gz --target aarch64")
def export(
    source: Annotated[Path, typer.Argument(help="A records file or the folder of a sweep.")],
    file: Annotated[Path, typer.Argument(help="The new file; gzipped if it ends with .gz.")],
    target: TargetOption = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Only of this device, by name or serial.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write records as lines of JSON, which another machine or person can import."""
    from codesign.records.exporting import export_records

    done = export_records(source, file, _wanted(target, device))
    if as_json:
        emit({"file": str(file), "rows": dict(done.rows), "nameless": done.nameless})
        return
    out.print(f"{_rows(done.rows)} written to {file}", markup=False)
    if done.nameless:
        out.print(
            f"{done.nameless} trials left out: their kernels are not known until a run goes on"
        )


@app.command(
    "import", epilog="Example: codesign records import phones.jsonl.gz runs/demo --dry-run"
)
def import_(
    file: Annotated[Path, typer.Argument(help="From `codesign records export`.")],
    into: Annotated[
        Path, typer.Argument(help="A records file, or a sweep's folder, there or to come.")
    ],
    for_target: Annotated[
        str | None, typer.Option(help="Refuse the file if it has records of another target.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do.")] = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave damaged lines out, else nothing is taken.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add the records of a file to those here; what is there already is not added again."""
    from codesign.records.exporting import records_file
    from codesign.records.importing import import_records

    there = records_file(into, new=True)
    done = import_records(
        file,
        into,
        accepts=_wanted(for_target, None, others=True),
        dry_run=dry_run,
        skip_damaged=skip_damaged,
    )
    if as_json:
        emit({"into": str(there), "dry_run": dry_run, **done.as_dict()})
        return
    would = "would be " if dry_run else ""
    added, known = _rows(done.added), _rows(done.known)
    out.print(
        f"{added} {would}added to {there}, {known} known already", markup=False, soft_wrap=True
    )
    for damage in done.damaged:
        out.print(f"left out: line {damage.line}: {damage.reason}", markup=False)


@app.command(epilog="Example: codesign records merge runs/demo phone.jsonl.gz -o all.sqlite")
def merge(
    sources: Annotated[list[Path], typer.Argument(help="Records files, sweeps, exported files.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New file: .sqlite, or lines of JSON.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Put the records of several files into a new one, each once."""
    from codesign.records.importing import merge_records

    done = merge_records(sources, output)
    if as_json:
        emit({"output": str(output), **done.as_dict()})
    else:
        out.print(f"{_rows(done.added)} in {output}, {_rows(done.known)} met again", markup=False)


@app.command(epilog="Example: codesign records transfer runs/demo --json")
def transfer(
    run: Annotated[Path, typer.Argument(help="A records file or the folder of a sweep.")],
    as_json: JsonFlag = False,
) -> None:
    """Say how many trials records of other devices saved where kernels were tuned."""
    from codesign.history import run_transfers, transfer_table
    from codesign.records.transfer import summary

    found = run_transfers(run)
    if as_json:
        emit({"summary": summary(found), "kernels": [t.as_dict() for t in found]})
        return
    if found:
        out.print(transfer_table(found))
    out.print(summary(found))


def _wanted(target: str | None, device: str | None, others: bool = False) -> Any:
    """Which rows are meant; ``others``: rows that have no target are too."""
    if target is None and device is None:
        return None
    from codesign.target_text import is_for
    from targets.target import find

    described = None if target is None else find(target)

    def wanted(row: Any) -> bool:
        if row.target is None:
            return others
        if described is not None and not is_for(row.target, described):
            return False
        return device is None or device in (row.values["device"], row.values["meta"].get("device"))

    return wanted


def _rows(counts: Any) -> str:
    words = [f"{n} {table if n != 1 else _ONE[table]}" for table, n in counts.items() if n]
    return ", ".join(words) or "nothing"


_ONE = {
    "measurements": "measurement",
    "trials": "trial",
    "evaluations": "evaluation",
    "sensitivities": "sensitivity",
}
