"""Each fault as a scenario: what is injected, and what the run made of it."""

from __future__ import annotations

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.farm import KEY, Farm
from benchmarks.faults.saboteur import Behaviour, Saboteur
from codesign.build import BuiltKernel, KernelSource
from codesign.fleet import Fleet, NoDeviceError, Wanted
from codesign.measure import Rig, TimedKernel
from codesign.measurement import Protocol
from codesign.reference_kernel import reference_kernel
from targets.target import host

MEASUREMENTS = 6
PATIENCE = 40.0
PROTOCOL = Protocol(repeats=3, retries=0)


@dataclass
class Outcome:
    """What came of a fault.

    Attributes:
        wanted: measurements that were asked for; ``made``: that were made, or rightly put down to what
            they measure.
        lost: seconds that incidents cost; ``longest_wait``: that anything was waited for.
        reported: what the user is told.
        stopped: the error with which the run stopped; "" if it went to its end.
    """

    wanted: int
    made: int
    lost: float
    longest_wait: float
    reported: list[str] = field(default_factory=list)
    stopped: str = ""

    @property
    def nothing_lost(self) -> bool:
        """Whether every measurement was made, or the run said why it stopped before it began."""
        return self.made == self.wanted or bool(self.stopped)


@contextmanager
def rig_on(farm: Farm, patience: float = PATIENCE) -> Iterator[Rig]:
    """A rig that measures on the farm's devices, with deadlines of seconds."""
    fleet = Fleet(Wanted(farm.tracker, KEY), patience=patience)
    fleet.examine_seconds = 10.0
    for member in fleet.members:
        member.open_seconds = 5.0
    with Rig(host(), PROTOCOL, fleet) as rig:
        rig.kernel_deadline = 10.0
        yield rig


def built(rig: Rig, count: int = MEASUREMENTS) -> list[BuiltKernel]:
    """Kernels to measure; the rig examines devices from here on."""
    rig.reference()
    made = rig.build([KernelSource("kernel", reference_kernel())] * count)
    return [b for b in made if isinstance(b, BuiltKernel)]


def outcome(rig: Rig, wanted: int, timed: list[TimedKernel], stopped: str = "") -> Outcome:
    """What a rig's devices went through."""
    assert rig.fleet is not None
    diary = rig.fleet.diary
    made = sum(t.measurement.ok for t in timed)
    reported = [str(i) for i in diary.incidents]
    flags = [f for t in timed for f in t.measurement.meta.get("flags", ())]
    return Outcome(wanted, made, diary.lost, diary.longest_wait, reported + flags, stopped)


def measured(
    rig: Rig,
    kernels: list[BuiltKernel],
    fault: Callable[[], object] | None = None,
    after: int = 1,
) -> tuple[list[TimedKernel], str]:
    """All kernels timed, or those before the run stopped, and why it did.

    Args:
        fault: done beside the measurements, once so many of them are there: in the middle of another.
    """
    timed: dict[int, TimedKernel] = {}
    stopped = ""
    thread = threading.Thread(target=fault, daemon=True) if fault is not None else None
    try:
        for number, one in rig.time_all((k, None) for k in kernels):
            timed[number] = one
            if thread is not None and len(timed) == after:
                thread.start()
    except NoDeviceError as error:
        stopped = str(error)
    if thread is not None and thread.is_alive():
        thread.join(60)
    return [timed[n] for n in sorted(timed)], stopped


def server_killed() -> Outcome:
    """The device loses its power in the middle of a measurement, and is back seconds later."""
    with Farm() as farm:
        device = farm.start("one")
        with rig_on(farm) as rig:
            kernels = built(rig, 20)

            def power_cut() -> None:
                device.kill()
                time.sleep(1.0)
                farm.start("one")

            timed, stopped = measured(rig, kernels, power_cut, after=5)
            return outcome(rig, len(kernels), timed, stopped)


def tracker_restarted() -> Outcome:
    """The tracker is gone for three seconds, and knows nothing when it is back."""
    with Farm() as farm:
        farm.start("one")
        with rig_on(farm) as rig:
            kernels = built(rig)
            first, _ = measured(rig, kernels[:2])
            for member in rig.fleet.members if rig.fleet else ():
                member.drop()  # the next session needs the tracker
            away = threading.Thread(target=lambda: farm.restart_tracker(3.0), daemon=True)
            away.start()
            time.sleep(0.5)
            rest, stopped = measured(rig, kernels[2:])
            away.join(60)
            return outcome(rig, len(kernels), first + rest, stopped)


def silent_device() -> Outcome:
    """One of two devices accepts every client and never answers."""
    return _beside_a_good_one(lambda session: Behaviour(silent=True))


def garbage() -> Outcome:
    """One of two devices answers random bytes."""
    return _beside_a_good_one(lambda session: Behaviour(garbage=True))


def cut_in_upload() -> Outcome:
    """A device cuts the connection in the first two uploads, and works from then on."""
    cut = 12_000
    with Farm() as farm:
        farm.start("behind", "behind")
        with (
            Saboteur(
                farm.tracker, KEY, "behind",
                lambda session: Behaviour(cut_after=cut if session <= 2 else None),
            ),
            rig_on(farm) as rig,
        ):  # fmt: skip
            kernels = built(rig)
            timed, stopped = measured(rig, kernels)
            return outcome(rig, len(kernels), timed, stopped)


