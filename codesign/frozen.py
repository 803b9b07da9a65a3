"""Canonical JSON and the frozen mapping of `targets.frozen`, under the name that the loop uses."""

from targets.frozen import FrozenMap, canonical, digest

__all__ = ["FrozenMap", "canonical", "digest"]
