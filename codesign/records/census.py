"""How many records there are of each device and target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from codesign.records.store import Records


@dataclass(frozen=True)
class Census:
    """Records of one device and target.

    Attributes:
        device: identity in the keys.
        serial: of the single device, from ``meta["device"]``; "" where none was told.
        target: text of the compile target.
        measurements, trials: how many.
        failed: of both, those without a time.
        flagged: measurements with a flag.
    """

    device: str
    serial: str
    target: str
    measurements: int
    trials: int
    failed: int
    flagged: int

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return dict(vars(self))


_QUERY = """
SELECT device, serial, target, sum(measured), sum(1 - measured), sum(failed), sum(flagged) FROM (
  SELECT device, target, 1 AS measured, error IS NOT NULL AS failed,
    coalesce(json_extract(meta, '$.device'), '') AS serial,
    json_extract(meta, '$.flags') IS NOT NULL AS flagged FROM measurements
  UNION ALL
  SELECT coalesce(k.device, 'not known yet'), coalesce(k.target, ''), 0, t.error IS NOT NULL,
    coalesce(json_extract(t.meta, '$.device'), ''), 0 FROM trials t LEFT JOIN keys k ON k.key = t.key
) GROUP BY device, serial, target ORDER BY device, serial, target
"""


def census(records: Records) -> list[Census]:
    """Counts of a whole file, whichever run made the records."""
    return [Census(*row) for row in records._rows(_QUERY)]
