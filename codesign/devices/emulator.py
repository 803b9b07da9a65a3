"""An ARM machine in a folder: Debian's arm64 Python, TVM for AArch64, and QEMU in front of it.

It stands for a phone or a board wherever function is at stake: what is built for the target loads and
computes there, devices come and go, sessions crash. Its times say nothing of any ARM processor.

QEMU runs one program at a time and hands its system calls to this kernel, so there is no kernel, no root
right, no chroot and no registration of foreign binaries. What that asks of the folder:

- This kernel cannot start an AArch64 program, so a Python that starts itself anew (``multiprocessing`` with
  "spawn", ``subprocess`` with ``sys.executable``) would end with status 255 and no word. Therefore the guest's
  ``sys.executable`` is a script that puts QEMU in front again. ``fork`` works, from any thread.
- Paths are looked up in the folder first and then on this machine, so the folder holds no ``/tmp``, ``/home``
  or ``/proc``, and the guest meets this machine's ``/proc/cpuinfo`` (QEMU 7): a program that asks what its
  processor can do has to ask the auxiliary vector.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from codesign.devices import debian, wheels
from codesign.devices.user_cache import user_cache
from codesign.errors import UserError
from codesign.versions import PINNED

ARCHITECTURE, MACHINE = "arm64", "aarch64"
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
PACKAGES = ("python3", "libstdc++6", "zlib1g")
"""Debian packages, with all that they depend on."""
WHEELS = (*(f"{name}=={version}" for name, version in PINNED.items()), "numpy", "psutil")
"""Python packages, with all that they depend on."""
LEFT_OUT = ("tvm/lib/libtvm_compiler.so",)
"""240 MB that a device does not need: it runs what was compiled elsewhere. TVM does without by itself."""
KEY = "emulated-arm64"
"""Under which emulated devices are asked for, if nothing else is said."""
PROCESSOR = "max,pauth-impdef=on"
"""QEMU's name of a processor that has every feature it knows; `cortex-a76` has dot products, not i8mm.

It signs pointers by QEMU's own method: the architecture's costs so much that what Debian 13 compiled, which signs
all return addresses, ran five times slower.
"""
THREADS = 8
"""As many as a phone has cores: TVM's pool starts with what this machine has, and a session may set more."""

_FORMAT = 1  # of the folder: counts up when what is in it changes
_STAMP = "emulated.json"
_PYTHON = Path("usr", "bin", "python-emulated")
_SITE = Path("usr", "lib", "python3", "dist-packages")
_NEEDLESS = r"/(test|idlelib|lib2to3|turtledemo|tests|testing)/"
_SECONDS = 600
_OURS = ("codesign", "passes", "targets")
_HOSTS_OWN = (
    *("PYTHONHOME", "PYTHONSTARTUP", "PYTHONPLATLIBDIR", "VIRTUAL_ENV", "TVM_LIBRARY_PATH"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "QEMU_STRACE", "QEMU_LOG"),
)
"""Variables that are meant for this machine's programs and would break the guest's."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class EmulatedRoot:
    """A complete folder.

    Attributes:
        folder: where it is.
        python: version of its Python, such as ``3.11``.
        packages: Debian packages in it, name and version.
        wheels: file names of the wheels in it.
        bytes: size of all files.
    """

    folder: Path
    python: str
    packages: tuple[tuple[str, str], ...]
    wheels: tuple[str, ...]
    bytes: int

    @property
    def executable(self) -> Path:
        """A program of this machine that is the guest's Python, with none of `environment`."""
        return self.folder / _PYTHON

    def environment(self, processor: str = PROCESSOR, threads: int = THREADS) -> dict[str, str]:
        """Variables that the guest's Python needs to find this package and to be quick.

        Args:
            processor: QEMU's name of what is emulated.
            threads: most threads that TVM's pool can be set to.
        """
        return {
            "PYTHONPATH": str(_sources(self.folder.parent)),
            "PYTHONNOUSERSITE": "1",  # what is there is made for this machine
            "PYTHONSAFEPATH": "1",  # nor is what lies in the folder that it is called in
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
            "QEMU_CPU": processor,
            "TVM_USE_RUNTIME_LIB": "1",
            "TVM_NUM_THREADS": str(threads),
            "TVM_BIND_THREADS": "0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "CODESIGN_EMULATED": "1",
        }

    def command(
        self, args: Sequence[str], *, processor: str = PROCESSOR, threads: int = THREADS
    ) -> list[str]:
        """The command line that runs the guest's Python with ``args``, whatever environment it is called in."""
        unset = [word for name in _HOSTS_OWN for word in ("-u", name)]
        given = [f"{name}={value}" for name, value in self.environment(processor, threads).items()]
        return ["env", *unset, *given, str(self.executable), *args]


