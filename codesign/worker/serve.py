"""The child's loop: read a request, do it, write the answer, until the pipe closes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from codesign.worker import building, frames, over_rpc, place, sessions, timing

_ERROR_LENGTH = 4000
_ERROR_HEAD = 500

Handler = Callable[[Mapping[str, Any], tuple[bytes, ...]], "tuple[Any, list[memoryview]]"]


def serve(requests: int, answers: int) -> None:
    """Answer every frame read from the pipe ``requests`` on the pipe ``answers``."""
    while (frame := _next_frame(requests)) is not None:
        header, blobs = _answer(frame)
        sys.stdout.flush()
        for piece in frames.encode(header, blobs):
            while len(piece):
                piece = piece[os.write(answers, piece) :]


def _next_frame(fd: int) -> frames.Frame | None:
    decoder = frames.Decoder()
    while data := os.read(fd, min(decoder.needed(), 1 << 24)):
        frame = decoder.feed(data)
        if frame is not None:
            return frame
    return None


def _answer(frame: frames.Frame) -> tuple[dict[str, Any], list[memoryview]]:
    try:
        result, blobs = _handler(frame.header["op"])(frame.header["params"], frame.blobs)
    except Exception as error:
        kind = error.kind if isinstance(error, over_rpc.DeviceError) else place.place().blame()
        return {"ok": False, "error": error_text(error), "kind": kind}, []
    return {"ok": True, "result": result}, blobs


def _handler(op: str) -> Handler:
    match op:
        case "ping":
            return timing.ping
        case "build_kernels":
            return building.build_kernels
        case "build_model":
            return building.build_model
        case "time_kernel":
            return timing.time_kernel
        case "run_kernel":
            return timing.run_kernel
        case "load_bundle":
            return sessions.load_bundle
        case "run_bundle":
            return sessions.run_bundle
        case "time_bundles":
            return sessions.time_bundles
        case "forget":
            return sessions.forget
        case "open_session":
            return over_rpc.open_session
        case "close_session":
            return over_rpc.close_session
        case "ask_device":
            return over_rpc.ask_device
    raise ValueError(f"no such request: {op}")


def error_text(error: Exception) -> str:
    """The type and the end of the message: TVM puts pages of stack in front of the reason."""
    text = f"{type(error).__name__}: {error}"
    if len(text) > _ERROR_LENGTH:
        text = f"{text[:_ERROR_HEAD]}\n...\n{text[_ERROR_HEAD - _ERROR_LENGTH :]}"
    return text
