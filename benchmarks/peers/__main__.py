"""``python -m benchmarks.peers``: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.peers import artifacts, cpu
from benchmarks.peers.artifacts import Artifact
from benchmarks.peers.contestants import MODELS, OPTIONAL, REQUIRED, Contestant, fitting, ours
from benchmarks.peers.environments import HOME, RUNTIMES, EnvironmentFailedError, make, variables
from benchmarks.peers.interleave import measure
from benchmarks.peers.process import ContestantFailedError, Process
from benchmarks.peers.table import row, text, verdict

LOAD_DEADLINE_S = 300.0
CHECK_DEADLINE_S = 300.0
STARTED = time.perf_counter()


def say(message: str) -> None:
    """Progress, on standard error."""
    print(f"[{time.perf_counter() - STARTED:6.1f} s] {message}", file=sys.stderr, flush=True)


def bundle(value: str) -> tuple[str, Path]:
    """``name=path`` of a bundle's folder."""
    name, equals, path = value.partition("=")
    if not (name and equals and Path(path).is_dir()):
        raise argparse.ArgumentTypeError(f"{value}: expected name=folder of a bundle")
    return name, Path(path).resolve()


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--model", choices=tuple(MODELS), default="minilm")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument(
        "--bundle", type=bundle, action="append", default=[], metavar="NAME=FOLDER",
        help="a bundle of ours, NAME as its dtype (fp32..., int8...); may be repeated; "
        "without any, the model is compiled in fp32 and in int8",
    )  # fmt: skip
    parser.add_argument(
        "--peers", nargs="*", choices=(*REQUIRED, *OPTIONAL), default=(*REQUIRED, *OPTIONAL),
        help="default: all; those that cannot be installed are left out, except for "
        + ", ".join(REQUIRED),
    )  # fmt: skip
    parser.add_argument("--no-ours", action="store_true", help="only the peers")
    parser.add_argument("--sweeps", type=int, default=20, help="quiet sweeps wanted (20)")
    parser.add_argument(
        "--max-foreign", type=float, default=0.15, metavar="CORES",
        help="a sweep counts if other processes used no more than this (0.15)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def gather(args: argparse.Namespace) -> tuple[list[tuple[Contestant, Artifact]], list[str]]:
    """Everybody with a file to run, and what of the required could not be made."""
    ready: list[tuple[Contestant, Artifact]] = []
    missing: list[str] = []
    base = artifacts.reference(args.model)
    for runtime in args.peers:
        say(f"{runtime}: environment and conversion, minutes if they are new")
        made: dict[str, Artifact] = {}
        try:
            make(RUNTIMES[runtime])
            made = {**base, **artifacts.converted(runtime, args.model)}
        except EnvironmentFailedError as failure:
            say(str(failure))
        for contestant in fitting(args.model, (runtime,), cpu.flags()):
            if contestant.artifact in made:
                ready.append((contestant, made[contestant.artifact]))
            elif runtime in REQUIRED:
                missing.append(contestant.name)
    if not args.no_ours:
        say("ours: bundles")
        given = {name: Artifact(path, math.nan) for name, path in args.bundle}
        bundles = given or artifacts.our_bundles(args.model, args.threads)
        ready.extend((ours(name, str(made.path)), made) for name, made in bundles.items())
    return ready, missing


def start(contestant: Contestant, stack: ExitStack) -> Process:
    """Its process, not yet loaded."""
    own = contestant.runtime == "codesign"
    environment = None if own else RUNTIMES[contestant.runtime]
    python = Path(sys.executable) if environment is None else environment.python
    log = stack.enter_context((HOME / f"run-{contestant.name.replace(' ', '-')}.log").open("w"))
    return stack.enter_context(Process(python, variables(environment), log))


def compare(args: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str], list[str]]:
    """Run the whole comparison: rows, verdict, and the required contestants that are missing."""
    ready, missing = gather(args)
    data = str(HOME / "artifacts" / args.model / "check.npz")
    loaded: dict[str, dict[str, float]] = {}
    failures: dict[str, str] = {}
    rows = []
    with ExitStack() as stack:
        processes = {}
        for contestant, artifact in ready:
            process = start(contestant, stack)
            arguments = {"path": str(artifact.path), "options": dict(contestant.options)}
            try:
                loaded[contestant.name] = process.ask(
                    "load", LOAD_DEADLINE_S, runtime=contestant.runtime, threads=args.threads,
                    data=data, **arguments,
                )  # fmt: skip
            except ContestantFailedError as failure:
                failures[contestant.name] = str(failure)
                process.close()
            else:
                processes[contestant.name] = process
        say(f"{len(processes)} contestants loaded: {', '.join(processes)}")
        sweeps, dropped = measure(processes, args.sweeps, args.max_foreign, args.seed, say)
        failures.update(dropped)
        for contestant, artifact in ready:
            if contestant.name in failures:
                continue
            try:
                error = processes[contestant.name].ask("check", CHECK_DEADLINE_S)
            except ContestantFailedError as failure:
                failures[contestant.name] = str(failure)
                continue
            rows.append(
                row(args.model, args.threads, contestant, artifact, loaded[contestant.name], error,
                    sweeps)
            )  # fmt: skip
    for name, why in failures.items():
        say(f"{name} is out: {why} (see {HOME}/run-{name.replace(' ', '-')}.log)")
    needed = {c.name for c, _ in ready if c.runtime in (*REQUIRED, "codesign")}
    return rows, verdict(rows, sweeps), [*missing, *sorted(needed & failures.keys())]


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 if a required contestant is missing; the rows of the others are written."""
    args = parse(argv)
    try:
        rows, lines, missing = compare(args)
    except EnvironmentFailedError as failure:
        say(str(failure))
        return 1
    if args.json:
        finite = [
            {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in r.items()}
            for r in rows
        ]
        args.json.write_text(json.dumps(finite, indent=2) + "\n")
    weights = MODELS[args.model].weights
    print(f"{args.model} ({weights} weights), batch 1, 128 tokens, {args.threads} thread(s), "
          f"{cpu.name()}; interleaved blocks, medians with 95 % intervals")  # fmt: skip
    print(text(rows))
    for line in lines:
        print(line)
    if rows and not rows[0]["quiet"]:
        print("WARNING: other processes used the CPU in nearly every sweep; do not quote the times")
    if missing:
        print(f"required, but missing: {', '.join(missing)}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
