"""From what the user names to a canonical model with its sites."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tvm_ffi

from codesign.frontend import Imported, load, load_module
from passes.combine_qkv import combine_qkv
from passes.find_sites import find_sites
from passes.model import Model
from passes.normalize import normalize
from passes.sites import Sites


@dataclass(frozen=True)
class Prepared:
    """A model ready to be compressed.

    Attributes:
        imported: as the frontend gave it, with the parity check.
        model: canonical.
        sites: what may be compressed.
    """

    imported: Imported
    model: Model
    sites: Sites

    @cached_property
    def hash(self) -> str:
        """SHA-256 of graph and weights: names the model in the records."""
        digest = hashlib.sha256(f"{tvm_ffi.structural_hash(self.model.main):016x}".encode())
        for name, weight in self.model.weights.items():
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()


def prepare(model: Any, dims: Mapping[str, int] | None = None) -> Prepared:
    """Import a model, bring it into canonical form and find its sites.

    Args:
        model: a path, ``module.py:function``, or (nn.Module, example inputs).
        dims: sizes of dynamic dimensions.

    Raises:
        UserError: the model cannot be read, lowered or trusted; see `codesign.frontend.load`.
    """
    if isinstance(model, tuple):
        imported = load_module(*model, dims=dims)
    else:
        imported = load(model, dims=dims)
    canonical = combine_qkv(normalize(imported.model))
    return Prepared(imported, canonical, find_sites(canonical))
