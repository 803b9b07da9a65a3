"""Where a user wants something measured. No TVM."""

from __future__ import annotations

from dataclasses import dataclass

from codesign.devices.wire import TRACKER_PORT, Address, parse_address
from codesign.errors import UserError

TRACKER = f"127.0.0.1:{TRACKER_PORT}"
"""Where a tracker is looked for if nobody says; TVM's own choice of the port."""

GPU = "gpu"
"""With a device: the GPU that it has, as its OpenCL driver tells it."""


@dataclass(frozen=True)
class Where:
    """Where a user wants something measured.

    Attributes:
        target: a name of ``codesign targets``; ``host`` with a device means what that device is, ``gpu`` its GPU.
        threads: of the kernels.
        device: key of the devices at the tracker; None for this machine.
        tracker: ``HOST:PORT``.
        cpus: processors of the device to run on: ``big``, ``little``, or numbers such as ``4-7``; "" for all.
    """

    target: str = "host"
    threads: int = 1
    device: str | None = None
    tracker: str | None = None
    cpus: str = ""

    @property
    def address(self) -> Address:
        """Of the tracker; without a port it is TVM's usual one. Raises UserError."""
        text = self.tracker or TRACKER
        try:
            return parse_address(text, TRACKER_PORT)
        except ValueError as error:
            raise UserError(
                "the tracker's address could not be read", got=str(error),
                allowed="HOST:PORT, such as 127.0.0.1:9190", next="codesign devices tracker --help",
            ) from error  # fmt: skip
