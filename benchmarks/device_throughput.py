"""Measurements per second with one, two and four devices under one key.

    python -m benchmarks.device_throughput [--devices 1 2 4] [--emulated] [--kernels 24] [--json FILE]

The devices are servers on this machine, native or emulated, and share its processors: a measurement keeps one
processor of them busy, so the throughput cannot grow beyond their number. What a phone that brings its own
processors adds is seen up to there. Libraries are built before the clock starts; the records are read again
to count what each device measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.faults.farm import KEY, Farm
from codesign.build import BuiltKernel, KernelSource
from codesign.device import measure_key
from codesign.devices.emulated import emulated_devices
from codesign.machine import cores
from codesign.measurement import Protocol, median
from codesign.records import Records, Trial
from codesign.reference_kernel import reference_kernel
from codesign.station import Station, open_station
from codesign.where import Where

PROTOCOL = Protocol(retries=0)
_KERNEL = "device throughput"
_BUSY_SECONDS = 0.5


@dataclass(frozen=True)
class Row:
    """One run.

    Attributes:
        devices: servers under the key.
        emulated: an emulator measured; its times say nothing about any device.
        asked, measured: kernels to time, and those with a time.
        seconds: from the first to the last.
        each: device -> measurements that the records have from it.
        reference_us: device -> median time of the reference kernel.
        busy: processors of this machine that others kept busy just before.
        incidents: what went wrong, as the run told it.
    """

    devices: int
    emulated: bool
    asked: int
    measured: int
    seconds: float
    each: Mapping[str, int]
    reference_us: Mapping[str, float]
    busy: float
    incidents: tuple[str, ...]

    @property
    def rate(self) -> float:
        """Measurements per second."""
        return self.measured / self.seconds


@contextmanager
def devices(count: int, emulated: bool) -> Iterator[Where]:
    """So many servers under one key, and where they are."""
    if emulated:
        with emulated_devices(count, KEY) as fleet:
            yield Where(device=KEY, tracker=fleet.tracker)
        return
    with Farm() as farm:
        for number in range(1, count + 1):
            farm.start(f"native-{number}")
        yield Where(device=KEY, tracker=str(farm.tracker))


def throughput(count: int, kernels: int, emulated: bool = False) -> Row:
    """Time so many kernels on so many devices.

    Raises:
        UserError: no device answers, or none can be emulated here.
    """
    with devices(count, emulated) as where, open_station(where, PROTOCOL) as station:
        return _timed(station, count, kernels)


def _timed(station: Station, count: int, kernels: int) -> Row:
    rig, fleet = station.rig, station.rig.fleet
    assert fleet is not None
    rig.reference()
    sources = [KernelSource(f"kernel{n}", reference_kernel()) for n in range(kernels)]
    built = [b for b in rig.build(sources) if isinstance(b, BuiltKernel)]
    # sessions open and libraries cross before the clock starts, as in a run of hours
    list(rig.time_all((built[n % len(built)], None) for n in range(2 * count)))
    busy = _others()
    with tempfile.TemporaryDirectory() as folder, Records(Path(folder) / "r.sqlite") as records:
        key = measure_key(_KERNEL, station.target, station.device, rig.protocol)
        began = time.monotonic()
        for number, found in rig.time_all((b, None) for b in built):
            records.add_trial(key, Trial(f"kernel {number}", found.measurement))
        seconds = time.monotonic() - began
        kept = [t.measurement for t in records.trials(key)]
    sound = [m for m in kept if m.ok]
    reference: dict[str, list[float]] = {}
    for m in sound:
        reference.setdefault(str(m.meta["device"]), []).append(m.quiet / m.ratio)
    return Row(
        count, station.emulated, kernels, len(sound), seconds,
        dict(sorted(Counter(str(m.meta["device"]) for m in sound).items())),
        {d: median(s) * 1e6 for d, s in sorted(reference.items())},
        busy,
        tuple(str(i) for i in fleet.diary.incidents),
    )  # fmt: skip


def _others() -> float:
    """Processors that are kept busy by what is none of ours."""
    before = _ours()
    every = psutil.cpu_percent(_BUSY_SECONDS) / 100 * (psutil.cpu_count() or 1)
    return max(0.0, every - (_ours() - before) / _BUSY_SECONDS)


def _ours() -> float:
    """Seconds of processors that this process, its workers and its devices took so far."""
    me, seconds = psutil.Process(), 0.0
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            seconds += times.user + times.system
    return seconds


def table(rows: Sequence[Row]) -> Table:
    """One line for each number of devices."""
    kind = "emulated" if rows[0].emulated else "native"
    made = Table(
        title=f"measurements per second, {kind} devices that share the {cores()} processors "
        "of this machine",
        caption="".join(f"{line}\n" for line in notes(rows)).strip(),
        caption_justify="left",
    )
    for heading in (
        "devices", "measured", "seconds", "per second", "of one device's", "measured by each",
        "reference kernel us", "busy before",
    ):  # fmt: skip
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(
            str(row.devices), f"{row.measured} of {row.asked}", f"{row.seconds:.2f}",
            f"{row.rate:.2f}", f"{row.rate / rows[0].rate:.2f}x" if rows[0].devices == 1 else "",
            ", ".join(f"{d}: {n}" for d, n in row.each.items()),
            ", ".join(f"{d}: {us:.0f}" for d, us in row.reference_us.items()),
            f"{row.busy:.1f}",
        )  # fmt: skip
    return made


def notes(rows: Sequence[Row]) -> list[str]:
    """What has to be known to read the table."""
    said = []
    beyond = [str(row.devices) for row in rows if row.devices > cores()]
    if beyond:
        said.append(
            f"With {' and '.join(beyond)} devices on {cores()} processors the throughput cannot grow beyond "
            f"that of {cores()}: they take turns, and disturb each other."
        )
    if max(row.busy for row in rows) > 0.5:
        said.append(
            "Others kept processors busy (last column): with fewer left to share, it grows less."
        )
    if rows[0].emulated:
        said.append("The times are an emulator's and say nothing about any device.")
    apart = all(len(row.each) == row.devices for row in rows)
    said.append(
        "Every measurement in the records says which device took it."
        if apart
        else "Not every device measured: see the columns."
    )
    said += [f"{row.devices} devices: {i}" for row in rows for i in row.incidents]
    return said


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.device_throughput", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help="how many")
    parser.add_argument("--emulated", action="store_true", help="emulated ARM devices")
    parser.add_argument("--kernels", type=int, default=24, help="to time in each run")
    parser.add_argument("--json", type=Path, help="write everything there")
    given = parser.parse_args(argv)
    if min([*given.devices, given.kernels]) < 1:
        parser.error("--devices and --kernels are 1 or more")
    rows = [throughput(count, given.kernels, given.emulated) for count in given.devices]
    Console(width=160).print(table(rows))
    if given.json:
        told = [asdict(row) | {"per_second": row.rate} for row in rows]
        given.json.write_text(json.dumps({"processors": cores(), "rows": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
