"""The command line: every command prints for people, and with ``--json`` for programs.

Exit codes: 0 done, 2 the user's input, 1 ours. TVM and torch are imported inside the commands, so that
``--help`` and ``codesign report`` start at once.
"""

from __future__ import annotations

import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from codesign import cli_records, cli_targets
from codesign.console import JsonFlag, emit, err, out
from codesign.devices.cli import DEFAULT_TRACKER, TrackerAt, devices_app
from codesign.errors import UserError
from codesign.versions import require
from targets.errors import CodesignError

app = typer.Typer(
    name="codesign",
    help="Finds the compressed versions of a trained model that are really fastest on a device.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.add_typer(devices_app, name="devices")
app.add_typer(cli_records.app, name="records")
app.add_typer(cli_targets.app, name="targets")

TargetName = Annotated[
    str,
    typer.Option(
        "--target",
        "-t",
        help="A name from `codesign targets`, with +feature if wanted, or a TOML file; "
        "default: this machine.",
    ),
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of the model.")]
DeviceKey = Annotated[
    str | None,
    typer.Option("--device", help="Measure on the devices of this key, over RPC; see `devices`."),
]
TrackerAddress = Annotated[
    str | None,
    typer.Option(
        "--tracker",
        envvar="CODESIGN_TRACKER",
        help="HOST:PORT of the tracker that knows them; default: 127.0.0.1:9190.",
    ),
]
Cpus = Annotated[
    str, typer.Option("--cpus", help="Processors of the device to run on, such as 4-7.")
]
Emulated = Annotated[
    int,
    typer.Option(
        "--emulated",
        min=0,
        max=16,
        help="Start so many emulated ARM devices and measure on them: for function, not for time.",
    ),
]
Dims = Annotated[
    list[str] | None,
    typer.Option("--dim", help="Bind a dynamic dimension, as in --dim seq=128. May be repeated."),
]


NEEDS_NO_TVM = ("devices", "doctor", "report", "records")


@contextmanager
def _devices(
    key: str | None, tracker: str | None, emulated: int
) -> Iterator[tuple[str | None, str | None]]:
    """Key and tracker of the devices that measure; emulated ones are started, and end with the command."""
    if not emulated:
        yield key, tracker
        return
    from codesign.devices.emulated import emulated_devices
    from codesign.devices.emulator import KEY

    with emulated_devices(emulated, key or KEY, say=lambda t: err.print(t, markup=False)) as fleet:
        yield fleet.key, fleet.tracker


@app.callback()
def _check(context: typer.Context) -> None:
    """Finds the compressed versions of a trained model that are really fastest on a device."""
    if context.invoked_subcommand not in NEEDS_NO_TVM:
        require()


def parse_dims(pairs: list[str] | None) -> dict[str, int]:
    """``["seq=128"]`` as ``{"seq": 128}``; anything else is the user's error."""
    dims: dict[str, int] = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not (name and equals and value.isdigit() and int(value) > 0):
            raise UserError(
                "a dimension could not be read",
                got=f"--dim {pair}",
                allowed="NAME=SIZE with a positive whole number",
                next="codesign compile model.onnx --dim batch=1 --dim seq=128",
            )
        dims[name] = int(value)
    return dims


@app.command(
    epilog="Examples: codesign compile model.onnx --int8 --threads 2 -o build/model | "
    "codesign compile model.onnx -t host -t raspberry-pi-4 -t pixel-8/gpu -o build/all"
)
def compile(
    model: Annotated[
        str, typer.Argument(help="An .onnx file, an exported .pt2, or module.py:function.")
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="A name from `codesign targets`; default: this machine. May be repeated: then a "
            "folder with a bundle for each.",
        ),
    ] = None,
    threads: Threads = 1,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    emulated: Emulated = 0,
    cpus: Cpus = "",
    trials: Annotated[int, typer.Option(min=1, help="Schedules tried for each kernel.")] = 8,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the bundle.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="All linear layers in dynamic int8; no other change.")
    ] = False,
    int8_attention: Annotated[
        bool, typer.Option("--int8-attention", help="The products of attention in int8.")
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="All linear layers and convolutions in bfloat16.")
    ] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", help="All linear layers and convolutions in float16.")
    ] = False,
    codebook: Annotated[
        int,
        typer.Option(min=0, max=256, help="Values that weights of a layer take, for size; 0: any."),
    ] = 0,
    dim: Dims = None,
    as_json: JsonFlag = False,
) -> None:
    """Import, lower, tune and build a model without pruning it, and write a bundle."""
    from codesign.compile import Formats, compile_model
    from codesign.compile_many import compile_targets
    from codesign.progress import progress_for

    names = target or ["host"]
    if len(names) > 1:
        if device is not None or emulated:
            given = f"--device {device}" if device is not None else f"--emulated {emulated}"
            raise UserError(
                "a device is one target", got=f"{given} and {len(names)} targets",
                allowed="a device with one --target, or none",
                next="codesign compile for each device, or leave it away: nothing is measured then",
            )  # fmt: skip
        formats = Formats(int8, int8_attention, bf16, fp16, codebook)
        with progress_for(as_json) as progress:
            made = compile_targets(
                model,
                names,
                threads=threads,
                trials=trials,
                output=output,
                formats=formats,
                dims=parse_dims(dim),
                progress=progress,
            )
        if as_json:
            emit(made.as_dict())
        else:
            out.print(made.table())
        if not made.ok:
            raise typer.Exit(2)
        return
    with progress_for(as_json) as progress, _devices(device, tracker, emulated) as (key, at):
        built = compile_model(
            model,
            target=names[0],
            threads=threads,
            device=key,
            tracker=at,
            cpus=cpus,
            trials=trials,
            output=output,
            int8=int8,
            int8_attention=int8_attention,
            bf16=bf16,
            fp16=fp16,
            codebook=codebook,
            dims=parse_dims(dim),
            progress=progress,
        )
    if as_json:
        emit(built.as_dict())
    else:
        out.print(built.table())
        if built.fusions:
            out.print(built.fusion_table())


