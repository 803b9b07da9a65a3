"""Finds the fastest schedule of each kernel by measuring the candidates of its space.

Nothing is tried twice: a trial is known by kernel, target, device, protocol and versions, and a
larger budget later runs only the trials that are missing. The first candidate of a space is its
default, so that a kernel is never left unscheduled, whatever the budget. What was fast for the same
kernel elsewhere (another device, target, protocol or version) is tried right after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from codesign.decisions import decisions
from codesign.device import measure_key, target_key
from codesign.frozen import digest
from codesign.kernel_args import kernel_args
from codesign.kernels import Kernel, anonymous, kernel_hash
from codesign.measure import Rig, TimedKernel
from codesign.measurement import Measurement
from codesign.metaschedule import TraceDatabase, WorkerBackend, WorkerBuilder, WorkerRunner
from codesign.records import warm
from codesign.records.entries import Elsewhere, MeasureKey, Trial
from codesign.target_text import readable
from codesign.versions import versions
from targets.kernels import spaces
from targets.target import Target

Space = Callable[[tirx.PrimFunc, Target], "list[Schedule]"]
Progress = Callable[[int, int, str], None]
"""Called with trials done, trials in all, and what was just tried."""

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


@dataclass
class _Task:
    """One kernel on its way: its candidates by hash, best guess first, and what is known.

    ``built`` has the artifacts of those that were tried just now, by hash; ``space`` the hashes in the order
    that the space has them, ``fast`` those that were fast elsewhere.
    """

    kernel: Kernel
    key: MeasureKey
    candidates: dict[str, Schedule]
    known: dict[str, Measurement]
    exhausted: bool
    probe: TimedKernel | None = None
    made: int = 0
    reused: int = 0
    pending: list[str] = field(default_factory=list)
    built: dict[str, str] = field(default_factory=dict)
    space: list[str] = field(default_factory=list)
    fast: dict[str, warm.Hint] = field(default_factory=dict)

    @property
    def best(self) -> float:
        return min((m.ratio for m in self.known.values() if m.ok), default=math.inf)


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
        self.backend = WorkerBackend(rig)
        self.builder = WorkerBuilder(self.backend)
        self.runner = WorkerRunner(self.backend)

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
            exhausted=len(every) <= self.trials,
            space=list(space),
            fast=fast,
        )
        task.reused = len(task.known)
        task.pending = [h for h in candidates if h not in earlier]
        default = task.known.get(next(iter(candidates)))
        if default is not None and default.ok:
            task.probe = TimedKernel(default, _probes(default))
        args = kernel_args(kernel.func)
        self.backend.args |= dict.fromkeys(candidates, args)
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
        for start in range(0, len(work), _BATCH):
            batch = work[start : start + _BATCH]
            built = self.builder.build(
                [self._builder_input(task.candidates[h]) for task, h in batch]
            )
            for (task, h), result in zip(batch, built, strict=True):
                self._try(task, h, result)
                done += 1
                progress(done, total, task.kernel.name)

    def _try(self, task: _Task, h: str, built: ms.builder.BuilderResult) -> None:
        """Time one built candidate and store what came out."""
        if built.artifact_path is None:
            measurement = Measurement.failed(str(built.error_msg), stage="build")
        else:
            task.built[h] = str(built.artifact_path)
            measurement = self._checked(task, h, self._time(task, task.built[h]))
        if measurement.ok:  # traces first: a record without its trace would be useless
            seconds = measurement.seconds
            self.database.add(task.kernel.func, task.candidates[h], seconds, self.target.tvm())
        self.records.add_trial(task.key, Trial(h, measurement))
        task.known[h] = measurement
        task.made += 1

    def _time(self, task: _Task, artifact: str) -> TimedKernel:
        seconds = [m.seconds for m in task.known.values() if m.ok]
        if seconds:
            self.backend.give_up[artifact] = _HOPELESS * min(seconds)
        info = ms.arg_info.ArgInfo.from_prim_func(task.kernel.func)
        self.runner.run([ms.runner.RunnerInput(artifact, "llvm", info)])[0].result()
        return self.backend.timed[artifact]

    def _checked(self, task: _Task, h: str, timed: TimedKernel) -> Measurement:
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
        results = self.builder.build([self._builder_input(task.candidates[h]) for h in missing])
        found: dict[str, Measurement] = {}
        for h, result in zip(missing, results, strict=True):
            if result.artifact_path is None:
                found[h] = Measurement.failed(str(result.error_msg))
            else:
                task.built[h] = str(result.artifact_path)
        return found | {h: self._final(task.built[h]) for h in hashes if h not in found}

    def _final(self, artifact: str) -> Measurement:
        self.backend.give_up.pop(artifact, None)
        self.backend.run(artifact)
        return self.backend.timed[artifact].measurement

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

    def _builder_input(self, schedule: Schedule) -> ms.builder.BuilderInput:
        return ms.builder.BuilderInput(schedule.mod, self.target.tvm())

    def _key(self, kernel: Kernel) -> MeasureKey:
        return measure_key(kernel.hash, self.target, self.device, self.rig.protocol)


def _probes(measurement: Measurement) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(p) for p in measurement.meta.get("probes", ()))
