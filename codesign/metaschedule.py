"""MetaSchedule's database without its traps.

It is one folder per target, device and versions, for MetaSchedule itself ignores them (apache/tvm#15549),
locked against a second writer, and readable after a kill in the middle of a line.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

import tvm
from tvm import tirx
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from codesign.errors import UserError
from codesign.kernels import kernel_hash


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
