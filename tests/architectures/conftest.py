"""The narrow architectures, made and imported once for all tests of them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from benchmarks.applicability import Subject

if TYPE_CHECKING:  # importing these takes seconds
    import torch

    from codesign.frontend.foreign import Foreign


@dataclass(frozen=True)
class Small:
    """One of `benchmarks.models.zoo.SMALL`.

    Attributes:
        module, inputs: the original.
        foreign: imported by torch.export.
    """

    module: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    foreign: Foreign

    @functools.cached_property
    def subject(self) -> Subject:
        return Subject.of(self.foreign.model)


@pytest.fixture(scope="session")
def small() -> Callable[[str], Small]:
    from benchmarks.models.zoo import SMALL
    from codesign.frontend.torch_export import from_module

    @functools.cache
    def make(name: str) -> Small:
        module, inputs = SMALL[name].make()
        return Small(module, inputs, from_module(module, inputs, name, {}))

    return make
