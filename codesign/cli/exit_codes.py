"""How a command ends: 0 done, 2 the user's input, 1 ours, 130 stopped by Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from codesign.cli.console import err
from targets.errors import CodesignError


@contextmanager
def exit_codes() -> Iterator[None]:
    """Turns errors of the commands run within into a message and the end of the process."""
    with _Interrupts() as interrupts:
        try:
            yield
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
