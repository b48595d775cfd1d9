"""Time per step of the native runtime beside llama.cpp, by number of rows.

    python bench/native_step.py                         both shapes, with llama-cpp-python
    python bench/native_step.py --shape 135m --no-peer  one shape, ours alone
    python bench/native_step.py --peer-python /path/to/python   llama-cpp-python lives there
    python bench/native_step.py --json                  one JSON document

Random weights, 4 bit in every matrix (embedding and head included): ours int4 in blocks of 64,
the peer's Q4_0. A step of ours gives argmax and keeps nothing; the peer's gives logits of all its
rows and its cache is rolled back. Contestants are processes that take turns (`_turns.py`); the
machine's own limits (memory read, multiply-adds) are one of them, so that a slow minute of the
machine slows the limit as well. Times are medians of single steps, ratios medians over rounds,
both with the 10th and 90th percentile.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from _shapes import attention_products, matrices
from _step_report import MACHINE, PEER, Measured, show, verdicts
from _turns import Case, Found, Worker, difference, take_turns
from _weigh import weighed

from edgedec.benchmark.shapes import INT4, SHAPES, architecture, random_bundle
from edgedec.bundle import Bundle, cache_folder

WIDTHS = (1, 2, 4, 8, 16)
PREFILL = 512
SHORT, LONG = 32, 2048


@dataclass(frozen=True)
class Settings:
    """What the options say."""

    threads: int
    past: int
    repetitions: int
    runtime: str
    isas: tuple[str, ...]
    chunks: tuple[int, ...]
    peers: dict[str, str]
    weigh: bool

    @property
    def ours(self) -> list[tuple[str, str | None, str | None]]:
        """Name, instruction set and type of keys and values of each contestant of ours."""
        kinds = ("fp16", "int8") if self.runtime == "native" else (None,)
        return [
            (" ".join([self.runtime, *filter(None, [isa, kind if kind == "int8" else None])]), isa,
             kind)
            for isa in (None, *self.isas)
            for kind in kinds
        ]  # fmt: skip


class Cases:
    """What is measured of a shape, and by whom."""

    def __init__(self, shape: str, settings: Settings) -> None:
        model = architecture(shape)
        numbers = matrices(model, INT4).values()
        self.bytes = sum(size for _, size in numbers)
        self.products = sum(count for count, _ in numbers)
        self.attention = attention_products(model, 8, LONG - SHORT)
        names = [name for name, _, kind in settings.ours if kind != "int8"]
        peers = tuple(settings.peers)
        everyone = (*names, *peers)
        self.steps = [Case("step", n, settings.past, who=everyone) for n in WIDTHS]
        all_steps = (*(name for name, _, _ in settings.ours), *peers)
        self.short = Case("step", 8, SHORT, who=all_steps)
        self.long = Case("step", 8, LONG, who=all_steps)
        self.prefills = [
            Case("prefill", PREFILL, 0, chunk, who=tuple(names), every=4)
            for chunk in settings.chunks
        ]
        self.peer_prefill = Case("prefill", PREFILL, 0, PREFILL, who=peers, every=4)
        self.read = Case("read", self.bytes, who=(MACHINE,))
        self.int8 = Case("int8", 8 * self.products, who=(MACHINE,))
        self.fp32 = Case("fp32", self.attention, who=(MACHINE,))

    @property
    def all(self) -> list[Case]:
        # The limits stand beside what they are compared with.
        first, *wider = self.steps
        prompts = [*self.prefills, self.peer_prefill]
        return [self.read, first, *wider, self.int8, self.short, self.fp32, self.long, *prompts]


def measure(shape: str, bundle: Bundle, settings: Settings) -> Measured:
    """Start the contestants, let them take turns, and end them."""
    memory = weighed(bundle, settings.threads, settings.past) if settings.weigh else None
    cases = Cases(shape, settings)
    workers = start(shape, bundle, settings)
    try:
        found = take_turns(workers, cases.all, settings.repetitions, progress(shape))
    finally:
        for worker in workers:
            worker.close()
    about = {worker.name: worker.about for worker in workers}
    for name in about:
        added = difference(found, name, cases.long, cases.short)
        if added is not None:
            found[name, "added"] = added
    return Measured(shape, cases, found, about, memory)


def start(shape: str, bundle: Bundle, settings: Settings) -> list[Worker]:
    threads = settings.threads
    workers = [Worker(MACHINE, sys.executable, {}, kind="machine", threads=threads)]
    for name, isa, kind in settings.ours:
        environment = {"EDGEDEC_ISA": isa} if isa else {}
        order = {"path": str(bundle.path), "threads": threads, "kv_type": kind}
        workers.append(Worker(name, sys.executable, environment, kind="ours", **order))
    path = cache_folder() / "bench" / f"{shape}-q4_0.gguf"
    for name, python in settings.peers.items():
        order = {"path": str(path), "threads": threads, "shape": shape}
        workers.append(Worker(name, python, {}, kind="llama", **order))
    return workers


def progress(shape: str) -> Any:
    def tell(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r{shape}: {text}   ", end="", file=sys.stderr, flush=True)

    return tell


def document(measured: Measured, settings: Settings) -> dict[str, Any]:
    return {
        "shape": measured.shape,
        **{k: v for k, v in asdict(settings).items() if k not in ("peers", "weigh")},
        "format": "int4/64",
        "weights_read": measured.cases.bytes,
        "products_per_row": measured.cases.products,
        "attention_products": measured.cases.attention,
        "contestants": measured.about,
        "times": times(measured.found),
        "verdicts": [asdict(verdict) for verdict in verdicts(measured)],
        "memory": measured.memory,
    }


def times(found: Found) -> list[dict[str, Any]]:
    return [
        {
            "contestant": name,
            "case": case,
            "ms": entry.median,
            "low_ms": entry.spread()[0],
            "high_ms": entry.spread()[1],
            "rounds_ms": list(entry.rounds.values()),
        }
        for (name, case), entry in found.items()
    ]


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)))
@click.option("--threads", default=2, show_default=True)
@click.option("--past", default=128, show_default=True)
@click.option("--repetitions", default=20, show_default=True, help="rounds, of 3 steps a case")
@click.option("--chunk", "chunks", multiple=True, type=int, help="of our prefill  [the loop's]")
@click.option("--isa", "isas", multiple=True, default=["avx2"], show_default=True,
              help="instruction sets forced besides the default; '' for none")  # fmt: skip
@click.option("--peer/--no-peer", default=True, help="llama.cpp beside it")
@click.option("--peer-python", "pythons", multiple=True, default=[sys.executable],
              help="an environment with llama-cpp-python; several as NAME=PATH")  # fmt: skip
@click.option("--runtime", default="native", type=click.Choice(["native", "onnx"]))
@click.option("--weigh/--no-weigh", default=True, help="memory of a process of its own")
@click.option("--save", type=click.Path(path_type=Path), help="the JSON document as a file as well")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def main(
    shapes: tuple[str, ...],
    peer: bool,
    pythons: tuple[str, ...],
    save: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    engine = importlib.import_module(f"edgedec.runtimes.{options['runtime']}.engine")
    options["chunks"] = options["chunks"] or (engine.PROMPT_ROWS,)
    options["isas"] = tuple(filter(None, options["isas"]))
    if options["runtime"] == "onnx":
        options["isas"] = ()
    named = (text.rpartition("=") for text in pythons if peer)
    peers = {f"{PEER} {name}".strip(): python for name, _, python in named}
    settings = Settings(peers=peers, **options)
    documents = []
    for shape in shapes or ("135m", "1b"):
        bundle = random_bundle(shape, settings.runtime)
        measured = measure(shape, bundle, settings)
        documents.append(document(measured, settings))
        if not as_json:
            show(measured)
    text = json.dumps({"schema": 1, "shapes": documents}, indent=1)
    if save:
        save.write_text(text + "\n")
    if as_json:
        click.echo(text)


if __name__ == "__main__":
    main()
