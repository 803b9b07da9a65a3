"""Who takes part: every runtime, with every number format that it offers for a transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class ModelCard:
    """What the table says about a model; `models` builds it."""

    weights: str  # "pretrained", or "random": then only latency and parity mean anything
    width: int  # of the hidden state


MODELS = {"minilm": ModelCard("pretrained", 384), "bert-base": ModelCard("random", 768)}


@dataclass(frozen=True)
class Contestant:
    """One row of the comparison.

    Attributes:
        runtime: the peer; its environment, session and converter have this name.
        dtype: what it computes in, in the words of the result table.
        artifact: the file, made by the runtime's converter, that its session opens.
        how: how the format was made, with the names of the peer's own tools.
        options: what its session is told besides path and threads.
        cpu_flag: the CPU must have this flag, as /proc/cpuinfo spells it.
    """

    runtime: str
    dtype: str
    artifact: str
    how: str
    options: Mapping[str, object] = field(default_factory=dict)
    cpu_flag: str = ""

    @property
    def name(self) -> str:
        return f"{self.runtime} {self.dtype}"


REQUIRED = ("onnxruntime", "litert", "openvino")
"""Without one of these there is no comparison: the run fails. The others take part if they can."""

OPTIONAL = ("executorch", "ncnn", "mnn")


def peers(model: str) -> tuple[Contestant, ...]:
    """Every peer in every format, for one of `MODELS`."""
    f32 = {"INFERENCE_PRECISION_HINT": "f32"}
    per_token = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": MODELS[model].width}  # one scale for each row
    low = {"memory": "low"}  # MNN's word for dynamic quantisation
    return (
        Contestant("onnxruntime", "fp32", "model.onnx", "torch.onnx"),
        Contestant("onnxruntime", "int8", "int8.onnx", "quantize_dynamic, per channel"),
        Contestant("litert", "fp32", "model.tflite", "litert-torch, XNNPACK"),
        Contestant("litert", "int8", "int8.tflite", "dynamic_wi8_afp32, XNNPACK"),
        Contestant("openvino", "fp32", "model.xml", "INFERENCE_PRECISION_HINT=f32", f32),
        Contestant("openvino", "bf16", "model.xml", "its default on this CPU", {}, "avx512_bf16"),
        Contestant("openvino", "int8 static", "static.xml", "nncf.quantize, transformer", f32),
        Contestant(
            "openvino", "int8", "weights8.xml", "compress_weights INT8_SYM, dynamic per token",
            {**f32, **per_token},
        ),
        Contestant("executorch", "fp32", "model.pte", "XNNPACK"),
        Contestant("executorch", "int8", "int8.pte", "XNNPACKQuantizer dynamic, per channel"),
        Contestant("ncnn", "fp32", "model.ncnn.param", "pnnx"),
        Contestant("mnn", "fp32", "model.mnn", "mnnconvert --transformerFuse"),
        Contestant("mnn", "int8", "int8.mnn", "mnnconvert --weightQuantBits 8", low),
    )  # fmt: skip


def fitting(model: str, runtimes: tuple[str, ...], cpu_flags: frozenset[str]) -> list[Contestant]:
    """The contestants of these runtimes that this CPU can run."""
    chosen = (c for c in peers(model) if c.runtime in runtimes)
    return [c for c in chosen if not c.cpu_flag or c.cpu_flag in cpu_flags]


def ours(dtype: str, bundle: str) -> Contestant:
    """A bundle of this project as a contestant; ``dtype`` is the name it gets in the table."""
    return Contestant("codesign", dtype, bundle, "bundle")
