"""Finding and adding records."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

from codesign.frozen import FrozenMap, canonical, digest
from codesign.measurement import Measurement
from codesign.records.database import transaction
from codesign.records.entries import (
    Elsewhere,
    Evaluation,
    EvaluationKey,
    MeasureKey,
    SensitivityKey,
    Trial,
)
from codesign.records.ledger import Ledger

_TIMES = "id, seconds, lo, hi, samples, ratio, load, meta, error"


class Records(Ledger):
    """One open records file. Each process opens its own; a connection does not cross a fork.

    Once `start` was called, or a session of another process was given, every record found or added
    counts as reused or made by that session.

    Raises:
        RecordsError: the file cannot be read or written, is damaged, or of another version.
    """

    # measurements --------------------------------------------------------------------------------

    def add_measurement(self, key: MeasureKey, measurement: Measurement) -> None:
        """Store a measurement; a failed one too, so that it is not tried again."""
        with transaction(self._connection, self.path):
            self._know(key)
            self._add(
                key.kind,
                "measurements",
                key=key.digest,
                kind=key.kind,
                kernel_hash=key.kernel_hash,
                target=key.target,
                device=key.device,
                protocol_hash=digest(key.protocol),
                protocol=canonical(key.protocol),
                versions=canonical(key.versions),
                **_time_columns(measurement),
            )

    def find_measurement(self, key: MeasureKey) -> Measurement | None:
        """The newest measurement under the key, one that worked before one that failed."""
        return self.find_measurements([key]).get(key.digest)

    def find_measurements(self, keys: Iterable[MeasureKey]) -> dict[str, Measurement]:
        """What is known of the keys, by `MeasureKey.digest`."""
        found: dict[str, Measurement] = {}
        used: list[tuple[str, int]] = []
        for digest_, key in {key.digest: key for key in keys}.items():
            for row in self._newest("measurements", _TIMES, digest_):
                found[digest_] = _measurement(row)
                used.append((key.kind, row[0]))
        self._use_all(used)
        return found

    def missing(self, keys: Iterable[MeasureKey], retry_failed: bool = False) -> list[MeasureKey]:
        """The keys still to be measured, each once, in the order given.

        A failure counts as measured unless ``retry_failed``.
        """
        unique = {key.digest: key for key in keys}
        found = self.find_measurements(unique.values())
        return [
            key
            for digest_, key in unique.items()
            if digest_ not in found or (retry_failed and not found[digest_].ok)
        ]

    # tuning --------------------------------------------------------------------------------------

    def add_trial(self, key: MeasureKey, trial: Trial) -> None:
        """Store one tuning trial of the kernel that ``key`` names."""
        with transaction(self._connection, self.path):
            self._know(key)
            columns = _time_columns(trial.measurement)
            self._add("trial", "trials", key=key.digest, schedule=trial.schedule, **columns)

    def trials(self, key: MeasureKey) -> list[Trial]:
        """All trials of a kernel, oldest first: what a resumed tuning need not spend again."""
        found = self._trials(key.digest)
        self._use_all([("trial", record) for record, _ in found])
        return [trial for _, trial in found]

    def trials_elsewhere(self, key: MeasureKey) -> list[Elsewhere]:
        """Trials of the same kernel under other keys; looking at them is no use of them."""
        found = []
        for row in self._rows(
            "SELECT key, kind, kernel_hash, target, device, protocol, versions FROM keys"
            " WHERE kernel_hash = ? AND kind = ? AND key != ? ORDER BY key",
            (key.kernel_hash, key.kind, key.digest),
        ):
            trials = tuple(trial for _, trial in self._trials(row[0]))
            if not trials:
                continue
            metas = self._rows(
                "SELECT meta FROM measurements WHERE key = ? AND error IS NULL ORDER BY id", row[:1]
            )
            decisions = FrozenMap()
            for (meta,) in metas:
                decisions = FrozenMap({**decisions, **json.loads(meta).get("decisions", {})})
            found.append(Elsewhere(measure_key(row[1:]), trials, decisions))
        return found

    def _trials(self, digest_: str) -> list[tuple[int, Trial]]:
        """(record, trial) of a key, oldest first."""
        rows = self._rows(
            f"SELECT {_TIMES}, schedule FROM trials WHERE key = ? ORDER BY id", (digest_,)
        )
        return [(row[0], Trial(row[-1], _measurement(row[:-1]))) for row in rows]

    def _know(self, key: MeasureKey) -> None:
        """Keep what the key's digest is made of."""
        self._connection.execute(
            "INSERT OR IGNORE INTO keys VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                key.digest,
                key.kind,
                key.kernel_hash,
                key.target,
                key.device,
                canonical(key.protocol),
                canonical(key.versions),
            ),
        )

    # quality -------------------------------------------------------------------------------------

    def add_evaluation(self, key: EvaluationKey, evaluation: Evaluation) -> None:
        """Store a candidate's quality; a failed evaluation too."""
        with transaction(self._connection, self.path):
            self._add(
                "evaluation",
                "evaluations",
                key=key.digest,
                model=key.model,
                candidate=key.candidate,
                dataset=key.dataset,
                solver=key.solver,
                quality=canonical(evaluation.quality),
                output_error=evaluation.output_error,
                error=evaluation.error,
            )

    def find_evaluation(self, key: EvaluationKey) -> Evaluation | None:
        """The newest evaluation under the key, one that worked before one that failed."""
        rows = self._newest("evaluations", "id, quality, output_error, error", key.digest)
        self._use_all([("evaluation", row[0]) for row in rows])
        for _, quality, output_error, error in rows:
            return Evaluation(FrozenMap(json.loads(quality)), output_error, error)
        return None

    def add_sensitivity(self, key: SensitivityKey, value: float) -> None:
        """Store the output error that some choices alone cause."""
        with transaction(self._connection, self.path):
            self._add(
                "sensitivity",
                "sensitivities",
                key=key.digest,
                model=key.model,
                site=key.sites,
                choice=key.choices_text,
                dataset=key.dataset,
                solver=key.solver,
                value=value,
            )

    def find_sensitivity(self, key: SensitivityKey) -> float | None:
        """The newest value under the key."""
        rows = self._newest("sensitivities", "id, value, NULL AS error", key.digest)
        self._use_all([("sensitivity", row[0]) for row in rows])
        return float(rows[0][1]) if rows else None

    # any of them ---------------------------------------------------------------------------------

    def _add(self, kind: str, table: str, /, **columns: Any) -> None:
        """Store a row that is made now."""
        record = self._insert(table, **columns, created=time.time())
        self._use(kind, record, made=True)

    def _newest(self, table: str, columns: str, digest_: str) -> list[Any]:
        """The newest row of a key, if there is one; one that worked before one that failed."""
        return self._rows(
            f"SELECT {columns} FROM {table} WHERE key = ?"
            " ORDER BY error IS NOT NULL, created DESC, id DESC LIMIT 1",
            (digest_,),
        )


def measure_key(columns: Sequence[Any]) -> MeasureKey:
    """The key of the columns kind, kernel_hash, target, device, protocol and versions."""
    kind, kernel_hash, target, device, protocol, versions = columns
    return MeasureKey(kernel_hash, target, device, json.loads(protocol), json.loads(versions), kind)


def _time_columns(measurement: Measurement) -> dict[str, Any]:
    """The columns that measurements and trials share; NaN is NULL, for SQLite has none."""
    plain = measurement.to_json()
    return {
        **plain,
        "samples": json.dumps(plain["samples"]),
        "meta": canonical(plain["meta"]),
    }


def _measurement(row: Sequence[Any]) -> Measurement:
    """A row of the columns ``_TIMES``."""
    _, seconds, lo, hi, samples, ratio, load, meta, error = row
    return Measurement(
        seconds=math.nan if seconds is None else seconds,
        lo=math.nan if lo is None else lo,
        hi=math.nan if hi is None else hi,
        samples=tuple(json.loads(samples)),
        ratio=math.nan if ratio is None else ratio,
        load=load,
        error=error,
        meta=json.loads(meta),
    )
