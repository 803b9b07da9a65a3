"""The manifest of a bundle: what it promises, and whether files and machine keep it. No TVM."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.errors import UserError
from codesign.versions import TVM, versions
from targets.cpu import this_processor

SCHEMA = 2
READABLE = (1, 2)
"""Schemas that this version reads: 1 had no coded weights."""

MANIFEST = "manifest.json"
LIBRARY = "lib.so"
WEIGHTS = "weights.safetensors"
FILES = frozenset({LIBRARY, WEIGHTS})


class BundleError(UserError):
    """A folder that is no bundle, is damaged, or was made for another machine."""


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of the bundle at ``path``, its own hash and file names checked.

    Raises:
        BundleError: there is none, it is damaged, or of another schema.
    """
    file = path / MANIFEST
    try:
        if file.is_symlink():
            raise BundleError("the manifest is a link", got=str(file), allowed="a plain file")
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            "this is not a bundle",
            got=f"{file}: {error.strerror or error}",
            allowed="a folder written by 'codesign compile' or 'codesign sweep'",
            next=_inside(path),
        ) from error
    except ValueError as error:
        raise _damaged(path, MANIFEST, str(error)) from error
    if not isinstance(manifest, dict) or "schema" not in manifest:
        raise BundleError("this is not a bundle", got=f"{file} has no schema version")
    if manifest["schema"] not in READABLE:
        raise BundleError(
            "the bundle has another format",
            got=f"schema {manifest['schema']}",
            allowed=f"schema {' or '.join(map(str, READABLE))}",
            next="compile the model again with this version",
        )
    if manifest.get("sha256") != manifest_hash(manifest):
        raise _damaged(path, MANIFEST, "its content does not fit its hash")
    if set(manifest["files"]) != FILES:
        raise BundleError(
            "the manifest names wrong files",
            got=", ".join(map(repr, sorted(manifest["files"]))),
            allowed=", ".join(sorted(FILES)),
        )
    return manifest


def _inside(path: Path) -> str:
    """What to do about a folder that is no bundle; one of several targets or of a sweep has some inside."""
    found = sorted(f.parent for f in path.glob(f"*/{MANIFEST}"))
    found = found or sorted(f.parent for f in path.glob(f"bundles/*/{MANIFEST}"))
    names = ", ".join(str(f) for f in found[:4]) + (", ..." if len(found) > 4 else "")
    return f"it holds bundles; name one: {names}" if found else "codesign compile MODEL -o FOLDER"


def check_file(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Raise BundleError unless a file of the bundle has the size and hash that ``entry`` gives."""
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise BundleError(
            f"{name} of the bundle is missing or no plain file",
            got=str(file),
            allowed="a plain file inside the bundle",
            next="copy the bundle again or compile it anew",
        )
    try:
        found = file_json(file)
    except OSError as error:
        raise BundleError(f"{name} of the bundle cannot be read", got=f"{file}: {error}") from error
    if found != {"sha256": entry["sha256"], "bytes": entry["bytes"]}:
        told = f"sha256 {found['sha256'][:12]}, the manifest says {entry['sha256'][:12]}"
        raise _damaged(path, name, told)


def _damaged(path: Path, name: str, why: str) -> BundleError:
    return BundleError(
        f"the bundle is damaged: {name} was changed after it was written",
        got=f"{path}: {why}",
        allowed="the bytes that were written",
        next="copy the bundle again or compile it anew",
    )


TILES_REFUSED = (
    "; where the CPU has AMX, Linux 5.16 or later must lend its tiles (a sandbox may refuse)"
)


def check_machine(target: Mapping[str, Any]) -> None:
    """Raise BundleError if this machine lacks a feature of the target, or refuses this process one."""
    cpu = this_processor()
    missing = set(target["features"]) - cpu.features
    if target["kind"] != "llvm":
        raise BundleError(
            "this bundle is for a GPU", got=f"{target['kind']} code for {target['name']}",
            allowed="code for processors", next="run it on its device: codesign bench --device KEY",
        )  # fmt: skip
    if target["machine"] == platform.machine() and not missing:
        return
    lacks = f" without {', '.join(sorted(missing))}" if missing else ""
    raise BundleError(
        "this bundle is for another CPU",
        got=f"{platform.machine()}, {cpu.model}{lacks}",
        allowed=f"{target['machine']} with all features of {target['name']}",
        next="measure it on its device: codesign bench BUNDLE --device KEY; or compile the model for this "
        "machine: codesign compile MODEL --target host"
        + (TILES_REFUSED if "amx-tile" in missing else ""),
    )


def check_versions(made: Mapping[str, str]) -> None:
    """Raise BundleError if another TVM than the installed one made the bundle."""
    here = versions()["tvm"]
    if made.get("tvm") != here:
        raise BundleError(
            "this bundle was made with another TVM",
            got=f"bundle {made.get('tvm')}, installed {here}",
            allowed=f"apache-tvm {here}",
            next=f"compile the model again, or pip install apache-tvm=={made.get('tvm', TVM)}",
        )


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of the manifest without its own hash."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def file_json(file: Path) -> dict[str, Any]:
    """Hash and size of a file."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": file.stat().st_size}
