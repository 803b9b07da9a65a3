"""The versions this project is made for. No TVM here: a wrong one crashes when imported."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from codesign.errors import UserError

TVM = "0.27.0.post1"
TVM_FFI = "0.1.14.post1"
PINNED = {"apache-tvm": TVM, "apache-tvm-ffi": TVM_FFI}
"""Package -> the one version that works. Other versions of tvm-ffi crash without a message."""

INSTALL = "pip install " + " ".join(f"{name}=={version}" for name, version in PINNED.items())


def installed(package: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def wrong() -> dict[str, str | None]:
    """Pinned packages with another version than the pinned one (None: not installed)."""
    found = {package: installed(package) for package in PINNED}
    return {package: version for package, version in found.items() if version != PINNED[package]}


def require() -> None:
    """Raise UserError, naming what to install, if TVM would not load or would crash."""
    if not (bad := wrong()):
        return
    raise UserError(
        "this version of TVM does not work with codesign",
        got=", ".join(f"{package} {version or 'missing'}" for package, version in bad.items()),
        allowed=", ".join(f"{package} {PINNED[package]}" for package in bad),
        next=INSTALL,
    )


@cache
def generator() -> str:
    """Digest of the sources that decide which code is made for a model: `passes` and `targets`.

    So what was measured with other kernels or other schedules is not taken for a measurement of
    these, in a checkout whose version stays the same.
    """
    digest = hashlib.sha256()
    for package in ("passes", "targets"):
        spec = find_spec(package)
        for folder in spec.submodule_search_locations or () if spec else ():
            for file in sorted(Path(folder).rglob("*.py")):
                digest.update(f"{package}/{file.relative_to(folder)}\0".encode())
                digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def versions() -> dict[str, str]:
    """What decides the code that is made, as it is written into records and bundles."""
    return {
        "codesign": installed("codesign") or "unknown",
        "generator": generator(),
        "tvm": installed("apache-tvm") or "missing",
        "tvm_ffi": installed("apache-tvm-ffi") or "missing",
    }
