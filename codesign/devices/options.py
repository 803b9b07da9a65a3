"""What a device's server was started with; no TVM and no network here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from codesign.devices.sandbox import Cache, WorkFolder
from codesign.devices.user_cache import user_cache
from codesign.devices.wire import Address


def default_work() -> Path:
    """The folder of sessions and cache: below the user's cache folder."""
    return user_cache() / "device"


@dataclass(frozen=True)
class ServerOptions:
    """How one server runs.

    Attributes:
        key: under which clients ask for it.
        tracker: where it offers itself; None: clients connect with the plain key.
        host: address to listen on; port: 0 takes any free one.
        advertise: address that clients are told; None: the one that the tracker sees.
        work: folder of the sessions and of the cache.
        max_upload: most bytes of a file; cache_bytes: most bytes of all cached files.
        max_session: longest session in seconds, whatever the client asks for.
        name: name of the device, in place of its serial number.
        emulated: whether its times say nothing about a real device.
        fork: a process for each session; False: sessions run in the server's own process.
        opencl: TVM's OpenCL runtime; None: the one in the user's cache, if there is one.
        offers_opencl: False: it is not loaded.
    """

    key: str
    tracker: Address | None
    host: str = "127.0.0.1"
    port: int = 0
    advertise: str | None = None
    work: Path = Path("device")
    max_upload: int = 1_000_000_000
    cache_bytes: int = 2_000_000_000
    max_session: float = 600.0
    name: str = ""
    emulated: bool = False
    fork: bool = True
    opencl: Path | None = None
    offers_opencl: bool = True

    @property
    def cache(self) -> Cache:
        return Cache(self.work / "cache", self.cache_bytes)

    def folder(self, path: Path) -> WorkFolder:
        return WorkFolder(path, self.max_upload)
