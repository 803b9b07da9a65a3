"""Real devices over RPC: requests are supervised, retried, and blamed on whom they should be."""

from codesign.fleet.fleet import Examination, Fleet, NoDeviceError
from codesign.fleet.member import Wanted

__all__ = ["Examination", "Fleet", "NoDeviceError", "Wanted"]
