"""One model compiled for many targets: a folder with a bundle for each, and one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from codesign.compile import Compiled, Formats, compile_prepared, import_model
from codesign.errors import UserError
from codesign.progress import ProgressReporter, Silent
from codesign.station import open_station
from codesign.where import Where
from targets.errors import CodesignError
from targets.target import Target, find


@dataclass(frozen=True)
class Attempt:
    """What came of one target.

    Attributes:
        name: of the target, as the user gave it.
        compiled: the bundle; None if it could not be made.
        error: why not; "" if it was.
    """

    name: str
    target: Target | None
    compiled: Compiled | None
    error: str = ""


@dataclass(frozen=True)
class CompiledSet:
    """A model for several targets."""

    folder: Path
    attempts: tuple[Attempt, ...]

    @property
    def ok(self) -> bool:
        """Whether there is a bundle for every target."""
        return all(a.compiled is not None for a in self.attempts)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "folder": str(self.folder),
            "targets": [
                {"name": a.name, "error": a.error or None}
                | (a.compiled.as_dict() if a.compiled is not None else {})
                for a in self.attempts
            ],
        }

    def table(self) -> Table:
        """For people."""
        table = Table(title=f"{self.folder}: {len(self.attempts)} targets")
        for heading in ("target", "code", "library", "weights", "kernels", "latency", "bundle"):
            table.add_column(heading, overflow="fold")
        for a in self.attempts:
            if a.compiled is None or a.target is None:
                table.add_row(a.name, "", "", "", "", f"[red]{a.error}", "")
                continue
            bundle = a.compiled.bundle
            files = bundle.manifest["files"]
            table.add_row(
                a.name, code_of(a.target),
                f"{files['lib.so']['bytes'] / 1e3:.0f} kB",
                f"{files['weights.safetensors']['bytes'] / 1e6:.2f} MB",
                str(sum(bundle.manifest["extra"]["kernels"].values())),
                a.compiled.latency_text, bundle.path.name,
            )  # fmt: skip
        return table


def code_of(target: Target) -> str:
    """What a library of the target consists of, in a few words."""
    if target.gpu is not None:
        return f"OpenCL for {target.gpu.name}, host {target.architecture}"
    return f"{target.architecture} {target.mcpu}".strip()


def compile_targets(
    model: Any,
    targets: Sequence[str],
    *,
    threads: int = 1,
    trials: int = 8,
    output: str | Path | None = None,
    formats: Formats | None = None,
    dims: Mapping[str, int] | None = None,
    progress: ProgressReporter | None = None,
) -> CompiledSet:
    """Compile a model for each of several targets; it is imported once.

    A target for which it fails costs none of the others. This machine's own target is tuned and measured,
    the others are compiled by the best schedules known without measuring.

    Args:
        targets: names of ``codesign targets``.
        output: folder of the bundles; default ``build/<model's name>``.
        formats: what all layers are put into.

    Raises:
        UserError: the model cannot be read, a target is unknown, or the folder cannot be written.
    """
    progress = progress or Silent()
    formats = formats or Formats()
    formats.require_one()
    known = {name: find(name, threads) for name in dict.fromkeys(targets)}
    prepared = import_model(model, dims, progress)
    folder = Path(output) if output is not None else Path("build") / prepared.model.name
    names = {name: folder_name(name) for name in known}
    if len(set(names.values())) < len(names):
        raise UserError("two targets would share a folder", got=", ".join(names))
    attempts = []
    for name, target in known.items():
        progress.say(f"compiling for {name}")
        try:
            with open_station(Where(name, threads), say=progress.say) as station:
                made = compile_prepared(
                    prepared, station, formats, trials, folder / names[name], progress
                )
            attempts.append(Attempt(name, target, made))
        except CodesignError as error:
            attempts.append(Attempt(name, target, None, str(error)))
    return CompiledSet(folder, tuple(attempts))


def folder_name(target: str) -> str:
    """A target's name as the name of a folder: a path of a description by its last part."""
    last = target.removesuffix(".toml").replace("\\", "/")
    if target.endswith(".toml"):
        last = last.rsplit("/", 1)[-1]
    return "".join(c if c.isalnum() or c in "-+." else "_" for c in last)
