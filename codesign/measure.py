"""Times kernels and bundles in a worker process; a failure is a measurement without a time.

Others help it to build, as many as there are processors, and are idle while it times.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codesign.build import BuiltKernel, KernelSource, build_kernels
from codesign.conditions import DeviceState, noted
from codesign.fleet import Examination, Fleet
from codesign.machine import cores
from codesign.measurement import Measurement, Protocol, median, summarize
from codesign.reference_kernel import reference_for
from codesign.tensors import pack, unpack
from codesign.worker import Failure, Reply, Worker
from targets.target import Target

__all__ = [
    "Measurement",
    "Protocol",
    "Rig",
    "TimedKernel",
    "measure_bundles",
    "measure_kernels",
]

_KERNEL_SECONDS = 30.0
_LOAD_SECONDS = 60.0
_BUNDLE_SECONDS = 60.0
_MOST_BUILDERS = 8


@dataclass(frozen=True)
class TimedKernel:
    """A measurement with a few output values, the same for every right schedule of a kernel."""

    measurement: Measurement
    probes: tuple[tuple[float | None, ...], ...] = ()

    def agrees_with(self, other: TimedKernel, tolerance: float = 1e-3) -> bool:
        """True if both computed the same outputs, relative to their largest value."""
        if [len(p) for p in self.probes] != [len(p) for p in other.probes]:
            return False
        for mine, theirs in zip(self.probes, other.probes, strict=True):
            scale = max((abs(v) for v in theirs if v is not None), default=0.0)
            for a, b in zip(mine, theirs, strict=True):
                if (a is None) != (b is None):
                    return False
                if a is not None and b is not None and abs(a - b) > tolerance * scale:
                    return False
        return True


class Rig:
    """Workers, a scratch folder and the reference kernel: what measuring on one target needs.

    Args:
        target: what kernels are built for; its threads must be those of ``protocol``.
        protocol: how times are taken.
        fleet: devices that measure; without them this machine does. Closed with the rig.
    """

    def __init__(self, target: Target, protocol: Protocol, fleet: Fleet | None = None) -> None:
        if target.threads != protocol.threads:
            raise ValueError(f"target for {target.threads} threads, protocol {protocol.threads}")
        self.target = target
        self.protocol = protocol
        self.worker = Worker(protocol.threads, protocol.affinity)
        """Builds, and measures where there is no fleet."""
        self.fleet = fleet
        self._timer: Worker | Fleet = fleet or self.worker
        self._helpers = [Worker() for _ in range(min(cores(), _MOST_BUILDERS) - 1)]
        self.folder = Path(tempfile.mkdtemp(prefix="codesign-"))
        self.kernel_deadline = _KERNEL_SECONDS + 5 * protocol.max_seconds
        """Seconds after which a kernel that is being timed is given up and its process killed."""
        self._reference: BuiltKernel | Failure | None = None

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers, give the devices back and remove the scratch folder."""
        if self.fleet is not None:
            self.fleet.close()
        for worker in (self.worker, *self._helpers):
            worker.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(
        self,
        op: str,
        params: Mapping[str, Any] | None = None,
        blobs: Sequence[bytes | memoryview] = (),
        *,
        deadline: float,
    ) -> Reply | Failure:
        """A request to what measures: this machine's worker, or a device."""
        return self._timer.request(op, params, blobs, deadline=deadline)

    def start(self) -> None:
        """Start the workers that build, in the calling thread: they end with it."""
        for worker in (self.worker, *self._helpers):
            worker.start()

    def build(self, kernels: Sequence[KernelSource]) -> list[BuiltKernel | Failure]:
        """Build scheduled kernels into the scratch folder."""
        workers = (self.worker, *self._helpers)
        return build_kernels(workers, kernels, self.target, self.folder)

    def time_all(
        self, items: Iterable[tuple[BuiltKernel | Failure, float | None]]
    ) -> Iterator[tuple[int, TimedKernel]]:
        """As `time`, of many kernels, each with the seconds at which it is given up.

        Several devices time side by side. A single one, or this machine, takes an item when the result before
        it was consumed, so that the items may depend on it.

        Returns:
            Number of the item and its result, as they come, so that each can be kept at once.

        Raises:
            NoDeviceError: after all results that there are.
        """

        def timed(item: tuple[BuiltKernel | Failure, float | None]) -> TimedKernel:
            return self.time(item[0], give_up=item[1])

        if self.fleet is None:
            yield from ((number, timed(item)) for number, item in enumerate(items))
            return
        self.reference()  # built once, before threads ask for it
        yield from self.fleet.each(timed, items)

    def time(
        self, kernel: BuiltKernel | Failure, *, give_up: float | None = None, seed: int = 0
    ) -> TimedKernel:
        """Time one built kernel, again if the machine was restless (`Protocol.max_spread`).

        Args:
            give_up: seconds; a kernel slower than this gets one block only.
            seed: of the random arguments; the same for schedules that are compared.
        """
        if isinstance(kernel, Failure):
            return TimedKernel(Measurement.failed(str(kernel), stage="build", kind=kernel.kind))
        reference = self.reference()
        if isinstance(reference, Failure):
            failed = Measurement.failed(f"the reference kernel: {reference}", stage="build")
            return TimedKernel(failed)
        params = {
            **kernel.to_json(),
            "reference": reference.to_json(),
            "protocol": self.protocol.to_json(),
            "give_up": give_up,
            "seed": seed,
        }
        best = self._time_once(params)
        for _ in range(self.protocol.retries):
            if not best.measurement.ok or best.measurement.unrest <= self.protocol.max_spread:
                break
            again = self._time_once(params)
            if again.measurement.ok and again.measurement.quiet < best.measurement.quiet:
                best = again
        return best

    def _time_once(self, params: Mapping[str, Any]) -> TimedKernel:
        reply = self._timer.request("time_kernel", params, deadline=self.kernel_deadline)
        if isinstance(reply, Failure):
            return TimedKernel(Measurement.failed(str(reply), stage="run", kind=reply.kind))
        result = reply.result
        measurement = summarize(
            result["samples"], result["reference"], load=result["load"], calls=result["calls"]
        )
        measurement = self._told(measurement, result["story"], result["reference"])
        return TimedKernel(measurement, tuple(tuple(p) for p in result["probes"]))

    def _told(
        self, measurement: Measurement, story: Mapping[str, Any], reference: Sequence[float]
    ) -> Measurement:
        """The measurement with what is known of the device that took it."""
        if self.fleet is None:
            return measurement
        serial = str(story.get("serial") or self.fleet.wanted.key)
        before, after = (
            DeviceState.from_json(story[when]) if story.get(when) else None
            for when in ("before", "after")
        )
        measurement = noted(measurement, reference, before, after)
        told: dict[str, Any] = {"device": serial}
        if story.get("emulated"):
            told["emulated"] = True
        if story.get("timed"):
            told["timed"] = str(story["timed"])
        if reference and (unusual := self.fleet.calibration.add(serial, median(reference))):
            told["flags"] = [*measurement.meta.get("flags", ()), unusual]
        return measurement.with_meta(**told)

    def reference(self) -> BuiltKernel | Failure:
        """The reference kernel, built at the first call."""
        if not isinstance(self._reference, BuiltKernel):
            source = KernelSource("reference", *reference_for(self.target))
            self._reference = built = self.build([source])[0]
            if self.fleet is not None and isinstance(built, BuiltKernel):
                self.fleet.examination = _examination(built)
        return self._reference

    def bundles(
        self,
        paths: Sequence[Path],
        reference: Path | None = None,
        *,
        inputs: Mapping[str, ArrayLike] | None = None,
        seed: int = 0,
    ) -> list[Measurement]:
        """Time bundles end to end, interleaved; see `measure_bundles`."""
        every = list(dict.fromkeys([*([reference] if reference else []), *map(Path, paths)]))
        if self.fleet is not None:
            self.reference()  # examines a device that fails
        failures = {p: f for p in every if (f := self._try(p, inputs)) is not None}
        sound = [p for p in every if p not in failures]
        reply = self._time_bundles(sound, inputs, seed) if sound else Failure("error", "no bundle")
        for path in every:
            self._timer.request("forget", {"path": str(path)})
        if isinstance(reply, Failure):
            failures |= dict.fromkeys(sound, reply)
            result: Mapping[str, Any] = {"samples": {}, "load": 0.0, "story": {}}
        else:
            result = reply.result
        samples = result["samples"]
        between = samples.get(str(reference)) if reference else None
        return [
            Measurement.failed(str(failures[p]), kind=failures[p].kind)
            if p in failures
            else self._told(
                _end_to_end(samples[str(p)], between, result["load"]), result["story"], ()
            )
            for p in map(Path, paths)
        ]

    def _try(self, path: Path, inputs: Mapping[str, ArrayLike] | None) -> Failure | None:
        """Load a bundle and run it once, so that one that crashes does it alone."""
        reply = self.run(path, inputs)
        return reply if isinstance(reply, Failure) else None

    def run(
        self, path: Path, inputs: Mapping[str, ArrayLike] | None
    ) -> dict[str, NDArray[np.generic]] | Failure:
        """The outputs of a bundle where bundles are measured, on ``inputs`` or on random numbers."""
        header, blobs = pack(inputs or {})
        params = {"path": str(path), "inputs": header, "fill": inputs is None}
        reply = self._timer.request("run_bundle", params, blobs, deadline=_LOAD_SECONDS)
        return reply if isinstance(reply, Failure) else unpack(reply.result, reply.blobs)

    def _time_bundles(
        self, paths: Sequence[Path], inputs: Mapping[str, ArrayLike] | None, seed: int
    ) -> Reply | Failure:
        header, blobs = pack(inputs or {})
        params: dict[str, Any] = {
            "paths": [str(p) for p in paths],
            "inputs": header,
            "fill": inputs is None,
            "protocol": self.protocol.to_json(),
            "orders": _orders(len(paths), self.protocol.repeats, seed),
        }
        deadline = _BUNDLE_SECONDS + 10 * self.protocol.max_seconds * len(paths)
        return self._timer.request("time_bundles", params, blobs, deadline=deadline)


