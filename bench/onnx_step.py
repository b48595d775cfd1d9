"""Time per step of the onnx runtime at the shape of a 135M-parameter Llama, with random weights.

    python bench/onnx_step.py                    a table
    python bench/onnx_step.py --json             one JSON document
    python bench/onnx_step.py --keep FOLDER      use, or leave, the bundle there (int4, 77 MB)

Time does not depend on the values of the weights, so random ones of the real shape will do. Steps
of different widths take turns, so that drift of the machine meets them all alike. "Python" is the
time of step, argmax and keep that is not spent inside ONNX Runtime.
"""

from __future__ import annotations

import json
import platform
import resource
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from edgedec.architecture import (
    Architecture,
    Attention,
    Embedding,
    Head,
    Layer,
    Limits,
    Mlp,
    Norm,
    Rope,
    Stack,
    Tokens,
)
from edgedec.bundle import Bundle, cache_folder, open_bundle, write_bundle
from edgedec.contracts import TRUNK, EngineOptions, Rows, Want
from edgedec.manifest import Format, Forms, Manifest, Provenance
from edgedec.weights import ROLES, shapes

if TYPE_CHECKING:
    from edgedec.contracts import Floats

NAME = "llama-135m-random"
FORMAT = Format(kind="int4", block=64)
PREFILL = 64


def architecture() -> Architecture:
    """The shape: hidden 576, 30 layers, 9 query and 3 key/value heads, ffn 1536, vocab 49152."""
    norm = Norm(kind="rms", eps=1e-5)
    attention = Attention(
        heads=9, kv_heads=3, head_dim=64, scale=64**-0.5, rope=Rope(theta=10000.0)
    )
    layer = Layer(
        self_attention=attention, mlp=Mlp(width=1536, activation="silu", gated=True), norm=norm
    )
    return Architecture(
        family="llama",
        embed=Embedding(vocab=49152, dim=576),
        decoder=Stack(layers=(layer,) * 30, final_norm=norm),
        head=Head(tied=True),
        tokens=Tokens(eos=(0,)),
        limits=Limits(context=2048),
    )


class RandomWeights:
    """Weights that are made when asked for, the same each time."""

    def __init__(self, model: Architecture) -> None:
        self._shapes = shapes(model)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def load(self, name: str, rows: slice | None = None) -> Floats:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)[rows or slice(None)]
        start, stop, _ = (rows or slice(None)).indices(shape[0])
        random = np.random.default_rng([zlib.crc32(name.encode()), start])
        return random.standard_normal((stop - start, shape[1]), np.float32) * np.float32(0.04)


def make_bundle(target: Path) -> None:
    """Write the bundle, which takes some seconds."""
    from edgedec.export import to_onnx

    model = architecture()
    formats = {str(role): FORMAT for role in ROLES}
    with write_bundle(target) as writer:
        form = to_onnx.write(writer.path, model, RandomWeights(model), formats)
        origin = Provenance(source="random weights", created="", exporter="bench/onnx_step.py")
        writer.finish(
            Manifest(
                name=NAME,
                architecture=model,
                quantisation=formats,
                forms=Forms(onnx=form),
                files={},
                provenance=origin,
            )
        )


# --- steps ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a step of `rows` rows: median, 10th and 90th percentile; Python's share."""

    rows: int
    t_ms: float
    low_ms: float
    high_ms: float
    python_ms: float
    floor_ms: float


class Stopwatch:
    """Adds up the time spent in ONNX Runtime."""

    def __init__(self) -> None:
        from edgedec.runtimes.onnx.bindings import Bound

        self.seconds = 0.0
        inner = Bound.run

        def run(bound: Bound) -> None:
            start = time.perf_counter()
            inner(bound)
            self.seconds += time.perf_counter() - start

        Bound.run = run  # type: ignore[method-assign]


def chain(count: int) -> Rows:
    return Rows(np.full(count, 7, np.int32), np.arange(-1, count - 1, dtype=np.int32))