def default_folder() -> Path:
    """Where the folder of these pins is kept: in the user's cache, and another for other pins."""
    return (user_cache() / "emulated" / f"{ARCHITECTURE}-{_pins()[:12]}").absolute()


def emulator() -> str | None:
    """The name of this machine's emulator of AArch64, or None."""
    return next((name for name in EMULATORS if shutil.which(name)), None)


def lacking(folder: Path | None = None) -> str | None:
    """What this machine lacks to make (if need be) and run the device, with the command that mends it.

    None if nothing is lacking.

    Whether it reaches apt's sources and pip's index shows only in making the folder.
    """
    absent = [] if emulator() else [EMULATORS[0]]
    if find(folder or default_folder()) is None:
        absent += debian.lacking()
        if not _has_pip():
            return "no pip: python -m ensurepip"
    if not absent:
        return None
    return f"no {' and no '.join(absent)}: sudo apt install qemu-user-static apt dpkg"


def find(folder: Path) -> EmulatedRoot | None:
    """The device that was made in a folder for today's pins; None if there is none."""
    try:
        stamp = json.loads((folder / _STAMP).read_text(encoding="utf-8"))
        if stamp.pop("pins") != _pins():
            return None
        packages = tuple((name, version) for name, version in stamp.pop("packages"))
        return EmulatedRoot(folder, packages=packages, wheels=tuple(stamp.pop("wheels")), **stamp)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def make_root(folder: Path | None = None, say: Say = lambda line: None) -> EmulatedRoot:
    """The device's folder, made if it is not there; it is whole or not there at all.

    Who comes while another process makes it waits for that one. What an interrupted call has downloaded is
    not downloaded again.

    Args:
        folder: where; by default `default_folder`. One that holds anything else is left alone.
        say: told what is going on, line by line.

    Raises:
        UserError: the machine lacks something, or a download failed.
    """
    folder = (folder or default_folder()).absolute()
    if (found := find(folder)) is not None and emulator() is not None:
        return found
    if (absent := lacking(folder)) is not None:
        raise UserError("an ARM device cannot be emulated", got=absent)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_name(f"{folder.name}.lock"), say):
            return find(folder) or _make(folder, say)
    except OSError as error:
        raise UserError(
            "the emulated device was not made",
            got=f"{error.filename or folder}: {error.strerror or error}",
            allowed="a folder that can be written, with 500 MB of free space",
        ) from error


def _make(folder: Path, say: Say) -> EmulatedRoot:
    """Make what `find` does not find; nobody else is at it."""
    if folder.exists() and any(folder.iterdir()):
        raise UserError(
            "the folder of the emulated device holds something else",
            got=str(folder),
            allowed="one that is empty or not there",
            next=f"rm -r {shlex.quote(str(folder))}, or name another",
        )
    start = time.monotonic()
    making, downloads = (
        folder.with_name(f"{folder.name}.{what}") for what in ("half", "downloads")
    )
    shutil.rmtree(making, ignore_errors=True)
    packages = _userland(making, downloads / "apt", say)
    python = debian.upstream_version(packages, "python3")[:2]
    tags = wheels.platforms(MACHINE, debian.upstream_version(packages, "libc6"))
    say(f"downloading {', '.join(WHEELS)} for Python {python[0]}.{python[1]} on {MACHINE}")
    files = wheels.fetch(WHEELS, downloads / "wheels", python, tags)
    say(f"unpacking {len(files)} wheels, {_megabytes(sum(f.stat().st_size for f in files))}")
    for file in files:
        wheels.unpack(file, making / _SITE, lambda name: name not in LEFT_OUT)
    version = f"{python[0]}.{python[1]}"
    _write_executable(making, folder, version)
    say("compiling its Python files")
    _compile(making, folder, version)
    size = sum(f.lstat().st_size for f in making.rglob("*") if not f.is_dir())
    names = tuple((p.name, p.version) for p in packages)
    root = EmulatedRoot(folder, version, names, tuple(f.name for f in files), size)
    stamp = {k: v for k, v in asdict(root).items() if k != "folder"} | {"pins": _pins()}
    (making / _STAMP).write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    making.rename(folder)
    shutil.rmtree(downloads, ignore_errors=True)
    say(f"made {folder}: {_megabytes(size)} in {time.monotonic() - start:.0f} s")
    return root


