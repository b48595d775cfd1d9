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
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from _machine import Limits, best
from _shapes import matrices
from _weigh import weighed
from _worker import chain

from edgedec.benchmark.shapes import (
    INT4,
    RandomWeights,
    architecture,
    make_bundle,
    random_bundle,
)
from edgedec.bundle import Bundle, open_bundle
from edgedec.contracts import TRUNK, Want
from edgedec.devices import EngineOptions

SHAPE = "135m"


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


def measure_machine(threads: int) -> Machine:
    size = 1 << 30
    seconds = Limits(threads).seconds("read", size, tries=7)
    return Machine(size / seconds / 1e9, _int8_rate(threads))


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


# --- the script ----------------------------------------------------------------------------------


def report(bundle: Bundle, widths: list[int], settings: dict[str, int]) -> dict[str, Any]:
    threads, past = settings["threads"], settings["past"]
    memory = weighed(bundle, threads, past)
    machine = measure_machine(threads)
    times = measure_steps(bundle, widths, past, settings["repetitions"], threads)
    size = sum(file.size for name, file in bundle.manifest.files.items() if ".data" in name)
    products = sum(count for count, _ in matrices(bundle.manifest.architecture, INT4).values())
    rows = [
        summary(width, times[width], machine.floor_ms(size, products, width)) for width in widths
    ]
    return {
        "schema": 1,
        "model": f"llama-{SHAPE}-random",
        "format": "int4/64",
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
def main(keep: Path | None, threads: int, past: int, repetitions: int, as_json: bool) -> None:
    if keep and not keep.exists():
        model = architecture(SHAPE)
        make_bundle(keep, model, RandomWeights(model), INT4, "onnx")
    bundle = open_bundle(keep) if keep else random_bundle(SHAPE, "onnx")
    settings = {"threads": threads, "past": past, "repetitions": repetitions}
    document = report(bundle, [1, 2, 4, 8, 16], settings)
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        show(document)


if __name__ == "__main__":
    main()
