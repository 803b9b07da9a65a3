"""A compiled model as a folder: library, weights and a manifest that says what they are. No TVM."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import numpy as np
from numpy.typing import NDArray

from codesign.coded import decode, encode
from codesign.errors import UserError
from codesign.manifest import (
    FILES,
    LIBRARY,
    MANIFEST,
    SCHEMA,
    WEIGHTS,
    BundleError,
    check_file,
    check_machine,
    check_versions,
    file_json,
    manifest_hash,
    read_manifest,
)
from codesign.versions import versions
from targets.target import Target

__all__ = [
    "IO",
    "LIBRARY",
    "MANIFEST",
    "WEIGHTS",
    "Bundle",
    "BundleError",
    "Contents",
    "open_bundle",
    "write_bundle",
]


class Spec(Interface):
    """Name, static shape and dtype of an input or output (`passes.model.TensorSpec` is one)."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...


@dataclass(frozen=True)
class IO:
    """Name, shape and dtype of an input or output of a bundle."""

    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle beside library and weights.

    Attributes:
        name: of the model.
        inputs, outputs: in the order of the library's parameters and results.
        target: what the library was built for; its threads are those to run with.
        choices: what was done to the model: site, pass and setting of each choice.
        measurements: latency and how it was measured, as JSON.
        quality: name -> value.
        extra: anything else, as JSON.
    """

    name: str
    inputs: Sequence[Spec]
    outputs: Sequence[Spec]
    target: Target
    choices: Sequence[Mapping[str, Any]] = ()
    measurements: Mapping[str, Any] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """An opened and verified bundle."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def inputs(self) -> tuple[IO, ...]:
        return _specs(self.manifest["inputs"])

    @property
    def outputs(self) -> tuple[IO, ...]:
        return _specs(self.manifest["outputs"])

    @property
    def threads(self) -> int:
        return int(self.manifest["target"]["threads"])

    @property
    def library(self) -> Path:
        return self.path / LIBRARY

    @property
    def size_bytes(self) -> int:
        """Bytes of its files on disk: library, weights and manifest."""
        files = sum(int(f["bytes"]) for f in self.manifest["files"].values())
        return files + (self.path / MANIFEST).stat().st_size

    def weights(self) -> dict[str, NDArray[np.generic]]:
        """Weights in the order of the library's parameters. Raises BundleError."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            stored = load_file(self.path / WEIGHTS)
            coded = self.manifest.get("coded", {})
            return {
                name: decode(stored, name, coded[name]) if name in coded else stored[name]
                for name in self.manifest["weights"]
            }
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise BundleError("the weights cannot be read", got=f"{self.path}: {error}") from error


def write_bundle(
    path: str | Path,
    library: Path,
    weights: Mapping[str, NDArray[np.generic]],
    contents: Contents,
) -> Bundle:
    """Write a bundle, whole or not at all; one that is there already is replaced.

    Args:
        weights: in the order of the library's parameters after the inputs.

    Raises:
        UserError: the folder cannot be written or holds something else, or the disk is full.
    """
    path = Path(path)
    _check_replaceable(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        manifest = _fill(temporary, library, weights, contents)
        os.chmod(temporary, 0o755)  # mkdtemp makes it private
        _replace(path, temporary)
    except (OSError, _safetensor_error()) as error:
        raise UserError(
            "cannot write the bundle",
            got=f"{path}: {getattr(error, 'strerror', None) or error}",
            allowed="a folder that can be written, on a disk with enough free space",
            next="free some space or choose another output folder",
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return Bundle(path, manifest)


def open_bundle(path: str | Path, *, to_run: bool = True) -> Bundle:
    """Open a bundle and verify every byte of it.

    Args:
        to_run: also check that this machine and this TVM can run it.

    Raises:
        BundleError: not a bundle, damaged, made by a later version, or for another machine.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name, entry in manifest["files"].items():
        check_file(path, name, entry)
    if to_run:
        check_machine(manifest["target"])
        check_versions(manifest["versions"])
    return Bundle(path, manifest)


def _fill(
    folder: Path, library: Path, weights: Mapping[str, NDArray[np.generic]], contents: Contents
) -> dict[str, Any]:
    from safetensors.numpy import save_file

    shutil.copyfile(library, folder / LIBRARY)
    stored, coded = encode(weights)
    save_file(stored, folder / WEIGHTS)
    manifest: dict[str, Any] = {
        "schema": SCHEMA,
        "name": contents.name,
        "inputs": [_spec_json(s) for s in contents.inputs],
        "outputs": [_spec_json(s) for s in contents.outputs],
        "target": _target_json(contents.target),
        "weights": list(weights),
        "coded": coded,
        "choices": [dict(c) for c in contents.choices],
        "measurements": dict(contents.measurements),
        "quality": dict(contents.quality),
        "extra": dict(contents.extra),
        "versions": versions(),
        "files": {name: file_json(folder / name) for name in sorted(FILES)},
    }
    # The same types that a reader gets, so that both sides hash the same text.
    manifest = json.loads(json.dumps(manifest, default=_plain))
    manifest["sha256"] = manifest_hash(manifest)
    with open(folder / MANIFEST, "w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    return manifest


def _plain(value: object) -> Any:
    """JSON form of the mappings and NumPy scalars that callers hold."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")


def _check_replaceable(path: Path) -> None:
    try:
        if not path.exists() or (path.is_dir() and not any(path.iterdir())):
            return
        if (path / MANIFEST).is_file():
            return
    except OSError:
        return  # writing will fail with the better message
    raise UserError(
        "the output folder holds something that is no bundle",
        got=str(path),
        allowed="a folder that does not exist yet, is empty, or is a bundle to replace",
        next="choose another output folder",
    )


def _replace(path: Path, new: Path) -> None:
    if path.exists():
        old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
        os.rename(path, old / path.name)
        os.rename(new, path)
        shutil.rmtree(old, ignore_errors=True)
    else:
        os.rename(new, path)


def _target_json(target: Target) -> dict[str, Any]:
    return {
        "name": target.name,
        "kind": target.kind,
        "mcpu": target.mcpu,
        "machine": target.architecture,
        "triple": target.triple,
        "features": sorted(target.features),
        "threads": target.threads,
        "description": target.description,
    }


def _spec_json(spec: Spec) -> dict[str, Any]:
    return {"name": spec.name, "shape": [int(d) for d in spec.shape], "dtype": str(spec.dtype)}


def _specs(items: Iterable[Mapping[str, Any]]) -> tuple[IO, ...]:
    return tuple(IO(i["name"], tuple(i["shape"]), i["dtype"]) for i in items)


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError
