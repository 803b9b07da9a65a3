"""What a reader should not miss of how a run went: whether times are emulated, its devices, why it ended."""

from __future__ import annotations

from codesign.device import target_key
from codesign.frontier import Frontier
from codesign.loop.candidates import Judge
from codesign.loop.rounds import Rounds
from codesign.records.transfer import all_transfers, summary

_MOST_INCIDENTS = 8


def device_notes(judge: Judge) -> list[str]:
    """What went wrong with devices and what it cost; how much earlier records of others helped."""
    workshop = judge.workshop
    found = []
    if (fleet := workshop.rig.fleet) is not None:
        diary = fleet.diary
        agreed = [m.meta["difference"] for m in judge.compared]
        if agreed:
            found.append(
                f"the outputs on the device equal this machine's: largest relative difference "
                f"{max(agreed):.1e} over {len(agreed)} candidates"
            )
        found.append(
            f"devices: {_count(len(diary.incidents), 'incident')}, {diary.lost:.0f} s lost; the longest "
            f"wait was {diary.longest_wait:.0f} s"
            + (
                f", for {diary.longest_wait_for.replace('_', ' ')}"
                if diary.longest_wait_for
                else ""
            )
        )
        found += [f"device {incident}" for incident in diary.incidents[:_MOST_INCIDENTS]]
    moved = all_transfers(workshop.records, target_key(workshop.target), workshop.device)
    return [*found, summary(moved)] if moved else found


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def ending_note(rounds: Rounds) -> list[str]:
    """That the minutes were over before the search was, if they were."""
    budget = rounds.config.budget
    if not rounds.out_of_time or budget.minutes is None:
        return []
    tried, most = len(rounds.judged), budget.measurements
    if most is not None and tried >= most:
        return []
    of = f" of {most}" if most is not None else ""
    return [
        f"the budget of {budget.minutes:g} minutes was over after {tried}{of} candidates; the same command, "
        "with more minutes if wanted, goes on from there"
    ]


def emulated_note(frontier: Frontier) -> list[str]:
    """That no time is a device's, where an emulator measured."""
    if not frontier.emulated:
        return []
    return [
        "EMULATED: all times are an emulator's, or a processor's that ran the code of a GPU. They show that "
        "the whole way works, and say nothing about the speed of any device"
    ]