@app.command(
    epilog="Examples: codesign sweep examples/minilm.toml | "
    "codesign sweep examples/minilm.toml --max-loss 0.02 --minutes 20 -o runs/second"
)
def sweep(
    config: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="Overrides the file.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Overrides.")] = None,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    emulated: Emulated = 0,
    cpus: Cpus = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Overrides.")] = None,
    max_latency_ms: Annotated[
        float | None, typer.Option(help="Goal: at most this latency.")
    ] = None,
    min_quality: Annotated[float | None, typer.Option(help="Goal: at least this quality.")] = None,
    max_loss: Annotated[
        float | None, typer.Option(help="Goal: at most this relative loss of quality (0.01 = 1 %).")
    ] = None,
    max_size_mb: Annotated[
        float | None, typer.Option(help="Goal: bundles of at most so many MB (1e6 bytes).")
    ] = None,
    size: Annotated[
        bool | None,
        typer.Option("--size/--no-size", help="Goal: small bundles too; offers codebooks."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Budget in minutes.")] = None,
    measurements: Annotated[
        int | None, typer.Option(help="Budget in candidates built and measured.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Search for the frontier of latency, quality and, if asked, size; it goes on after a stop."""
    from codesign.config import load_config, override
    from codesign.progress import progress_for
    from codesign.sweep import run_sweep

    with progress_for(as_json) as progress, _devices(device, tracker, emulated) as (key, at):
        settings = override(
            load_config(config),
            target=target,
            threads=threads,
            device=key,
            tracker=at,
            cpus=cpus or None,
            output=output,
            max_latency_ms=max_latency_ms,
            min_quality=min_quality,
            max_loss=max_loss,
            max_size_mb=max_size_mb,
            size=size,
            minutes=minutes,
            measurements=measurements,
        )
        result = run_sweep(settings, progress=progress, command=sys.argv)
    if as_json:
        emit(result.as_dict())
    else:
        for table in result.tables():
            out.print(table)


@app.command(
    epilog="Examples: codesign bench runs/demo/bundles/p03 --repeats 50 | "
    "codesign bench build/model --sustained 5 --cores big --max-temperature 45"
)
def bench(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    repeats: Annotated[int, typer.Option(min=3, help="Timed blocks.")] = 30,
    sustained: Annotated[
        float, typer.Option(min=0, help="Minutes of work without a pause: what can be kept up.")
    ] = 0.0,
    cores: Annotated[
        str, typer.Option("--cores", help="Where it runs: all, big, little, or as in 0-3,6.")
    ] = "all",
    max_temperature: Annotated[
        float | None, typer.Option(help="Wait until no part of the machine is hotter, in °C.")
    ] = None,
    patience: Annotated[
        float, typer.Option(min=0, help="Longest wait for --max-temperature, in seconds.")
    ] = 300.0,
    meter: Annotated[
        str | None,
        typer.Option(help='A command that prints a meter\'s {"joules": N} or {"watts": N}.'),
    ] = None,
    device: DeviceKey = None,
    tracker: TrackerAddress = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a bundle here or on a device: latency, and if asked a long run; energy where it is told."""
    from codesign.bench import Conditions, bench_bundle, bench_on_device
    from codesign.where import Where

    def say(text: str) -> None:
        err.print(text, markup=False)

    conditions = Conditions(
        minutes=sustained,
        cores=cores,
        max_temperature_c=max_temperature,
        patience_seconds=patience,
        meter=tuple(shlex.split(meter)) if meter is not None else None,
    )
    if device is None:
        result = bench_bundle(bundle, repeats, conditions, say=say)
    else:
        where = Where(device=device, tracker=tracker)
        result = bench_on_device(bundle, where, repeats, conditions, say=say)
    if as_json:
        emit(result.as_dict())
    else:
        for table in result.tables():
            out.print(table)
        for line in result.lines():
            out.print(line, markup=False, highlight=False)


@app.command(epilog="Example: codesign run runs/demo/bundles/p03 --input x.npz -o y.npz")
def run(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.")],
    inputs: Annotated[
        Path, typer.Option("--input", "-i", help="An .npz with one array per input.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .npz to write.")],
    as_json: JsonFlag = False,
) -> None:
    """Run a bundle on the arrays of an .npz file and write its outputs to another."""
    from codesign.runtime import run_files

    shapes = run_files(bundle, inputs, output)
    if as_json:
        emit({"output": str(output), "outputs": shapes})
    else:
        for name, shape in shapes.items():
            out.print(f"{name}: {shape}")
        out.print(f"written to {output}")


@app.command(epilog="Example: codesign report runs/demo")
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a sweep.")], as_json: JsonFlag = False
) -> None:
    """Draw report.html and frontier.png of a run again from what is stored in it."""
    from codesign.report import redraw

    paths = redraw(run)
    if as_json:
        emit({k: str(v) for k, v in paths.items()})
    else:
        for path in paths.values():
            out.print(f"written: {path}")


@app.command(
    epilog="Examples: codesign widths --linear 128x384x1536 | "
    "codesign widths --conv 56x56x64x256 --kernel 1 --sweep in --every 8"
)
def widths(
    linear: Annotated[
        str | None, typer.Option("--linear", help="A linear layer: ROWSxINPUTSxOUTPUTS.")
    ] = None,
    conv: Annotated[
        str | None, typer.Option("--conv", help="A convolution: HEIGHTxWIDTHxINPUTSxOUTPUTS.")
    ] = None,
    kernel: Annotated[int, typer.Option(min=1, help="Size of its square kernel.")] = 3,
    stride: Annotated[int, typer.Option(min=1, help="Of the convolution.")] = 1,
    side: Annotated[
        str, typer.Option("--sweep", help="Which channels are varied: in or out.")
    ] = "out",
    first: Annotated[int | None, typer.Option(min=1, help="The narrowest width.")] = None,
    every: Annotated[
        int | None,
        typer.Option(min=1, help="Distance of the widths; default: around the edges of blocks."),
    ] = None,
    target: TargetName = "host",
    threads: Threads = 1,
    trials: Annotated[int, typer.Option(min=1, help="Schedules tried for each width.")] = 2,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the plot and the records.")
    ] = Path("build/widths"),
    as_json: JsonFlag = False,
) -> None:
    """Measure and plot a layer's latency against its width, and say which widths are worth having."""
    from codesign.progress import progress_for
    from codesign.widths import measure_widths, parse_layer, parse_side

    layer = parse_layer(linear, conv, kernel, stride)
    with progress_for(as_json) as progress:
        measured = measure_widths(
            layer,
            parse_side(side),
            target=target,
            threads=threads,
            trials=trials,
            first=first,
            every=every,
            output=output,
            progress=progress,
        )
    if as_json:
        emit(measured.as_dict())
    else:
        out.print(measured.table())


@app.command(
    epilog="Examples: codesign doctor | codesign doctor --device pi5 --tracker 192.168.1.10:9190"
)
def doctor(
    device: Annotated[
        str | None, typer.Option("--device", help="Check a device of this key, not this machine.")
    ] = None,
    tracker: TrackerAt = DEFAULT_TRACKER,
    machine: Annotated[
        str | None, typer.Option(help="The device's `uname -m`, if its server does not tell.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check versions, linker, processor and a real kernel; say the command that mends what is wrong."""
    from codesign.doctor import examine, healthy

    if device is None:
        checks = examine()
    else:
        from codesign.devices.doctor import examine_device
        from codesign.devices.serving import tracker_address

        checks = examine_device(device, tracker_address(tracker), machine=machine)
    if as_json:
        emit([check.to_json() for check in checks])
    else:
        from codesign.listing import doctor_table

        out.print(doctor_table(checks))
    if not healthy(checks):
        raise typer.Exit(1)


def main(argv: list[str] | None = None) -> None:
    """Entry point of the ``codesign`` command: turns errors into exit codes."""
    with _Interrupts() as interrupts:
        try:
            app(args=argv)
        except CodesignError as error:
            # not wrapped: paths and commands are to be copied
            err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(getattr(error, "exit_code", 2))
        except KeyboardInterrupt:
            _stopped()
        except SystemExit as ending:  # typer makes one of Ctrl-C, without a word
            if interrupts.seen and ending.code == 130:
                _stopped()
            raise
        except Exception:
            if interrupts.seen:
                _stopped()
            traceback.print_exc()
            err.print(
                "this is an error of codesign; please report it with the lines above", style="red"
            )
            sys.exit(1)


def _stopped() -> NoReturn:
    err.print("stopped; the same command goes on from here", style="yellow")
    sys.exit(130)


class _Interrupts:
    """Remembers Ctrl-C: one that comes while TVM calls back into Python is raised as another error."""

    seen = False

    def __enter__(self) -> _Interrupts:
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *raised: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.seen = True
        raise KeyboardInterrupt
