"""``codesign devices``: run a tracker or a device's server, see what is there, take devices out of use."""

from __future__ import annotations

import contextlib
import difflib
import errno
import os
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codesign.cli.console import emit
from codesign.cli.devices_emulate import emulate
from codesign.cli.options import DEFAULT_TRACKER, JsonFlag, TrackerAt
from codesign.devices import wire
from codesign.devices.client import TrackerClient
from codesign.devices.serving import (
    EXPOSED,
    make_options,
    serve,
    start_command,
    tracker_address,
)
from codesign.devices.wire import Address
from codesign.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Phones and boards reached over the network: their tracker, their servers, their health.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
app.command(
    epilog="Examples: codesign devices emulate arm64 | codesign devices emulate arm64 --devices 2"
)(emulate)

Seconds = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds to wait for answers.")]
Which = Annotated[str, typer.Argument(help="A key (all its devices), or HOST:PORT of one device.")]


@app.command(
    epilog="Examples: codesign devices tracker | codesign devices tracker --host 0.0.0.0 --port 9190"
)
def tracker(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0: any free one.")
    ] = wire.TRACKER_PORT,
) -> None:
    """Run the tracker that hands out devices, until Ctrl-C."""
    import asyncio

    from codesign.devices.tracker import bind, serve_tracker

    if not wire.is_loopback(host):
        print(
            EXPOSED.format(host=host).replace("on this device", "on the devices"), file=sys.stderr
        )
    try:
        listening = bind(host, port)
    except OSError as error:
        there = _tracker_there(Address(host, port)) if error.errno == errno.EADDRINUSE else ""
        raise UserError(
            "the tracker cannot listen there",
            got=f"{host}:{port}: {there or error.strerror or error}",
            next="use that one, or take another --port"
            if there
            else "stop what uses the port, or take another --port",
        ) from None
    at = Address(*listening.getsockname()[:2])
    print(f"tracker on {at}, pid {os.getpid()}; devices: --tracker {at}", flush=True)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(_until_signal(serve_tracker(listening, lambda line: print(line, flush=True))))


def _tracker_there(at: Address) -> str:
    """What runs at an address that is taken, if it is a tracker; else ""."""
    with contextlib.suppress(UserError), TrackerClient(at, 2.0) as client:
        status = client.status()
        pid = f", pid {status['pid']}" if "pid" in status else ""
        return f"a tracker runs there already{pid}"
    return ""


async def _until_signal(serving: Any) -> None:
    import asyncio
    import signal

    task = asyncio.ensure_future(serving)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await task


