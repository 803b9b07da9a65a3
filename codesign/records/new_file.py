"""Files that are written whole or not at all, and never over another."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, cast

from codesign.errors import UserError


@contextlib.contextmanager
def new_lines(file: Path) -> Iterator[Callable[[str], None]]:
    """Writes lines into a new file, whole or not at all; the same lines are the same bytes."""
    refuse_existing(file)
    with beside(file) as folder:
        part = folder / "part"
        with open(part, "wb") as raw:
            if file.suffix == ".gz":
                with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
                    yield _writer(cast(IO[bytes], packed))
            else:
                yield _writer(raw)
            raw.flush()
            os.fsync(raw.fileno())
        move(part, file)


def _writer(stream: IO[bytes]) -> Callable[[str], None]:
    def write(line: str) -> None:
        stream.write(line.encode() + b"\n")

    return write


@contextlib.contextmanager
def beside(file: Path) -> Iterator[Path]:
    """A folder of its own beside a file that is to be written."""
    folder = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=file.parent, prefix=f".{file.name}."))
        yield folder
    except OSError as error:
        raise UserError(
            f"cannot write {file.name}", got=f"{file}: {error.strerror or error}",
            allowed="a folder that can be written, on a disk with free space",
            next="choose another output",
        ) from error  # fmt: skip
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def move(part: Path, file: Path) -> None:
    """Under its name, unless another has taken it meanwhile; a link never overwrites."""
    os.chmod(part, 0o644)
    try:
        os.link(part, file)
    except FileExistsError:
        refuse_existing(file)
    except OSError:  # a disk without links
        refuse_existing(file)
        os.rename(part, file)


def refuse_existing(file: Path) -> None:
    if file.exists() or file.is_symlink():
        raise UserError(
            "the file is there already", got=str(file), allowed="a new name",
            next="choose another name, or move the old file away",
        )  # fmt: skip
