"""Numerical evaluation of compressed candidates without compiling each of them."""

from codesign.simulate.simulator import Simulator
from codesign.simulate.stream import Stream, Variant

__all__ = ["Simulator", "Stream", "Variant"]