def measure_steps(
    bundle: Bundle, widths: list[int], past: int, repetitions: int, threads: int
) -> dict[int, list[tuple[float, float]]]:
    """Seconds (whole, in ONNX Runtime) of each repetition, by number of rows."""
    from edgedec.runtimes import onnx

    watch = Stopwatch()
    session = onnx.open(bundle, EngineOptions(threads=threads)).session()
    session.step(chain(past), want=Want(logits=()))
    session.keep([past - 1])
    inputs = {width: chain(width) for width in widths}
    times: dict[int, list[tuple[float, float]]] = {width: [] for width in widths}
    for repetition in range(-3, repetitions):
        for width, rows in inputs.items():
            watch.seconds = 0.0
            start = time.perf_counter()
            session.step(rows).argmax()
            session.keep([TRUNK])
            whole = time.perf_counter() - start
            if repetition >= 0:
                times[width].append((whole, watch.seconds))
    return times


def summary(rows: int, times: list[tuple[float, float]], floor: float) -> Timing:
    whole = sorted(1e3 * seconds for seconds, _ in times)
    tenth = len(whole) // 10
    outside = statistics.median(1e3 * (seconds - inside) for seconds, inside in times)
    return Timing(rows, statistics.median(whole), whole[tenth], whole[-1 - tenth], outside, floor)


# --- what the machine can do ---------------------------------------------------------------------


@dataclass(frozen=True)
class Machine:
    """Measured: bytes read from memory and 8-bit multiply-adds, billions per second."""

    read_gb_s: float
    int8_gmac_s: float

    def floor_ms(self, weights: int, multiplications: int, rows: int) -> float:
        """No step can take less: the weights read once, every row multiplied with them."""
        reading = weights / self.read_gb_s
        return max(reading, rows * multiplications / self.int8_gmac_s) / 1e6


def best(work: Callable[[], Any], repetitions: int = 7) -> float:
    """Seconds of the fastest repetition."""
    found = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return min(found)


