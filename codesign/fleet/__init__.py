"""Real devices over RPC: requests are supervised, retried, and blamed on whom they should be."""

from codesign.fleet.fleet import Examination, Fleet
from codesign.fleet.member import Wanted
from codesign.fleet.no_device import NoDeviceError

__all__ = ["Examination", "Fleet", "NoDeviceError", "Wanted"]
