"""Everything ever measured, in one SQLite file; append-only, safe against kill -9."""

from codesign.records.database import RecordsError
from codesign.records.entries import (
    Counts,
    Evaluation,
    EvaluationKey,
    Kind,
    MeasureKey,
    RunInfo,
    SensitivityKey,
    Trial,
)
from codesign.records.store import Records

__all__ = [
    "Counts",
    "Evaluation",
    "EvaluationKey",
    "Kind",
    "MeasureKey",
    "Records",
    "RecordsError",
    "RunInfo",
    "SensitivityKey",
    "Trial",
]
