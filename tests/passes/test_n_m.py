"""N:M sparsity is refused on every target, with its reason, wherever sparsity is looked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from codesign.loop.formats import formats_for
from passes.n_m import NMConfig, choices
from passes.sites import Linear
from targets.kernels.window import Window
from targets.target import KNOWN, Target

SITE = Linear("fc", "fc.w", "fc.b", 128, 384, 1536)
CONV = Linear("c", "c.w", "c.b", 64, 288, 64, Window(8, 8, 32, (3, 3), padding=(1, 1, 1, 1)))
ARM = Target("arm", "cortex-a76", frozenset({"neon", "fullfp16"}), 128, 32)


@pytest.mark.parametrize("target", [*KNOWN.values(), ARM], ids=lambda t: t.name)
def test_no_processor_multiplies_such_operands(target):
    offers, (refusal,) = choices(SITE, target)
    assert offers == []
    assert (refusal.site, refusal.op) == ("fc", "sparse 2:4")
    assert f"{target.name} has no instruction that multiplies" in refusal.reason
    assert "1/density instead" in refusal.reason


def test_one_that_does_is_told_that_the_kernel_is_missing():
    newest = replace(ARM, name="newest", features=ARM.features | {"sme-tmop"})
    _, (refusal,) = choices(SITE, newest, NMConfig(1, 4))
    assert refusal.op == "sparse 1:4"
    assert "no kernel for the sparse outer products of newest" in refusal.reason


@pytest.mark.parametrize("site", [SITE, CONV], ids=["linear", "conv"])
def test_a_sweep_tells_it_where_sparsity_is_enabled(site):
    target = KNOWN["sapphirerapids"]
    _, refusals = formats_for(site, target, ("sparse", "int8"))
    assert [r.op for r in refusals if ":" in r.op] == ["sparse 2:4"]
    assert not [r for r in formats_for(site, target, ("int8",))[1] if ":" in r.op]
