"""The memory of a process that does nothing but generate with one bundle.

    python bench/_weigh.py BUNDLE THREADS PAST

Prints megabytes as JSON: with the libraries imported, with the bundle opened, at the peak of a
prompt in the loop's chunks and 64 greedy steps.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

from _machine import peak_mb, resident_mb
from _shapes import kv_bytes, open_engine

from edgedec import rooms
from edgedec.bundle import Bundle, open_bundle
from edgedec.contracts import Want

STEPS = 64


def weighed(bundle: Bundle, threads: int, past: int) -> dict[str, float]:
    """Megabytes of a process of its own, and what the house rule allows it.

    Native maps its weights and may have 1.3 times weights, keys and values; ONNX Runtime packs
    the weights anew and may have 2.2 times them. Both 20 MB besides.
    """
    command = [sys.executable, __file__, str(bundle.path), str(threads), str(past)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(process.stdout)
    native = bundle.manifest.forms.native is not None
    weights = sum(file.size for file in bundle.manifest.files.values()) / 2**20
    kind = "fp16" if native else "fp32"
    kept = kv_bytes(bundle.manifest.architecture, past + STEPS, kind) / 2**20
    rule = 1.3 * (weights + kept) if native else 2.2 * weights + kept
    found |= {"weights_mb": weights, "keys_and_values_mb": kept}
    return {**found, "allowed_mb": found["imported_mb"] + rule + 20}


def _weigh(bundle: Bundle, threads: int, past: int) -> dict[str, float]:
    from _worker import chain

    runtime = "native" if bundle.manifest.forms.native else "onnx"
    package = rooms.load("edgedec.runtimes", runtime)
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    if runtime == "onnx":
        importlib.import_module("onnxruntime")
    imported = resident_mb()
    engine = open_engine(bundle, threads)
    session, chunk = engine.session(), engine.capabilities.prompt_rows
    loaded = resident_mb()
    for start in range(0, past, chunk):
        count = min(chunk, past - start)
        session.step(chain(count), want=Want(logits=()))
        session.keep([count - 1])
    for _ in range(STEPS):
        session.step(chain(1)).argmax()
        session.keep([0])
    return {"imported_mb": imported, "loaded_mb": loaded, "peak_mb": peak_mb()}


if __name__ == "__main__":
    path, threads, past = sys.argv[1:]
    print(json.dumps(_weigh(open_bundle(Path(path)), int(threads), int(past))))