def _userland(making: Path, downloads: Path, say: Say) -> list[debian.Package]:
    """Debian's packages, unpacked into ``making``."""
    apt = debian.Apt(downloads, ARCHITECTURE)
    say(f"reading apt's lists of packages for {ARCHITECTURE}")
    apt.update()
    packages = apt.resolve(PACKAGES)
    say(f"downloading {len(packages)} packages, {_megabytes(sum(p.size for p in packages))}")
    files = apt.fetch(packages)
    say(f"unpacking {len(files)} packages")
    debian.unpack(files, making)
    return packages


def _write_executable(making: Path, folder: Path, version: str) -> None:
    """The script that is the guest's ``sys.executable``; the variables of the caller reach the guest.

    The name under which it is called is the guest's ``argv[0]``, from which Python finds its library.
    """
    guest = folder / "usr" / "bin" / f"python{version}"
    words = [f"{emulator()}", "-L", str(folder), "-0", '"$0"', str(guest), '"$@"']
    quoted = [word if word.startswith('"') else shlex.quote(word) for word in words]
    script = making / _PYTHON
    script.write_text(
        f'#!/bin/sh\nexport QEMU_CPU="${{QEMU_CPU:-{PROCESSOR}}}"\nexec {" ".join(quoted)}\n',
        encoding="utf-8",
    )
    script.chmod(0o755)


def _compile(making: Path, folder: Path, version: str) -> None:
    """Byte code for all of its Python: without it, an import of TVM takes twice as long.

    This machine's Python does it if it is of the same version, else the guest's own does, ten times slower.
    """
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        python = [sys.executable]
    else:
        guest = making / "usr" / "bin" / f"python{version}"
        python = [str(emulator()), "-cpu", PROCESSOR, "-L", str(making), str(guest)]
    options = ["-q", "-j1", "--invalidation-mode", "unchecked-hash", "-x", _NEEDLESS]
    options += ["-s", str(making), "-p", str(folder)]
    places = [str(making / "usr" / "lib" / f"python{version}"), str(making / _SITE)]
    # A file that does not compile is no one's loss: packages bring some for other versions of Python.
    subprocess.run(
        debian.dying_with_us([*python, "-I", "-m", "compileall", *options, *places]),
        capture_output=True,
        timeout=_SECONDS,
    )


@contextlib.contextmanager
def _alone(lock: Path, say: Say) -> Iterator[None]:
    """Hold a lock file; it is free when this process ends, however it ends."""
    with lock.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for the process that makes {lock.with_suffix('')}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _sources(folder: Path) -> Path:
    """A folder with this project's packages as links and nothing else.

    The folder that they are installed in may hold this machine's NumPy and TVM too.
    """
    places = {}
    for name in _OURS:
        spec = find_spec(name)
        assert spec is not None
        places[name] = Path(next(iter(spec.submodule_search_locations or ()))).resolve()
    digest = hashlib.sha256("\0".join(map(str, places.values())).encode()).hexdigest()[:12]
    links = folder / f"sources-{digest}"
    links.mkdir(parents=True, exist_ok=True)
    for name, place in places.items():
        with contextlib.suppress(FileExistsError):
            (links / name).symlink_to(place)
    return links


@cache
def _has_pip() -> bool:
    return wheels.pip() is not None


def _pins() -> str:
    """Digest of all that decides what is in the folder, but for the versions that Debian offers."""
    pins = [_FORMAT, ARCHITECTURE, PACKAGES, WHEELS, LEFT_OUT]
    return hashlib.sha256(json.dumps(pins).encode()).hexdigest()


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB"
