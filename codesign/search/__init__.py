"""From tables of measured latency and measured sensitivity to the next candidates."""

from codesign.search.changes import Change, changes
from codesign.search.correct import Correction, Observation, learn, learn_together
from codesign.search.dp import Plan, solve
from codesign.search.propose import Limits, propose, propose_among
from codesign.search.sizes import saved_share, solve_sized
from codesign.search.tables import Group, Layer, Option, Tables
from codesign.search.veto import veto_slow

__all__ = [
    "Change",
    "Correction",
    "Group",
    "Layer",
    "Limits",
    "Observation",
    "Option",
    "Plan",
    "Tables",
    "changes",
    "learn",
    "learn_together",
    "propose",
    "propose_among",
    "saved_share",
    "solve",
    "solve_sized",
    "veto_slow",
]
