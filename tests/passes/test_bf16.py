"""Where bfloat16 is offered; what it has in common with float16 is in test_half."""

from __future__ import annotations

import pytest

from passes.bf16 import Bf16, Bf16Config, choices
from passes.sites import Linear
from targets.target import find

SITE = Linear("fc", "fc.w", "fc.b", 128, 384, 1536)


@pytest.mark.parametrize("name", ["znver4", "znver5", "sapphirerapids"])
def test_offered_where_there_is_an_instruction(name):
    assert choices(SITE, find(name)) == ([Bf16()], [])


def test_refused_where_there_is_none_unless_asked_for():
    offers, refusals = choices(SITE, find("icelake-server"))
    assert offers == []
    assert "icelake-server has no instruction for bfloat16" in refusals[0].reason
    anyway = Bf16Config(needs_instruction=False)
    assert choices(SITE, find("icelake-server"), anyway) == ([Bf16()], [])