@app.command(
    "serve",
    epilog="Examples: codesign devices serve --key pi5 --tracker 192.168.1.10:9190 --host 0.0.0.0 | "
    "on a board without the command line: python -m codesign.devices.server --key pi5 ...",
)
def serve_command(
    key: Annotated[str, typer.Option("--key", help="Name under which clients ask for it.")],
    tracker: Annotated[
        str | None,
        typer.Option(envvar="CODESIGN_TRACKER", help="HOST:PORT; none: clients connect directly."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one.")] = wire.SERVER_PORT,
    advertise: Annotated[
        str | None, typer.Option(help="Address that clients are told, if not the one seen.")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder of sessions and cache.")] = None,
    max_upload_mb: Annotated[float, typer.Option(help="Most MB of one file.")] = 1000.0,
    cache_mb: Annotated[float, typer.Option(help="Most MB of all cached files.")] = 2000.0,
    max_session: Annotated[float, typer.Option(help="Longest session, seconds.")] = 600.0,
    name: Annotated[str, typer.Option(help="Name of the device, in place of its serial.")] = "",
    emulated: Annotated[bool, typer.Option("--emulated", help="Times here say nothing.")] = False,
    no_fork: Annotated[
        bool, typer.Option("--no-fork", help="Sessions in the server's own process.")
    ] = False,
    opencl: Annotated[
        str, typer.Option(help="auto: what 'codesign devices opencl' made; none; or its file.")
    ] = "auto",
) -> None:
    """Serve this machine as a device: one client at a time, each in a process of its own."""
    options = make_options(
        key,
        tracker=tracker,
        host=host,
        port=port,
        advertise=advertise,
        work=work,
        max_upload_mb=max_upload_mb,
        cache_mb=cache_mb,
        max_session=max_session,
        name=name,
        emulated=emulated,
        fork=not no_fork,
        opencl=opencl,
    )
    raise typer.Exit(serve(options))


@app.command(
    "opencl",
    epilog="Examples: codesign devices opencl | codesign devices opencl --source tvm | on a board"
    " without the command line: python -m codesign.devices.opencl --source tvm",
)
def opencl_command(
    source: Annotated[
        Path | None, typer.Option(help="Checkout of apache/tvm at the installed version.")
    ] = None,
    headers: Annotated[
        Path | None,
        typer.Option(help="Folder with CL/cl.h; default: the checkout's, the system's."),
    ] = None,
    driver: Annotated[
        Path | None, typer.Option(help="OpenCL library; default: the system's.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build TVM's OpenCL runtime for this machine's GPU into the cache, and try it; takes a C++ compiler."""
    from codesign.devices.opencl import make, text_of

    made = make(source, headers, driver, lambda text: print(text, file=sys.stderr, flush=True))
    _show(made, as_json, lambda: text_of(made))


@app.command(
    "list",
    epilog="Examples: codesign devices list | codesign devices list --tracker 192.168.1.10:9190 --json",
)
def list_command(
    tracker: TrackerAt = DEFAULT_TRACKER, timeout: Seconds = 5.0, as_json: JsonFlag = False
) -> None:
    """List the devices that the tracker knows: whether they are free, how warm, with which versions."""
    from codesign.devices.listing import devices_table

    status = _status(tracker, timeout)
    _show(status, as_json, lambda: devices_table(status, _console().width))


@app.command(epilog="Example: codesign devices queue")
def queue(
    tracker: TrackerAt = DEFAULT_TRACKER, timeout: Seconds = 5.0, as_json: JsonFlag = False
) -> None:
    """Show for each key how many devices are free and who waits for one."""
    from codesign.devices.listing import queue_table

    status = _status(tracker, timeout)
    _show(status["queues"], as_json, lambda: queue_table(status))


@app.command(epilog="Example: codesign devices ping pi5 --count 50")
def ping(
    key: Annotated[str, typer.Argument(help="Key of the device.")],
    tracker: TrackerAt = DEFAULT_TRACKER,
    count: Annotated[int, typer.Option(min=1, max=10_000, help="Round trips.")] = 20,
    timeout: Seconds = 60.0,
    as_json: JsonFlag = False,
) -> None:
    """Time calls of a device of this key: what each call over the network costs."""
    from codesign.devices.probing import Unanswered, probe

    at = tracker_address(tracker)
    require_key(_status(tracker, 5.0), key, at)
    answer = probe(at, key, seconds=timeout, tell=("info",), pings=count)
    if isinstance(answer, Unanswered):
        raise UserError(
            f"no device of '{key}' answered",
            got=answer.text,
            next=f"codesign doctor --device {key} --tracker {at}",
        )
    times = [t * 1e3 for t in answer["round_trips_s"]]
    result = {
        "key": key,
        "serial": (answer["info"] or {}).get("serial"),
        "round_trip_ms": {
            "median": statistics.median(times),
            "min": min(times),
            "max": max(times),
            "count": len(times),
        },
        "connect_ms": answer["connect_s"] * 1e3,
    }
    _show(result, as_json, lambda: _ping_text(result))


def _ping_text(result: dict[str, Any]) -> str:
    times = result["round_trip_ms"]
    return (
        f"{result['key']} ({result['serial'] or 'serial not told: stock TVM server'}): median"
        f" {times['median']:.2f} ms of {times['count']} round trips"
        f" ({times['min']:.2f} to {times['max']:.2f}); connected in {result['connect_ms']:.0f} ms"
    )


@app.command(
    epilog="Examples: codesign devices drain pi5 | codesign devices drain 192.168.1.21:9090"
)
def drain(
    which: Which,
    tracker: TrackerAt = DEFAULT_TRACKER,
    timeout: Seconds = 5.0,
    as_json: JsonFlag = False,
) -> None:
    """Hand out no more of these devices; a session that runs goes on to its end."""
    _command("drain", which, tracker, timeout, as_json)


@app.command(epilog="Example: codesign devices resume pi5")
def resume(
    which: Which,
    tracker: TrackerAt = DEFAULT_TRACKER,
    timeout: Seconds = 5.0,
    as_json: JsonFlag = False,
) -> None:
    """Hand out drained devices again."""
    _command("resume", which, tracker, timeout, as_json)


@app.command(epilog="Example: codesign devices forget 192.168.1.21:9090")
def forget(
    which: Which,
    tracker: TrackerAt = DEFAULT_TRACKER,
    timeout: Seconds = 5.0,
    as_json: JsonFlag = False,
) -> None:
    """Strike devices off the list; one whose server lives comes back within seconds."""
    _command("forget", which, tracker, timeout, as_json)


def _command(verb: str, which: str, tracker: str, timeout: float, as_json: bool) -> None:
    key, address = (None, which) if ":" in which else (which, None)
    at = tracker_address(tracker)
    with TrackerClient(at, timeout) as client:
        count = getattr(client, verb)(key, address)
        if not count:
            raise no_such(client.status(), which, at)
    done = {"drain": "drained", "resume": "resumed", "forget": "forgotten"}[verb]
    _show({"which": which, done: count}, as_json, lambda: f"{done}: {count} of '{which}'")


def require_key(status: dict[str, Any], key: str, tracker: Address) -> None:
    """Raise UserError unless some device of a key is there."""
    from codesign.devices.listing import condition_of

    known = [s for s in status["servers"] if s["key"] == key]
    if not known:
        raise no_such(status, key, tracker)
    if all(s["state"] in ("gone", "ill") for s in known):
        raise UserError(
            "no device of this key can be used",
            got="; ".join(map(condition_of, known)),
            allowed="one whose server runs",
            next=f"start it again, on the device: {start_command(key, tracker)}",
        )


def no_such(status: dict[str, Any], which: str, tracker: Address) -> UserError:
    """The tracker never heard of this key or address."""
    living = [s for s in status["servers"] if s["state"] != "gone"]
    there = sorted({s["key"] for s in living} | {s["address"] for s in living})
    near = difflib.get_close_matches(which, there, n=1)
    start = f"on the device: {start_command('KEY' if ':' in which else which, tracker)}"
    return UserError(
        "the tracker knows no such device",
        got=which,
        allowed=", ".join(there) or "none: no server has registered",
        next=f"did you mean '{near[0]}'?" if near else start,
    )


def _status(tracker: str, timeout: float) -> dict[str, Any]:
    with TrackerClient(tracker_address(tracker), timeout) as client:
        return client.status()


def _show(value: Any, as_json: bool, people: Any) -> None:
    if as_json:
        emit(value)
        return
    shown = people()
    _console().print(shown, markup=False, highlight=False)


def _console() -> Console:
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200)  # a pipe has no width
