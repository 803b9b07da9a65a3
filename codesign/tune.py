"""Finds the fastest schedule of each kernel by measuring the candidates of its space.

Nothing is tried twice: a trial is known by kernel, target, device, protocol and versions, and a
larger budget later runs only the trials that are missing. The first candidate of a space is its
default, so that a kernel is never left unscheduled, whatever the budget. What was fast for the same
kernel elsewhere (another device, target, protocol or version) is tried right after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from tvm import tirx
from tvm.s_tir import Schedule

from codesign.build import BuiltKernel, KernelSource
from codesign.decisions import decisions
from codesign.device import measure_key, target_key
from codesign.frozen import digest
from codesign.kernel_args import KernelArg, kernel_args
from codesign.kernels import Kernel, anonymous, kernel_hash
from codesign.measure import Rig, TimedKernel
from codesign.measurement import Measurement
from codesign.metaschedule import TraceDatabase
from codesign.records import warm
from codesign.records.entries import Elsewhere, MeasureKey, Trial
from codesign.target_text import readable
from codesign.versions import versions
from codesign.worker import Failure
from targets.kernels import spaces
from targets.target import Target

Space = Callable[[tirx.PrimFunc, Target], "list[Schedule]"]
Progress = Callable[[int, int, str], None]
"""Called with trials done, trials in all, and what was just tried."""

_Batch = list[tuple["_Task", str]]

_BATCH = 16
_HOPELESS = 2.0
_FINALISTS = 3
_CLOSE = 1.05


class TuningRecords(Interface):
    """What tuning needs of the records (`codesign.records.Records` has it)."""

    def find_measurement(self, key: MeasureKey) -> Measurement | None: ...
    def add_measurement(self, key: MeasureKey, measurement: Measurement) -> None: ...
    def trials(self, key: MeasureKey) -> list[Trial]: ...
    def trials_elsewhere(self, key: MeasureKey) -> list[Elsewhere]: ...
    def add_trial(self, key: MeasureKey, trial: Trial) -> None: ...


@dataclass(frozen=True)
class Tuned:
    """The best known schedule of a kernel.

    Attributes:
        func: the scheduled function; the default one if no schedule ran.
        measurement: its time, taken again after the search so that it is not the luckiest of many.
        made, reused: trials of this call and of earlier ones.
    """

    func: tirx.PrimFunc
    measurement: Measurement
    made: int
    reused: int


UNMEASURED = "not measured: no device runs it"


def untuned(kernel: Kernel, target: Target) -> Tuned:
    """The default schedule of a kernel for a target that nothing here runs."""
    schedule = spaces.schedules(kernel.func, target, limit=1)[0]
    return Tuned(anonymous(schedule.mod["main"]), Measurement.failed(UNMEASURED), 0, 0)


@dataclass
class _Task:
    """One kernel on its way: its candidates by hash, best guess first, and what is known.

    ``args`` are the kernel's, found before it was scheduled; ``built`` has those that were tried just
    now, by hash; ``space`` the hashes in the order that the space has them, ``fast`` those that were fast
    elsewhere.
    """

    kernel: Kernel
    key: MeasureKey
    candidates: dict[str, Schedule]
    known: dict[str, Measurement]
    args: tuple[KernelArg, ...]
    exhausted: bool
    probe: TimedKernel | None = None
    made: int = 0
    reused: int = 0
    pending: list[str] = field(default_factory=list)
    built: dict[str, BuiltKernel | Failure] = field(default_factory=dict)
    space: list[str] = field(default_factory=list)
    fast: dict[str, warm.Hint] = field(default_factory=dict)

    @property
    def hopeless(self) -> float | None:
        """Seconds beyond which one block is enough to know that a candidate is not the best."""
        seconds = [m.seconds for m in self.known.values() if m.ok]
        return _HOPELESS * min(seconds) if seconds else None

    def source(self, h: str) -> KernelSource:
        """A candidate to build."""
        return KernelSource("trial", anonymous(self.candidates[h].mod["main"]), self.args)


def tune(
    kernels: Sequence[Kernel],
    target: Target,
    device: str,
    rig: Rig,
    records: TuningRecords,
    trials: int,
    folder: Path,
    *,
    space: Space | None = None,
    progress: Progress | None = None,
) -> dict[str, Tuned]:
    """Tune kernels for a target on a device.

    Args:
        device: identity of the machine behind ``rig``, part of the key of every record.
        rig: builds and times; its protocol is part of the key too.
        records: where trials and the final measurements are kept.
        trials: most candidates to try for each kernel, earlier ones included; at least 1.
        folder: of the traces; a folder inside it is chosen by target, device and versions.
        space: gives the candidates of a kernel, the default first.

    Returns:
        hash of each kernel -> its best schedule.

    Raises:
        UserError: the folder cannot be written or is in use.
    """
    if trials < 1:
        raise ValueError("a kernel needs at least one trial")
    partition = digest([target_key(target), device, versions()])[:16]
    done: dict[str, Tuned] = {}
    spaces.intrinsics(target)  # traces name them
    with TraceDatabase(folder / partition) as database:
        tuner = _Tuner(target, device, rig, records, trials, space or spaces.schedules, database)
        tasks = []
        for kernel in kernels:
            known = tuner.known(kernel)
            if known is None:
                tasks.append(tuner.open(kernel))
            else:
                done[kernel.hash] = known
        tuner.run(tasks, progress or (lambda *_: None))
        done |= {task.kernel.hash: tuner.finish(task) for task in tasks}
    return {kernel.hash: done[kernel.hash] for kernel in kernels}


class _Tuner:
    def __init__(
        self,
        target: Target,
        device: str,
        rig: Rig,
        records: TuningRecords,
        trials: int,
        space: Space,
        database: TraceDatabase,
    ) -> None:
        self.target, self.device, self.rig = target, device, rig
        self.records, self.trials, self.space = records, trials, space
        self.database = database

    def known(self, kernel: Kernel) -> Tuned | None:
        """What records and traces already say, if that covers the budget."""
        key = self._key(kernel)
        measurement = self.records.find_measurement(key)
        if measurement is None or not measurement.ok:
            return None
        earlier = len({t.schedule for t in self.records.trials(key)})
        if earlier < self.trials and not measurement.meta.get("exhausted"):
            return None
        schedule = self._replay(kernel, str(measurement.meta.get("schedule", "")))
        if schedule is None:
            return None
        return Tuned(anonymous(schedule.mod["main"]), measurement, 0, min(self.trials, earlier))

    def open(self, kernel: Kernel) -> _Task:
        """The candidates of a kernel, and which of them are still to be tried."""
        key = self._key(kernel)
        earlier = {t.schedule: t.measurement for t in self.records.trials(key)}
        hints = warm.hints(key, self.records.trials_elsewhere(key))
        every = self._candidates(kernel, {*earlier, *(h.schedule for h in hints)})
        space: dict[str, Schedule] = {}
        for schedule in every:
            space.setdefault(kernel_hash(schedule.mod["main"]), schedule)
        decided = {h: decisions(s) for h, s in space.items()} if hints else {}
        fast = warm.matched(list(space), decided, hints)
        order = warm.order(list(space), earlier, fast)
        candidates = {h: space[h] for h in order[: self.trials]}
        task = _Task(
            kernel,
            key,
            candidates,
            {h: earlier[h] for h in candidates if h in earlier},
            kernel_args(kernel.func),
            exhausted=len(every) <= self.trials,
            space=list(space),
            fast=fast,
        )
        task.reused = len(task.known)
        task.pending = [h for h in candidates if h not in earlier]
        default = task.known.get(next(iter(candidates)))
        if default is not None and default.ok:
            task.probe = TimedKernel(default, _probes(default))
        return task

    def _candidates(self, kernel: Kernel, wanted: set[str]) -> list[Schedule]:
        """The candidates of a kernel: one more than there are trials, or all if others are wanted."""
        if self.space is spaces.schedules:
            few = spaces.schedules(kernel.func, self.target, limit=self.trials + 1)
            if len(few) <= self.trials or wanted <= {kernel_hash(s.mod["main"]) for s in few}:
                return few
        return self.space(kernel.func, self.target)

    def run(self, tasks: list[_Task], progress: Progress) -> None:
        """Try all that is pending: first the default of every kernel, then the rest."""
        total, done = sum(len(t.pending) for t in tasks), 0
        rounds = [(t, t.pending[:1]) for t in tasks] + [(t, t.pending[1:]) for t in tasks]
        work = [(task, h) for task, hashes in rounds for h in hashes]
        batches = [work[start : start + _BATCH] for start in range(0, len(work), _BATCH)]
        for batch in self._built(batches):
            timed = self.rig.time_all((task.built[h], task.hopeless) for task, h in batch)
            for number, found in timed:
                task, h = batch[number]
                self._try(task, h, found)
                done += 1
                progress(done, total, task.kernel.name)

    def _built(self, batches: list[_Batch]) -> Iterator[_Batch]:
        """The batches, each built; the next one meanwhile, where other devices than this one measure."""
        if self.rig.fleet is None or not batches:
            for batch in batches:
                self._build(batch)
                yield batch
            return
        self.rig.start()  # in this thread: workers die with the one that starts them
        with ThreadPoolExecutor(1) as ahead:
            building = ahead.submit(self._build, batches[0])
            for batch, following in zip(batches, [*batches[1:], None], strict=True):
                building.result()
                if following is not None:
                    building = ahead.submit(self._build, following)
                yield batch

    def _build(self, batch: _Batch) -> None:
        for (task, h), built in zip(
            batch, self.rig.build([task.source(h) for task, h in batch]), strict=True
        ):
            task.built[h] = built

    def _try(self, task: _Task, h: str, timed: TimedKernel) -> None:
        """Store what came out for one candidate."""
        measurement = self._checked(task, timed)
        if measurement.ok:  # traces first: a record without its trace would be useless
            seconds = measurement.seconds
            self.database.add(task.kernel.func, task.candidates[h], seconds, self.target.tvm())
        self.records.add_trial(task.key, Trial(h, measurement))
        task.known[h] = measurement
        task.made += 1

    def _checked(self, task: _Task, timed: TimedKernel) -> Measurement:
        """The measurement, or an error if the schedule computes something else than the first."""
        if not timed.measurement.ok:
            return timed.measurement
        if task.probe is None:
            task.probe = timed
            return timed.measurement.with_meta(probes=[list(p) for p in timed.probes])
        if not timed.agrees_with(task.probe):
            return Measurement.failed("its outputs differ from those of the default schedule")
        return timed.measurement

    def finish(self, task: _Task) -> Tuned:
        """Time the best candidates once more, keep the winner; or the earlier one if still best."""
        ranked = sorted((m.ratio, h) for h, m in task.known.items() if m.ok)
        if not ranked:
            return self._failed(task)
        earlier = self.records.find_measurement(task.key)
        if earlier is not None and earlier.ok and earlier.meta.get("schedule") == ranked[0][1]:
            func = anonymous(task.candidates[ranked[0][1]].mod["main"])
            return Tuned(func, earlier, task.made, task.reused)
        finalists = [h for r, h in ranked[:_FINALISTS] if r <= _CLOSE * ranked[0][0]]
        again = self._again(task, finalists)
        sound = {h: m for h, m in again.items() if m.ok}
        if not sound:
            return self._failed(task)
        winner = min(sound, key=lambda h: sound[h].ratio + task.known[h].ratio)
        measurement = sound[winner].with_meta(
            schedule=winner,
            exhausted=task.exhausted,
            default_ratio=self._default_ratio(task),
            **self._decided(task),
        )
        self.records.add_measurement(task.key, measurement)
        func = anonymous(task.candidates[winner].mod["main"])
        return Tuned(func, measurement, task.made, task.reused)

    def _again(self, task: _Task, hashes: list[str]) -> dict[str, Measurement]:
        """Time candidates once more; those known from earlier runs are built first."""
        missing = [h for h in hashes if h not in task.built]
        self._build([(task, h) for h in missing])
        timed = self.rig.time_all((task.built[h], None) for h in hashes)
        return {hashes[number]: found.measurement for number, found in timed}

    def _failed(self, task: _Task) -> Tuned:
        first = next(iter(task.candidates))
        errors = [m.error for m in task.known.values() if m.error]
        measurement = Measurement.failed(errors[0] if errors else "it ran once, but not again")
        if task.made or self.records.find_measurement(task.key) is None:
            self.records.add_measurement(task.key, measurement)
        func = anonymous(task.candidates[first].mod["main"])
        return Tuned(func, measurement, task.made, task.reused)

    def _decided(self, task: _Task) -> dict[str, Any]:
        """For other devices what was decided, and how much sooner theirs led here to a good schedule."""
        found: dict[str, Any] = {
            "decisions": {h: decisions(s) for h, s in task.candidates.items() if h in task.known}
        }
        times = {h: m.ratio for h, m in task.known.items() if m.ok}
        gained = warm.gain(task.space, list(task.candidates), times)
        if task.fast and gained is not None:
            sources = sorted({f"{h.device}: {readable(h.target)}" for h in task.fast.values()})
            found["transfer"] = {**asdict(gained), "from": sources}
        return found

    def _default_ratio(self, task: _Task) -> float | None:
        default = task.known.get(next(iter(task.candidates)))
        return default.ratio if default is not None and default.ok else None

    def _replay(self, kernel: Kernel, scheduled_hash: str) -> Schedule | None:
        """The schedule with that hash: from its trace, or else from the space."""
        found = self.database.find(kernel.func, scheduled_hash)
        if found is not None:
            return found
        for schedule in self.space(kernel.func, self.target):
            if kernel_hash(schedule.mod["main"]) == scheduled_hash:
                return schedule
        return None

    def _key(self, kernel: Kernel) -> MeasureKey:
        return measure_key(kernel.hash, self.target, self.device, self.rig.protocol)


def _probes(measurement: Measurement) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(p) for p in measurement.meta.get("probes", ()))
