"""Debian packages of another architecture, fetched by this system's own apt and unpacked into a folder.

apt gets state, cache and package list of its own, so that it needs no root rights and changes nothing of the
system; which sources it reads, through which proxy and with which keys, stays what the system says. No
package is installed: none of their scripts runs.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from codesign.errors import UserError


class UnreachableError(UserError):
    """What has to be downloaded is not to be had from here, now."""


_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>[^/\s]+\.deb) (?P<size>\d+)(?: (?P<hash>\S+))?$")
_FILE = re.compile(
    r"^(?P<name>[a-z0-9][a-z0-9+.-]*)_(?P<version>[^_]+)_(?P<architecture>\w+)\.deb$"
)
_SECONDS = 1800
_ALLOWED = "apt sources that have packages for this architecture, and a way to them"


@dataclass(frozen=True)
class Package:
    """One file that apt would fetch.

    Attributes:
        name: of the package.
        version: as Debian writes it.
        file: what its file is called after the download.
        size: bytes of the file.
    """

    name: str
    version: str
    file: str
    size: int


def parse_uris(text: str) -> list[Package]:
    """The packages in the output of ``apt-get install --print-uris``, in the order of installation.

    Other lines, such as apt's notes, are left out. The format is that of apt-get(8): URI in quotes, name
    of the file, size, and a hash or nothing.
    """
    found = []
    for line in text.splitlines():
        uri = _URI.match(line.strip())
        file = _FILE.match(uri["file"]) if uri else None
        if uri and file:
            version = file["version"].replace("%3a", ":").replace("%3A", ":")
            found.append(Package(file["name"], version, uri["file"], int(uri["size"])))
    return found


def upstream_version(packages: Sequence[Package], name: str) -> tuple[int, ...]:
    """The leading numbers of a package's version, without epoch: ``1:2.36-9+deb12u14`` is (2, 36).

    Raises:
        UserError: apt did not offer that package.
    """
    for package in packages:
        if package.name == name:
            upstream = package.version.rpartition(":")[2].partition("-")[0]
            if numbers := re.match(r"\d+(\.\d+)*", upstream):
                return tuple(map(int, numbers[0].split(".")))
    raise UserError(f"apt offers no {name}", got=", ".join(p.name for p in packages))


def configuration(folder: Path, architecture: str) -> str:
    """What apt reads after the system's configuration: its own folders, and one foreign architecture.

    Hooks that the system runs after an update are taken out: they tidy the system's own folders.
    """
    hooks = ("Pre-Invoke", "Post-Invoke", "Post-Invoke-Success")
    lines = [f"#clear APT::Update::{hook};" for hook in hooks]
    lines += ["#clear APT::Architectures;", f'APT::Architectures {{ "{architecture}"; }};']
    settings = {
        "APT::Architecture": architecture,
        "APT::Install-Recommends": "false",
        "APT::Install-Suggests": "false",
        "APT::Sandbox::User": "root",  # who calls apt keeps its own rights
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
        "Dir::State": str(folder / "state"),
        "Dir::State::status": str(folder / "status"),
        "Dir::Cache": str(folder / "cache"),
        "Dir::Cache::archives": "archives",
        "Dir::Log": str(folder / "log"),
    }
    return "\n".join([*lines, *(f'{name} "{value}";' for name, value in settings.items()), ""])


class Apt:
    """apt for one architecture, with everything it writes in one folder.

    Args:
        folder: is made; what was fetched into it before is not fetched again.
        architecture: Debian's name, such as ``arm64``.
    """

    def __init__(self, folder: Path, architecture: str) -> None:
        self._architecture = architecture
        self._archives = folder / "cache" / "archives"
        self._nothing = folder / "nothing"
        for made in ("state/lists", "cache/archives", "nothing", "log"):
            (folder / made / "partial").mkdir(parents=True, exist_ok=True)
        (folder / "status").touch()  # nothing is installed
        self._file = folder / "apt.conf"
        self._file.write_text(configuration(folder, architecture), encoding="utf-8")
        self._complaint = ""

    def update(self) -> None:
        """Read the lists of packages. That one of several sources fails shows when packages are missing."""
        done = self._run("update", "-q")
        self._complaint = _complaints(done.stderr + done.stdout)

    def resolve(self, names: Sequence[str]) -> list[Package]:
        """The packages and all that they depend on.

        Raises:
            UnreachableError: no source has them, with what apt said.
        """
        # Where nothing is downloaded yet: apt leaves out what it has.
        nothing = f"Dir::Cache::archives={self._nothing}"
        done = self._run("install", "-y", "-qq", "-o", nothing, "--print-uris", *names)
        if done.returncode or not (found := parse_uris(done.stdout)):
            said = "\n".join(filter(None, [self._complaint, _complaints(done.stderr)]))
            raise UnreachableError(
                f"apt offers no {' and '.join(names)} for {self._architecture}",
                got=said or f"exit status {done.returncode}",
                allowed=_ALLOWED,
                next=f"add a source of {self._architecture} packages to /etc/apt/sources.list.d, if what apt says "
                "is not about the network",
            )
        return found

    def fetch(self, packages: Sequence[Package]) -> list[Path]:
        """The files of ``packages``; apt verifies them against the signed lists.

        Raises:
            UnreachableError: a download failed.
        """
        exact = [f"{p.name}={p.version}" for p in packages]
        done = self._run("install", "-y", "-qq", "--download-only", *exact)
        files = [self._archives / p.file for p in packages]
        if done.returncode or not all(file.is_file() for file in files):
            raise UnreachableError(
                f"Debian packages for {self._architecture} were not downloaded",
                got=_complaints(done.stderr) or f"exit status {done.returncode}",
                allowed=_ALLOWED,
                next="the same command again: it goes on from here",
            )
        return files

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _call(["apt-get", "-c", str(self._file), *arguments])


def unpack(files: Sequence[Path], folder: Path) -> None:
    """Unpack packages over each other into ``folder``, then see to the names that all programs expect.

    Newer Debian keeps everything below ``usr`` and has ``/lib`` as a link that no package brings.

    Raises:
        UserError: one could not be unpacked.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        done = _call(["dpkg-deb", "--extract", str(file), str(folder)])
        if done.returncode:
            raise UserError(f"{file.name} was not unpacked", got=done.stderr.strip()[-2000:])
    for name in ("bin", "lib", "sbin"):
        if not (folder / name).exists():
            (folder / name).symlink_to(Path("usr", name))


def lacking() -> list[str]:
    """Programs that this machine lacks to fetch and unpack packages."""
    return [name for name in ("apt-get", "dpkg-deb") if shutil.which(name) is None]


def _call(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            dying_with_us(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UserError(f"{command[0]} failed", got=f"{shlex.join(command)}: {error}") from error


def dying_with_us(command: Sequence[str], how: str = "KILL") -> list[str]:
    """The command, sent a signal when the thread that starts it ends: also if this process is killed.

    Else a download would go on, and hold apt's locks against the next attempt. Without setpriv (util-linux) the
    command is left as it is.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", how, *command] if setpriv else list(command)


def _complaints(text: str) -> str:
    """apt's errors and warnings, at most a dozen lines."""
    return "\n".join([line for line in text.splitlines() if line[:2] in ("E:", "W:")][:12])