def _beside_a_good_one(behaviour: Callable[[int], Behaviour]) -> Outcome:
    """The bad device is there first, so that it is tried; the good one comes while it is."""
    with Farm() as farm, Saboteur(farm.tracker, KEY, "nothing", behaviour), rig_on(farm) as rig:
        kernels = built(rig)
        threading.Thread(target=lambda: farm.start("good"), daemon=True).start()
        timed, stopped = measured(rig, kernels)
        return outcome(rig, len(kernels), timed, stopped)


def slow_device() -> Outcome:
    """A device runs at a tenth of its speed for some seconds."""
    with Farm() as farm:
        device = farm.start("one")
        with rig_on(farm) as rig:
            kernels = built(rig, 4) * 40
            timed, stopped = measured(rig, kernels, lambda: device.slow_down(4.0, 0.1), after=10)
            return outcome(rig, len(kernels), timed, stopped)


def disk_full() -> Outcome:
    """One of two devices has no room for what it is sent."""
    with tempfile.TemporaryDirectory() as folder, _small_disk(Path(folder)) as work, Farm() as farm:
        farm.start("full", work=work)
        (work / "full").write_bytes(b"x" * _room(work))
        farm.start("good")
        with rig_on(farm) as rig:
            kernels = built(rig)
            timed, stopped = measured(rig, kernels)
            return outcome(rig, len(kernels), timed, stopped)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 256 kB. Raises PermissionError where none can be mounted."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "codesign", str(folder)], capture_output=True
    )
    if done.returncode != 0:
        raise PermissionError(done.stderr.decode().strip() or "no file system can be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def _room(folder: Path) -> int:
    import os

    status = os.statvfs(folder)
    return max(0, status.f_bavail * status.f_frsize - 4096)


CRASHING = (
    "int __tvm_ffi_crash(void* a, const void* b, int c, void* d) { return *(volatile int*)0; }"
)


def crashing_kernel() -> Outcome:
    """One kernel among others ends the session of every device that runs it."""
    with Farm() as farm:
        farm.start("one")
        with rig_on(farm) as rig:
            kernels = built(rig)
            library = rig.folder / "crash.so"
            subprocess.run(
                ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)],
                input=CRASHING.encode(), check=True,
            )  # fmt: skip
            bad = BuiltKernel(library, "crash", kernels[0].args)
            timed, stopped = measured(rig, [*kernels[:3], bad, *kernels[3:]])
            found = outcome(rig, len(timed), timed, stopped)
            blamed = timed[3].measurement if len(timed) > 3 else None
            if blamed is not None and not blamed.ok:
                found.made += 1  # its failure is its measurement
                found.reported.append(f"put down to the kernel: {(blamed.error or '')[:60]}")
            return found


def wrong_version() -> Outcome:
    """The only device has another TVM."""
    with tempfile.TemporaryDirectory() as folder, Farm() as farm:
        told = Path(folder) / "apache_tvm-0.26.0.dist-info"
        told.mkdir()
        (told / "METADATA").write_text("Metadata-Version: 2.1\nName: apache-tvm\nVersion: 0.26.0\n")
        farm.start("old", environment={"PYTHONPATH": folder})
        with rig_on(farm) as rig:
            kernels = built(rig)
            timed, stopped = measured(rig, kernels)
            return outcome(rig, len(kernels), timed, stopped)


def two_clients() -> Outcome:
    """Two runs want the same device."""
    from codesign.fleet import member

    usual, member.SHARE_SECONDS = member.SHARE_SECONDS, 1.0
    try:
        with Farm() as farm:
            farm.start("one")
            with rig_on(farm) as mine, rig_on(farm) as theirs:
                found: list[tuple[list[TimedKernel], str]] = []
                kernels, others = built(mine, 20), built(theirs, 20)
                thread = threading.Thread(
                    target=lambda: found.append(measured(theirs, others)), daemon=True
                )
                thread.start()
                timed, stopped = measured(mine, kernels)
                thread.join(120)
                also, stopped_too = found[0] if found else ([], "the other run did not end")
                one = outcome(mine, len(kernels), timed, stopped)
                two = outcome(theirs, len(others), also, stopped_too)
                return Outcome(
                    one.wanted + two.wanted, one.made + two.made, one.lost + two.lost,
                    max(one.longest_wait, two.longest_wait), one.reported + two.reported,
                    one.stopped or two.stopped,
                )  # fmt: skip
    finally:
        member.SHARE_SECONDS = usual


SCENARIOS: dict[str, Callable[[], Outcome]] = {
    "server killed in the middle of a measurement": server_killed,
    "tracker restarted": tracker_restarted,
    "device accepts and never answers": silent_device,
    "device answers garbage": garbage,
    "device is slow 10x for a while": slow_device,
    "disconnects in an upload": cut_in_upload,
    "device runs out of disk": disk_full,
    "kernel that crashes the server": crashing_kernel,
    "wrong TVM on the device": wrong_version,
    "two clients at once": two_clients,
}
