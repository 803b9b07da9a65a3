"""MetaSchedule's builder, runner and database, with our worker behind and without their traps.

A build and a run may crash or hang only the worker. The database is one folder per target, device
and versions, for MetaSchedule itself ignores them (apache/tvm#15549), locked against a second
writer, and readable after a kill in the middle of a line.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

import tvm
from tvm import tirx
from tvm.ir.utils import derived_object
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from codesign.build import BuiltKernel, KernelSource
from codesign.errors import UserError
from codesign.kernel_args import KernelArg
from codesign.kernels import anonymous, kernel_hash
from codesign.measure import Rig, TimedKernel
from codesign.worker import Failure

_SEPARATOR = "::"


class WorkerBackend:
    """What builder and runner share: the rig, and what they know of each kernel.

    Args:
        rig: builds and times.
    """

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.args: dict[str, tuple[KernelArg, ...]] = {}
        """Hash of a scheduled kernel -> its arguments, found before it was scheduled."""
        self.timed: dict[str, TimedKernel] = {}
        """Artifact -> all that was measured; MetaSchedule keeps seconds only."""
        self.give_up: dict[str, float] = {}
        """Artifact -> seconds beyond which one block is enough."""
        self._built: dict[str, BuiltKernel] = {}

    def build(self, inputs: list[ms.builder.BuilderInput]) -> list[ms.builder.BuilderResult]:
        """Build modules with one function ``main`` each, many to a library."""
        functions = [anonymous(i.mod["main"]) for i in inputs]
        sources = [KernelSource("trial", f, self.args.get(kernel_hash(f))) for f in functions]
        return [self._result(b) for b in self.rig.build(sources)]

    def _result(self, built: BuiltKernel | Failure) -> ms.builder.BuilderResult:
        if isinstance(built, Failure):
            return ms.builder.BuilderResult(None, str(built))
        artifact = f"{built.library}{_SEPARATOR}{built.symbol}"
        self._built[artifact] = built
        return ms.builder.BuilderResult(artifact, None)

    def run(self, artifact: str) -> ms.runner.RunnerResult:
        """Time one artifact; what MetaSchedule does not keep is in `timed`."""
        timed = self.rig.time(self._built[artifact], give_up=self.give_up.get(artifact))
        self.timed[artifact] = timed
        measurement = timed.measurement
        if not measurement.ok:
            return ms.runner.RunnerResult(None, measurement.error)
        return ms.runner.RunnerResult([measurement.seconds], None)


@derived_object
class WorkerBuilder(ms.builder.PyBuilder):  # type: ignore[misc]
    """MetaSchedule builder that compiles in the worker process."""

    def __init__(self, backend: WorkerBackend) -> None:
        super().__init__()
        self.backend = backend

    def build(self, build_inputs: list[ms.builder.BuilderInput]) -> list[ms.builder.BuilderResult]:
        return self.backend.build(build_inputs)


@derived_object
class WorkerRunner(ms.runner.PyRunner):  # type: ignore[misc]
    """MetaSchedule runner that times in the worker process, one artifact after the other."""

    def __init__(self, backend: WorkerBackend) -> None:
        super().__init__()
        self.backend = backend

    def run(self, runner_inputs: list[ms.runner.RunnerInput]) -> list[ms.runner.RunnerFuture]:
        return [_Done(self.backend.run(str(i.artifact_path))) for i in runner_inputs]


@derived_object
class _Done(ms.runner.PyRunnerFuture):  # type: ignore[misc]
    """A result that is there already: times must not be taken side by side."""

    def __init__(self, result: ms.runner.RunnerResult) -> None:
        super().__init__()
        self._result = result

    def done(self) -> bool:
        return True

    def result(self) -> ms.runner.RunnerResult:
        return self._result


class TraceDatabase:
    """The traces of all schedules that were timed, in a MetaSchedule JSON database.

    Args:
        folder: of this target, device and versions; made if it is not there.

    Raises:
        UserError: it cannot be written, or another process writes it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(folder / "lock", "w")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                "the tuning database cannot be written",
                got=f"{folder}: {error.strerror or error}",
                allowed="a folder that can be written",
                next="choose another output folder",
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise UserError(
                "another process is tuning into the same folder",
                got=str(folder),
                next="wait for it to end, then run the same command",
            ) from error
        for file in folder.glob("database_*.json"):
            _drop_half_line(file)
        self._database = ms.database.JSONDatabase(work_dir=str(folder))

    def __enter__(self) -> TraceDatabase:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.close()

    def __len__(self) -> int:
        return len(self._database)

    def add(
        self, func: tirx.PrimFunc, schedule: Schedule, seconds: float, target: tvm.target.Target
    ) -> None:
        """Keep the trace of a schedule of ``func`` with its time."""
        workload = self._database.commit_workload(_workload(func))
        info = ms.arg_info.ArgInfo.from_prim_func(func)
        record = ms.database.TuningRecord(schedule.trace, workload, [seconds], target, info)
        self._database.commit_tuning_record(record)

    def find(self, func: tirx.PrimFunc, scheduled_hash: str, among: int = 16) -> Schedule | None:
        """The schedule of ``func`` whose function has the given hash, replayed from its trace."""
        module = _workload(func)
        if not self._database.has_workload(module):
            return None
        workload = self._database.commit_workload(module)
        for record in self._database.get_top_k(workload, among):
            schedule = Schedule(module)
            record.trace.apply_to_schedule(schedule, remove_postproc=False)
            if kernel_hash(schedule.mod["main"]) == scheduled_hash:
                return schedule
        return None


def _workload(func: tirx.PrimFunc) -> tvm.IRModule:
    return tvm.IRModule({"main": func.with_attr("global_symbol", "main")})


def _drop_half_line(file: Path) -> None:
    """Cut a last line that a killed process left unfinished; MetaSchedule would not load it."""
    data = file.read_bytes()
    end = len(data)
    while end > 0:
        start = data.rfind(b"\n", 0, end - 1) + 1
        try:
            json.loads(data[start:end])
            break
        except ValueError:
            end = start
    if end < len(data) or not data.endswith(b"\n"):
        with open(file, "r+b") as stream:
            stream.truncate(end)
            stream.seek(end)
            if end and data[end - 1 : end] != b"\n":
                stream.write(b"\n")
            os.fsync(stream.fileno())
