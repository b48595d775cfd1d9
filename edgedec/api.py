"""What `import edgedec` gives: `load` and `generate`.

It finds the bundle, the device, the runtime and the strategy by name, and knows none of them.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Unpack, cast

from edgedec import devices, rooms
from edgedec.bundle import Bundle, open_bundle
from edgedec.contracts import Engine, EngineOptions, Strategy
from edgedec.errors import UsageError
from edgedec.generation import Cancel, Chunk, Generation, Score
from edgedec.model import Messages, Model, Setup
from edgedec.options import GenerateOptions
from edgedec.text import FILE, TEMPLATE, Text

STRATEGIES = "edgedec.strategies"
BEST = "plain"
"""What `auto` means; with one strategy there is nothing to measure."""
MOST_THREADS = 64
"""More are refused, unless there are more processors."""


def load(
    name_or_path: str | Path = "stories",
    *,
    device: str | None = None,
    runtime: str | None = None,
    strategy: str = "auto",
    threads: int | None = None,
    kv_type: str | None = None,
) -> Model:
    """Open a shipped model by name, or a bundle by its folder.

    `device` (None: cpu) is one of `edgedec devices`; `runtime` (None: the best there) what runs it;
    `strategy` how to draft; `threads` None takes the physical cores; `kv_type` is how keys and
    values are kept: "fp16" or "int8" (native), "fp32" (onnx), None the first of these. Eight bit is
    lossy: the text may differ from that with 16.

    Raises:
        BundleError: the bundle is missing or damaged.
        DeviceError: the device is not there; the message says what to install.
        UnsupportedError: no such runtime or strategy, or it cannot run this model.
        UsageError: a number of threads that no machine like this can use, or a `kv_type` that the
            runtime does not have.
    """
    started = time.perf_counter()
    _check_threads(threads)
    name, drafting = strategy_named(strategy)
    bundle = open_bundle(name_or_path)
    place, module = devices.choose(bundle.manifest.forms, device, runtime)
    text = _text(bundle)

    wanted = EngineOptions(device=place.name, threads=threads, kv_type=kv_type)

    def open_engine(path: str) -> Engine:
        return module.open(open_bundle(path), wanted)

    engine = module.open(bundle, wanted)
    return Model(
        Setup(
            bundle=bundle,
            text=text,
            device=place,
            engine=engine,
            open_engine=open_engine,
            strategy=drafting,
            strategy_name=name,
            strategy_requested=strategy,
            load_seconds=time.perf_counter() - started,
        )
    )


def generate(
    prompt: str, model: str | Path = "stories", **options: Unpack[GenerateOptions]
) -> Generation:
    """Load a model, continue a text, and close the model again."""
    with load(model) as loaded:
        return loaded.generate(prompt, **options)


def _text(bundle: Bundle) -> Text:
    for name in (FILE, TEMPLATE):
        if (bundle.path / name).exists():
            # What the manifest does not list was never hashed: refused.
            bundle.file(name)
    return Text.open(bundle.path, bundle.manifest.architecture)


def _check_threads(threads: int | None) -> None:
    """Refuse what would bring the machine to a halt: threads that wait keep a core busy."""
    most = max(MOST_THREADS, os.cpu_count() or 1)
    if threads is not None and not (isinstance(threads, int) and 1 <= threads <= most):
        raise UsageError(f"threads is {threads!r}; it must be a whole number from 1 to {most}")


def strategy_named(requested: str) -> tuple[str, Strategy]:
    """The strategy with its default options, and its name, which `auto` leaves open.

    Raises:
        UnsupportedError: there is none of that name.
    """
    name = BEST if requested == "auto" else requested
    module = rooms.load(STRATEGIES, name)
    # The class has the file's name in CamelCase.
    kind = getattr(module, name.title().replace("_", ""))
    return name, cast("Strategy", kind())


__all__ = ["Cancel", "Chunk", "Generation", "Messages", "Model", "Score", "generate", "load"]
