"""What `import edgedec` gives: `load` and `generate`.

It finds the bundle, the device, the runtime and the strategy by name, and knows none of them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from edgedec import cores, devices, drafting
from edgedec.bundle import Bundle, open_bundle
from edgedec.contracts import Engine
from edgedec.costs import Costs, flat
from edgedec.devices import Device, EngineOptions
from edgedec.drafting import AUTO
from edgedec.errors import UnsupportedError
from edgedec.generation import Cancel, Chunk, Generation, Score
from edgedec.host import Files
from edgedec.model import Messages, Model, Setup
from edgedec.options import GenerateOptions
from edgedec.policies import BEST
from edgedec.text import FILE, SOURCE, TEMPLATE, Text

if TYPE_CHECKING:
    from edgedec.drafting import Drafting


def load(  # noqa: PLR0913 - all but the first have defaults and are named
    name_or_path: str | Path = "stories",
    *,
    device: str | None = None,
    runtime: str | None = None,
    strategy: str = AUTO,
    threads: int | None = None,
    kv_type: str | None = None,
    strategy_options: Mapping[str, Any] | None = None,
    policy: str = BEST,
    acceptance: str = "exact",
) -> Model:
    """Open a shipped model by name, or a bundle by its folder.

    `device` (None: cpu) is one of `edgedec devices`; `runtime` (None: the best there) what runs it;
    `strategy` how to draft: `auto` combines what pays on this device, `plain` does not draft, and
    names joined by + (`prompt_lookup+token_recycling`) are what they say; `strategy_options` are
    fields of theirs (`{"token_recycling.hot_start": "file.safetensors"}`). `policy` says how much
    of a draft is checked (`best`: what pays; the others are for comparison), `acceptance` "typical"
    takes what is likely enough and is lossy. `threads` None takes the physical cores; `kv_type` is
    how keys and values are kept: "fp16" or "int8" (native), "fp32" (onnx), None the first of these.
    Eight bit is lossy: the text may differ from that with 16.

    The first load on a device measures it for up to 2 seconds, unless the strategy is `plain`;
    `edgedec profile` does so more thoroughly.

    Raises:
        BundleError: the bundle is missing or damaged.
        DeviceError: the device is not there; the message says what to install.
        UnsupportedError: no such runtime or strategy, or it cannot run this model.
        UsageError: a number of threads that no machine like this can use, or a `kv_type` that the
            runtime does not have.
    """
    return Model(
        assemble(
            name_or_path,
            EngineOptions(device=device or "", threads=threads, kv_type=kv_type),
            runtime,
            drafting.choose(strategy, strategy_options, policy, acceptance),
        )
    )


def assemble(
    name_or_path: str | Path, options: EngineOptions, runtime: str | None, drafted: Drafting
) -> Setup:
    """What a model is made of: all that `load` finds; `options.device` "" is the default device."""
    started = time.perf_counter()
    cores.check_threads(options.threads)
    bundle = open_bundle(name_or_path)
    place, module = devices.choose(bundle.manifest.forms, options.device or None, runtime)
    text = _text(bundle)
    wanted = replace(options, device=place.name)

    def open_draft(path: str) -> Engine:
        other = open_bundle(path)
        _check_same_tokens(bundle, other)
        return module.open(other, wanted)

    engine = module.open(bundle, wanted)
    opened = devices.trained(bundle, engine, options.threads)
    return Setup(
        bundle=bundle,
        text=text,
        device=place,
        engine=engine,
        files=Files(open_draft, bundle.strategy_file, opened),
        drafting=drafted,
        costs=_costs(engine, bundle, place, wanted) if drafted.parts else flat(),
        load_seconds=time.perf_counter() - started,
    )


def _costs(engine: Engine, bundle: Bundle, place: Device, options: EngineOptions) -> Costs:
    from edgedec import profiler

    return profiler.costs_for(engine, bundle, place, options)


def generate(
    prompt: str, model: str | Path = "stories", **options: Unpack[GenerateOptions]
) -> Generation:
    """Load a model, continue a text, and close the model again."""
    with load(model) as loaded:
        return loaded.generate(prompt, **options)


def _text(bundle: Bundle) -> Text:
    for name in (FILE, SOURCE, TEMPLATE):
        if (bundle.path / name).exists():
            # What the manifest does not list was never hashed: refused.
            bundle.file(name)
    return Text.open(bundle.path, bundle.manifest.architecture)


def _check_same_tokens(bundle: Bundle, other: Bundle) -> None:
    """A draft model must mean the same by the same ids."""
    mine, theirs = (
        [known.sha256 for name in (FILE, SOURCE) if (known := each.manifest.files.get(name))]
        for each in (bundle, other)
    )
    if not mine or mine != theirs:
        raise UnsupportedError(
            f"{other.manifest.name} has another tokenizer than {bundle.manifest.name}: a draft "
            "model must share it; export both from one family"
        )


__all__ = ["Cancel", "Chunk", "Generation", "Messages", "Model", "Score", "generate", "load"]
