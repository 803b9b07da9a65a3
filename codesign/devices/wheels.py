"""Python packages for another machine: fetched by pip, unpacked without running anything of them."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from codesign.devices.debian import UnreachableError, dying_with_us
from codesign.errors import UserError

_SECONDS = 1800
_OLDEST_GLIBC = 17  # the first whose wheels are marked by its version: PEP 600
_LIBRARIES = ("purelib", "platlib")


def platforms(machine: str, glibc: tuple[int, ...]) -> list[str]:
    """Platform tags of the wheels that a system with this C library runs, the newest first (PEP 600).

    Args:
        machine: as in ``uname -m``.
        glibc: its version, such as (2, 36).
    """
    newest = [f"manylinux_2_{minor}_{machine}" for minor in range(glibc[1], _OLDEST_GLIBC - 1, -1)]
    return [*newest, f"manylinux2014_{machine}"]


def pip() -> list[str] | None:
    """The command of a pip, first the one of this Python; None if there is none."""
    own = [sys.executable, "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True).returncode == 0:
        return own
    path = shutil.which("pip3") or shutil.which("pip")
    return [path] if path else None


def fetch(
    requirements: Sequence[str], folder: Path, python: tuple[int, ...], platforms: Sequence[str]
) -> list[Path]:
    """Wheels of the requirements and all that they need; pip's own configuration decides from where.

    Args:
        folder: gets the wheels; what was in it is deleted.
        python: version of the Python that shall import them, such as (3, 11).
        platforms: their platform tags.

    Raises:
        UnreachableError: no such wheels, or no way to them.
        UserError: no pip.
    """
    command = pip()
    if command is None:
        raise UserError("there is no pip", next="python -m ensurepip, or apt install python3-pip")
    shutil.rmtree(folder, ignore_errors=True)  # pip keeps what it has fetched in a cache of its own
    folder.mkdir(parents=True)
    options = ["--only-binary=:all:", "--implementation", "cp", "--dest", str(folder)]
    options += ["--python-version", ".".join(map(str, python[:2])), "--quiet"]
    options += [f"--platform={platform}" for platform in platforms]
    try:
        done = subprocess.run(
            dying_with_us([*command, "download", *options, *requirements]),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError("pip failed", got=str(error)) from error
    if done.returncode:
        raise UnreachableError(
            f"wheels for {platforms[0]} were not downloaded",
            got=done.stderr.strip()[-2000:],
            allowed="an index that has " + ", ".join(requirements),
            next="the same command again when pip reaches its index (see `pip config list`)",
        )
    return sorted(folder.glob("*.whl"))


def unpack(wheel: Path, site: Path, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack a wheel into a folder for packages.

    Args:
        wanted: whether a file, by its name in the wheel, is unpacked.

    Raises:
        UserError: it is no wheel, or a name in it leads out of the folder; nothing of it is unpacked then.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            places = [(entry, destination(entry)) for entry in entries]
            for entry, place in places:
                if place is None or not wanted(entry.filename):
                    continue
                file = site / place
                file.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(entry) as source, file.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{wheel.name} cannot be unpacked", got=str(error)) from error


def destination(entry: zipfile.ZipInfo) -> PurePosixPath | None:
    """Where a file of a wheel goes below the folder for packages; None: to none (scripts, headers).

    What a wheel keeps in ``NAME.data`` is spread as the binary distribution format says (PEP 427).

    Raises:
        ValueError: the name leads out of the folder, or the entry is no plain file.
    """
    path = PurePosixPath(entry.filename)
    if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or not path.parts:
        raise ValueError(f"the name {entry.filename!r} leads out of the folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ValueError(f"{entry.filename!r} is no plain file")
    if not path.parts[0].endswith(".data"):
        return path
    inner = path.parts[2:]
    return PurePosixPath(*inner) if inner and path.parts[1] in _LIBRARIES else None
