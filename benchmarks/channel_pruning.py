"""What channel pruning gains on a CNN: a share of the multiply-adds against a share of the latency.

    python -m benchmarks.channel_pruning --share 0.5 --threads 1 -o runs/channels

Builds ResNet-50 dense, and pruned to a share of its multiply-adds with every width a multiple of the
target's step, both through the same compiler, and times them in turn. The weights are random: the
figures say something about latency and nothing about accuracy.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.models.resnet import resnet50
from codesign.device import this_device
from codesign.loop.workshop import Workshop
from codesign.measure import Rig
from codesign.measurement import Protocol
from codesign.prepare import prepare
from codesign.progress import progress_for
from codesign.records import Records
from codesign.station import Station
from passes.channels.budget import most_important, ranked_widths, uniform_widths
from passes.channels.groups import ChannelGroup, find_groups
from passes.channels.importance import magnitude
from passes.channels.macs import macs
from passes.channels.prune import prune_channels
from passes.model import Model
from targets.target import Target, find


@dataclass(frozen=True)
class Outcome:
    """Dense and pruned, timed in turn.

    Attributes:
        ratio: median over the sweeps of pruned over dense latency.
        narrowest: the smallest share of its channels that a group keeps.
        off_step: groups whose width is neither full nor a multiple of the step: none.
    """

    model: str
    weights: str
    device: str
    target: str
    threads: int
    widths: str
    dense_macs: int
    pruned_macs: int
    dense_ms: float
    pruned_ms: float
    dense_interval_ms: tuple[float, float]
    pruned_interval_ms: tuple[float, float]
    ratio: float
    groups: int
    narrowest: float
    off_step: int

    def line(self) -> str:
        """For people."""
        return (
            f"{self.model}, {self.weights}, {self.threads} thread(s): "
            f"{self.dense_macs / 1e9:.2f} to {self.pruned_macs / 1e9:.2f} G multiply-adds "
            f"({self.pruned_macs / self.dense_macs:.3f}), {self.dense_ms:.2f} to {self.pruned_ms:.2f} ms, "
            f"{1 / self.ratio:.2f}x ({self.ratio:.3f} of the time; {self.widths} widths)"
        )


def prune(model: Model, share: float, ranked: bool, target: Target) -> tuple[Model, Widths]:
    """The model with a share of its multiply-adds, the largest units kept."""
    groups, _ = find_groups(model)
    importance = {g: magnitude(model, g) for g in groups}
    if ranked:
        widths = ranked_widths(model, importance, share, target)
    else:
        widths = uniform_widths(model, groups, share, target)
    keep = {g: most_important(importance[g], w) for g, w in widths.items()}
    return prune_channels(model, keep)[0], widths


Widths = Mapping[ChannelGroup, int]


def measure(given: argparse.Namespace) -> Outcome:
    """Build both models and time them."""
    target = find("host", given.threads)
    torch.manual_seed(0)
    image = torch.randn(1, 3, given.size, given.size)
    dense = prepare((resnet50(given.width), (image,))).model
    pruned, widths = prune(dense, given.share, given.ranked, target)
    folder: Path = given.output
    protocol = Protocol(threads=given.threads, repeats=given.repeats)
    with (
        progress_for(False) as progress,
        Records(folder / "records.sqlite") as records,
        Rig(target, Protocol(threads=given.threads)) as rig,
        Rig(target, protocol) as end_to_end,
    ):
        workshop = Workshop(
            Station(target, this_device(), rig), records, given.trials, folder / "traces", progress
        )
        paths = [
            workshop.build(model, folder / name).bundle.path
            for name, model in (("dense", dense), ("pruned", pruned))
        ]
        first, second = end_to_end.bundles(paths, reference=paths[0])
    return Outcome(
        f"ResNet-50 {given.size}x{given.size}" + (f" width {given.width:g}" * (given.width != 1)),
        "random weights",
        this_device(),
        target.name,
        given.threads,
        "ranked" if given.ranked else "uniform",
        macs(dense),
        macs(pruned),
        first.seconds * 1e3,
        second.seconds * 1e3,
        (first.lo * 1e3, first.hi * 1e3),
        (second.lo * 1e3, second.hi * 1e3),
        second.ratio,
        len(widths),
        min(w / g.size for g, w in widths.items()),
        sum(w != g.size and w % g.step(target) != 0 for g, w in widths.items()),
    )


def main() -> None:
    """Print one line; write the outcome."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--share", type=float, default=0.5, help="of the multiply-adds kept")
    parser.add_argument("--ranked", action="store_true", help="widths by importance, not uniform")
    parser.add_argument("--size", type=int, default=224, help="of the image")
    parser.add_argument("--width", type=float, default=1.0, help="multiplier of all channels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--trials", type=int, default=4, help="schedules tried for each kernel")
    parser.add_argument("--repeats", type=int, default=20, help="timed blocks of each model")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/channels"))
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    outcome = measure(given)
    print(outcome.line())
    if given.json:
        given.json.write_text(json.dumps(asdict(outcome), indent=2))


if __name__ == "__main__":
    main()
