"""Writing result files: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from codesign.errors import UserError


def write_text(path: str | Path, text: str) -> Path:
    """Write a UTF-8 file through a temporary neighbour, so that a kill leaves the old one.

    Raises:
        UserError: the folder cannot be made, is read-only, or the disk is full.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        raise UserError(
            f"cannot write {path.name}",
            got=f"{path}: {error.strerror or error}",
            allowed="a folder that can be written, on a disk with free space",
            next="choose another output folder",
        ) from error
    return path


def read_text(path: str | Path, what: str) -> str:
    """The text of a UTF-8 file; ``what`` names its content in the error.

    Raises:
        UserError: no such file, or not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"cannot read {what}", got=f"{path}: {error.strerror or error}", allowed="a file"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not text", got=str(path), allowed="UTF-8 text") from error


def writable_folder(path: str | Path) -> Path:
    """The folder, made if need be, after a trial file was written into it.

    Raises:
        UserError: it cannot be made or written.
    """
    folder = Path(path)
    probe = write_text(folder / ".writable", "")
    probe.unlink(missing_ok=True)
    return folder
