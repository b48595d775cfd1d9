"""ONNX Runtime: the portable back end. It serves the CPU; other devices are named, not used.

engine.py      a bundle's graphs as ONNX Runtime sessions
inplace.py     a graph changed so that it writes keys and values where they stay
wire.py        protocol buffers, read and written
trying.py      whether rows are the same bits in any step
segments.py    which tensors a graph takes and gives, and whether it does
encoder.py     a source, run through the encoder's graph
session.py     one conversation
bindings.py    the buffers of a step, bound once per shape
buffers.py     numpy's memory as ONNX Runtime sees it
keyvalues.py   keys and values of all rows
lanes.py       which row lies where
masks.py       who sees whom and how far apart, as numbers to add to the scores
"""

from __future__ import annotations

from importlib import metadata, util
from typing import TYPE_CHECKING

from edgedec import cores
from edgedec.devices import Device, EngineOptions
from edgedec.errors import DeviceError, UsageError

if TYPE_CHECKING:
    from edgedec.bundle import Bundle

    from .engine import Onnx

PREFERENCE = 20
FORM = "onnx"

_ELSEWHERE = {
    "cuda": ("CUDA", "onnxruntime-gpu"),
    "gpu": (
        "DirectML, WebGPU or CoreML",
        "onnxruntime-directml, onnxruntime-webgpu or onnxruntime on macOS",
    ),
    "npu": (
        "QNN or OpenVINO",
        "onnxruntime-qnn (extra edgedec[qnn]) or openvino (extra edgedec[openvino])",
    ),
}
"""Device name -> ONNX Runtime's way to it and the package that brings that."""


def devices() -> list[Device]:
    """The CPU, and what ONNX Runtime could drive but this runtime does not."""
    problem = None
    if util.find_spec("onnxruntime") is None:
        problem = "the package onnxruntime is missing: pip install onnxruntime"
    cpu = Device("cpu", "onnx", f"ONNX Runtime {_version()}, {cores.physical()} cores", problem)
    return [
        cpu,
        *(Device(name, "onnx", _ELSEWHERE[name][0], _problem(name)) for name in _ELSEWHERE),
    ]


def open(bundle: Bundle, options: EngineOptions) -> Onnx:
    """Open the ONNX form of a bundle.

    Raises:
        DeviceError: another device than "cpu".
        UsageError: fewer than one thread, or keys and values stored otherwise than as fp32.
        BundleError: the bundle has no ONNX form, or a graph that is not a step of its model.
    """
    if options.device != "cpu":
        raise DeviceError(
            f"the onnx runtime cannot use the device {options.device!r}: {_problem(options.device)}"
        )
    if options.threads is not None and options.threads < 1:
        raise UsageError(f"{options.threads} threads cannot compute: give 1 or more")
    if options.kv_type not in (None, "fp32"):
        raise UsageError(
            f"the onnx runtime keeps keys and values as fp32, not as {options.kv_type!r}: "
            "leave the type out, or use the native runtime"
        )
    from .engine import Onnx

    return Onnx(bundle, options.threads or cores.physical())


def _version() -> str:
    try:
        return metadata.version("onnxruntime")
    except metadata.PackageNotFoundError:
        return "of another package"


def _problem(device: str) -> str:
    if device not in _ELSEWHERE:
        return f"it is not one of cpu, {', '.join(_ELSEWHERE)}"
    provider, package = _ELSEWHERE[device]
    return (
        f"this version of edgedec runs ONNX on the CPU only; {provider} comes with {package}: "
        "use --device cpu"
    )