def measure_machine(threads: int) -> Machine:
    size = 1 << 30
    parts = np.array_split(np.ones(size // 4, np.float32), threads)
    with ThreadPoolExecutor(threads) as pool:
        reading = best(lambda: list(pool.map(np.max, parts)))
    return Machine(size / reading / 1e9, _int8_rate(threads))


def _int8_rate(threads: int) -> float:
    """The rate of a large 8-bit product in ONNX Runtime."""
    from onnx import TensorProto, helper
    from onnxruntime import InferenceSession

    from edgedec.runtimes.onnx.engine import session_options

    edge = 1024
    values = [
        helper.make_tensor_value_info(name, kind, (edge, edge))
        for name, kind in (("a", TensorProto.UINT8), ("y", TensorProto.INT32))
    ]
    weight = helper.make_tensor(
        "b", TensorProto.INT8, (edge, edge), np.ones(edge * edge, np.int8).tobytes(), raw=True
    )
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "product", values[:1], values[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = InferenceSession(model.SerializeToString(), session_options(threads))
    inputs = {"a": np.ones((edge, edge), np.uint8)}
    return edge**3 / best(lambda: session.run(None, inputs), 30) / 1e9


# --- memory, in a process of its own -------------------------------------------------------------


def resident_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return peak_mb()


def peak_mb() -> float:
    scale = 1024 if platform.system() != "Darwin" else 1024 * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def generate_and_weigh(bundle: Bundle, threads: int, past: int) -> dict[str, float]:
    """Prefill in chunks and 64 greedy steps; megabytes after the imports and at the peak."""
    import onnxruntime  # noqa: F401

    from edgedec.runtimes import onnx
    from edgedec.runtimes.onnx import engine  # noqa: F401

    imported = resident_mb()
    session = onnx.open(bundle, EngineOptions(threads=threads)).session()
    loaded = resident_mb()
    for start in range(0, past, PREFILL):
        count = min(PREFILL, past - start)
        session.step(chain(count), want=Want(logits=()))
        session.keep([count - 1])
    for _ in range(64):
        session.step(chain(1)).argmax()
        session.keep([0])
    return {"imported_mb": imported, "loaded_mb": loaded, "peak_mb": peak_mb()}


def measure_memory(path: Path, threads: int, past: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--keep", str(path), "--weigh"]
    command += ["--threads", str(threads), "--past", str(past)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    weighed: dict[str, float] = json.loads(found.stdout)
    return weighed


# --- the script ----------------------------------------------------------------------------------


def report(bundle: Bundle, widths: list[int], settings: dict[str, int]) -> dict[str, Any]:
    model, threads = bundle.manifest.architecture, settings["threads"]
    memory = measure_memory(bundle.path, threads, settings["past"])
    machine = measure_machine(threads)
    times = measure_steps(bundle, widths, settings["past"], settings["repetitions"], threads)
    data = sum(file.size for name, file in bundle.manifest.files.items() if ".data" in name)
    matrices = sum(np.prod(shape) for shape in shapes(model).values() if len(shape) == 2)
    rows = [
        summary(width, times[width], machine.floor_ms(data, int(matrices), width))
        for width in widths
    ]
    kept = sum(2 * la.self_attention.kv_heads * 64 * 4 for la in model.decoder.layers)
    memory["weights_mb"] = data / 2**20
    memory["keys_and_values_mb"] = kept * (settings["past"] + 64) / 2**20
    # The house rule: the libraries, 2.2 times the weights, keys and values, and 20 MB.
    memory["allowed_mb"] = (
        memory["imported_mb"] + 2.2 * memory["weights_mb"] + memory["keys_and_values_mb"] + 20
    )
    return {
        "schema": 1,
        "model": NAME,
        "format": str(FORMAT),
        **settings,
        "machine": asdict(machine),
        "memory": memory,
        "rows": [asdict(row) for row in rows],
    }


def show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{document['model']}, {document['format']}, {document['past']} of past, "
    table = Table(title=title + f"{document['threads']} threads", title_justify="left")
    for column in ("rows", "step ms", "10-90 %", "of it Python ms", "floor ms", "times the floor"):
        table.add_column(column, justify="right")
    for row in document["rows"]:
        spread = f"{row['low_ms']:.2f}-{row['high_ms']:.2f}"
        times = f"{row['t_ms'] / row['floor_ms']:.1f}"
        table.add_row(
            str(row["rows"]),
            f"{row['t_ms']:.2f}",
            spread,
            f"{row['python_ms']:.3f}",
            f"{row['floor_ms']:.2f}",
            times,
        )
    memory, machine = document["memory"], document["machine"]
    console = Console()
    console.print(table)
    console.print(
        f"floor: {memory['weights_mb']:.0f} MB read at {machine['read_gb_s']:.1f} GB/s, or the "
        f"products at {machine['int8_gmac_s']:.0f} GMAC/s, whichever takes longer (both measured)"
    )
    console.print(
        f"memory: {memory['imported_mb']:.0f} MB with the libraries, {memory['loaded_mb']:.0f} "
        f"loaded, {memory['peak_mb']:.0f} at the peak of generating 64 tokens "
        f"(allowed: {memory['allowed_mb']:.0f})"
    )


@click.command(help=__doc__)
@click.option("--keep", type=click.Path(path_type=Path), help="the bundle's folder")
@click.option("--threads", default=2, show_default=True)
@click.option("--past", default=128, show_default=True)
@click.option("--repetitions", default=60, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
@click.option("--weigh", is_flag=True, hidden=True)
def main(
    keep: Path | None, threads: int, past: int, repetitions: int, as_json: bool, weigh: bool
) -> None:
    path = keep or cache_folder() / "bench" / NAME
    if not path.exists():
        make_bundle(path)
    bundle = open_bundle(path)
    if weigh:
        click.echo(json.dumps(generate_and_weigh(bundle, threads, past)))
        return
    settings = {"threads": threads, "past": past, "repetitions": repetitions}
    document = report(bundle, [1, 2, 4, 8, 16], settings)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        show(document)


if __name__ == "__main__":
    main()
