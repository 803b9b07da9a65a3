"""Running a user's Python file: once, whatever asks for it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from codesign.errors import UserError


def run_file(path: Path) -> ModuleType:
    """The module that a Python file makes; run again only if the file has changed.

    This executes the user's own code with the rights of this process.

    Raises:
        UserError: the file cannot be read, or raises.
    """
    path = path.resolve()
    try:
        state = path.stat()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path} cannot be read", got=reason, allowed="a Python file") from error
    name = f"codesign_user_{path.stem}_{abs(hash((path, state.st_mtime_ns, state.st_size)))}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look it up
    folder = str(path.parent)
    sys.path.insert(0, folder)  # so that the file can import what lies beside it
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(
            f"{path} cannot be run", got=f"{type(error).__name__}: {error}", next=f"python {path}"
        ) from error
    finally:
        sys.path.remove(folder)
    return module
