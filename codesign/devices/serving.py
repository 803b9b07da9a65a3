"""Starts a device's server from its command line, on boards without the packages of `codesign`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from codesign.devices import facts, opencl_runtime, wire
from codesign.devices.options import ServerOptions, default_work
from codesign.devices.wire import Address
from codesign.errors import UserError

MB = 1_000_000
EXPOSED = (
    "warning: listening on {host}: whoever reaches this port can run any code on this device;"
    " use it in a network you trust, or 127.0.0.1 and an ssh tunnel"
)


def start_command(key: str, tracker: Address) -> str:
    """What is typed on a device so that it offers itself under a key."""
    return f"python -m codesign.devices.server --key {key} --tracker {tracker}"


def parse(arguments: list[str] | None = None) -> ServerOptions:
    """Options of ``python -m codesign.devices.server``; argparse ends the process on wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m codesign.devices.server",
        description="Serve this device to one client at a time, each in a process of its own.",
        epilog="Example: python -m codesign.devices.server --key pi5 --tracker 192.168.1.10:9190"
        " --host 0.0.0.0",
    )
    parser.add_argument("--key", required=True, help="name under which clients ask for the device")
    parser.add_argument(
        "--tracker", help="HOST:PORT of the tracker; default: none, clients connect"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=wire.SERVER_PORT, help="0: any free one")
    parser.add_argument("--advertise", help="address that clients are told, if not the one seen")
    parser.add_argument("--work", type=Path, help="folder of sessions and cache")
    parser.add_argument("--max-upload-mb", type=float, default=1000.0)
    parser.add_argument("--cache-mb", type=float, default=2000.0)
    parser.add_argument("--max-session", type=float, default=600.0, help="seconds")
    parser.add_argument("--name", default="", help="name of the device, in place of its serial")
    parser.add_argument("--emulated", action="store_true", help="times here say nothing")
    parser.add_argument("--no-fork", action="store_true", help="sessions in the server's process")
    parser.add_argument(
        "--opencl", default="auto", help="auto: the runtime in the cache; none; or its file"
    )
    given = parser.parse_args(arguments)
    try:
        return make_options(
            given.key,
            tracker=given.tracker,
            host=given.host,
            port=given.port,
            advertise=given.advertise,
            work=given.work,
            max_upload_mb=given.max_upload_mb,
            cache_mb=given.cache_mb,
            max_session=given.max_session,
            name=given.name,
            emulated=given.emulated,
            fork=not given.no_fork,
            opencl=given.opencl,
        )
    except UserError as error:
        parser.error(str(error))


def make_options(
    key: str,
    *,
    tracker: str | None,
    host: str = "127.0.0.1",
    port: int = 0,
    advertise: str | None = None,
    work: Path | None = None,
    max_upload_mb: float = 1000.0,
    cache_mb: float = 2000.0,
    max_session: float = 600.0,
    name: str = "",
    emulated: bool = False,
    fork: bool = True,
    opencl: str = "auto",
) -> ServerOptions:
    """Checked options.

    Raises:
        UserError: one of them cannot be used.
    """
    if not key or len(key) > 128 or any(c.isspace() or c == ":" for c in key):
        raise UserError(
            "this is no key of a device",
            got=f"--key {key!r}",
            allowed="1 to 128 characters without spaces and colons",
            next="--key pixel8",
        )
    numbers = {
        "--max-upload-mb": max_upload_mb, "--cache-mb": cache_mb, "--max-session": max_session
    }  # fmt: skip
    for option, value in numbers.items():
        if not 0 < value < 1e9:
            raise UserError("a limit is out of range", got=f"{option} {value}", allowed="above 0")
    if not 0 <= port <= 65535:
        raise UserError("this is no port", got=f"--port {port}", allowed="0 to 65535")
    folder = (work or default_work()).absolute()
    runtime = None if opencl in ("auto", "none") else Path(opencl).absolute()
    if runtime is not None and (why := opencl_runtime.refused(runtime, folder)):
        raise UserError(
            "this OpenCL runtime is not loaded",
            got=f"--opencl {opencl}: {why}",
            allowed="auto, none, or a file that only this user can write to",
            next=opencl_runtime.BUILD,
        )
    return ServerOptions(
        key=key,
        tracker=None if tracker is None else tracker_address(tracker),
        host=host,
        port=port,
        advertise=advertise,
        work=folder,
        max_upload=int(max_upload_mb * MB),
        cache_bytes=int(cache_mb * MB),
        max_session=max_session,
        name=name,
        emulated=emulated or facts.is_emulated(),
        fork=fork,
        opencl=runtime,
        offers_opencl=opencl != "none",
    )


def tracker_address(text: str) -> Address:
    """Where a tracker is, from ``HOST:PORT`` or ``HOST``.

    Raises:
        UserError: the text is neither.
    """
    try:
        return wire.parse_address(text, wire.TRACKER_PORT)
    except ValueError:
        raise UserError(
            "this is no address of a tracker",
            got=text,
            allowed="HOST:PORT, as in 127.0.0.1:9190",
            next="codesign devices tracker",
        ) from None


def serve(options: ServerOptions) -> int:
    """Run the server until a signal; the exit code.

    Raises:
        UserError: its port or its folder cannot be had.
    """
    from codesign.devices.server import Server

    if not wire.is_loopback(options.host):
        print(EXPOSED.format(host=options.host), file=sys.stderr)
    try:
        server = Server(options)
    except OSError as error:
        raise UserError(
            "the server cannot start",
            got=f"{options.host}:{options.port}, {options.work}: {error}",
            next="another --port (0 takes a free one), or another --work",
        ) from None
    where = f"tracker {options.tracker}" if options.tracker else "no tracker"
    print(
        f"serving '{options.key}' on {options.host}:{server.port}, {where}, pid {os.getpid()}",
        flush=True,
    )
    if not options.fork:
        from codesign.devices.inprocess import prepare

        server.serve_here(prepare(options))
    server.run()
    return 0