def _examination(reference: BuiltKernel) -> Examination:
    """The reference kernel on random numbers, and what comes out."""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(a.shape).astype(np.float32) for a in reference.args if not a.output)
    wide = w.transpose(1, 0, 2).reshape(w.shape[1], -1)
    return Examination(reference.to_json(), (x.tobytes(), w.tobytes()), x @ wide)


def measure_kernels(
    kernels: Sequence[KernelSource], target: Target, protocol: Protocol
) -> list[Measurement]:
    """Time scheduled kernels; each is built, run and timed where its crash harms no other.

    Blocks of calls alternate with blocks of a fixed reference kernel, so that `Measurement.ratio`
    is free of drift. Takes about 50 ms per kernel and protocol of 10 repeats of 2 ms.
    """
    with Rig(target, protocol) as rig:
        return [rig.time(built).measurement for built in rig.build(kernels)]


def measure_bundles(
    paths: Sequence[Path],
    reference: Path | None,
    target: Target,
    protocol: Protocol,
    *,
    inputs: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
) -> list[Measurement]:
    """Time bundles end to end: inputs as arrays to outputs as arrays.

    All are loaded in one worker; each sweep runs a block of calls of each bundle in random order.
    `Measurement.ratio` compares with ``reference`` in the same sweep.

    Args:
        inputs: what to run them on; random numbers (ones for integers) if not given.
    """
    with Rig(target, protocol) as rig:
        return rig.bundles(paths, reference, inputs=inputs, seed=seed)


def _orders(count: int, sweeps: int, seed: int) -> list[list[int]]:
    rng = random.Random(seed)
    return [rng.sample(range(count), count) for _ in range(sweeps)]


def _end_to_end(
    samples: Sequence[float], reference: Sequence[float] | None, load: float
) -> Measurement:
    measurement = summarize(samples, load=load)
    if reference is None or not measurement.ok:
        return measurement
    ratio = median([s / r for s, r in zip(samples, reference, strict=True)])
    return replace(measurement, ratio=ratio)
