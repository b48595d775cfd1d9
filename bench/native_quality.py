"""The words of a model in 4 bit: ours beside llama.cpp's of the same weights.

    python bench/native_quality.py                              `stories` on our held-out text
    python bench/native_quality.py --text FILE --checkpoint FOLDER
    python bench/native_quality.py --peer-python /path/to/python   llama-cpp-python lives there

Two questions. How good are the weights: perplexity and divergence from the checkpoint in fp32, in
windows of the text that do not overlap; differences of the loss with their standard error over
tokens, since the same tokens are compared. And how much do 8-bit activations and the storage of
keys and values change: the native runtime against the reference in fp32 arithmetic on the same
dequantised weights.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from _turns import Worker
from tokenizers import Tokenizer

from edgedec.benchmark.shapes import make_bundle
from edgedec.errors import UsageError
from edgedec.export import quantise
from edgedec.export.reference import forward
from edgedec.export.source import Source, open_source
from edgedec.export.verify import HELD_OUT
from edgedec.manifest import Format, format_of
from edgedec.weights import ROLES, role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgedec.contracts import Floats
    from edgedec.export.checkpoint import WeightSource

ROOT = Path(__file__).parents[1]
CHECKPOINT = ROOT / "models" / "reference" / "stories" / "checkpoint"
KL_LIMIT, TOP1_LIMIT, PERPLEXITY_LIMIT = 2e-3, 0.98, 1.01
Windows = list[list[int]]


@dataclass(frozen=True)
class Row:
    """One way to store and run the model, against the checkpoint in fp32."""

    name: str
    bits: float
    perplexity: float
    loss_more: float
    loss_error: float
    kl: float
    top1: float


@dataclass(frozen=True)
class Arithmetic:
    """The native runtime against fp32 arithmetic on the same stored weights."""

    name: str
    kl: float
    top1: float
    max_error: float

    @property
    def met(self) -> bool:
        return self.kl <= KL_LIMIT and self.top1 >= TOP1_LIMIT


class Dequantised:
    """The weights that a format leaves of a checkpoint's."""

    def __init__(self, weights: WeightSource, formats: Mapping[str, Format]) -> None:
        self._weights, self._formats = weights, formats
        self._made: dict[str, Floats] = {}

    def shape(self, name: str) -> tuple[int, ...]:
        return self._weights.shape(name)

    def load(self, name: str, rows: slice | None = None) -> Floats:
        if name not in self._made:
            matrix, form = self._weights.load(name), format_of(self._formats, name)
            if role(name) and form.block:
                matrix = quantise.dequantise(*quantise.quantise(matrix, form, name))
            elif role(name):
                matrix = quantise.floats(matrix, form, name).astype(np.float32)
            self._made[name] = matrix
        return self._made[name][rows or slice(None)]


# --- logits --------------------------------------------------------------------------------------


def reference(source: Source, windows: Windows, weights: WeightSource | None = None) -> Floats:
    """The logits of all windows, one after the other [tokens, V]."""
    model = source.architecture
    return np.concatenate([forward(model, weights or source.weights, w) for w in windows])


def of_worker(windows: Windows, name: str, python: str, **order: Any) -> Floats:
    worker = Worker(name, python, {}, **order)
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        file = f"{folder}/logits.npy"
        for window in windows:
            worker.ask(do="logits", tokens=window, file=file)
            parts.append(np.load(file))
    worker.close()
    return np.concatenate(parts)


def log_softmax(logits: Floats) -> NDArray[np.float64]:
    raised = logits.astype(np.float64)
    raised -= raised.max(-1, keepdims=True)
    raised -= np.log(np.exp(raised).sum(-1, keepdims=True))
    return raised


def losses(logits: Floats, windows: Windows) -> NDArray[np.float64]:
    """Nats of every token of a window but its first."""
    found, first = [], 0
    for window in windows:
        part = log_softmax(logits[first : first + len(window) - 1])
        found.append(-part[np.arange(len(window) - 1), window[1:]])
        first += len(window)
    return np.concatenate(found)


def divergence(expected: Floats, found: Floats) -> tuple[float, float, float]:
    """Mean KL(expected || found) in nats, share of the same first choice, largest difference."""
    p, q = log_softmax(expected), log_softmax(found)
    kl = float((np.exp(p) * (p - q)).sum(-1).mean())
    same = float((expected.argmax(-1) == found.argmax(-1)).mean())
    return kl, same, float(np.abs(expected - found).max())


# --- what is compared ----------------------------------------------------------------------------


def native_formats(source: Source) -> dict[str, dict[str, Format]]:
    """Formats by the name of their row."""
    model = source.architecture
    everything = {
        f"{kind}/{block}": {str(what): Format(kind=kind, block=block) for what in ROLES}
        for kind, block in (("int4", 64), ("int4", 32), ("int8", 64))
    }
    return {
        "int4/64, every matrix": everything["int4/64"],
        "int4/32, every matrix": everything["int4/32"],
        "int4/64, the default plan": quantise.plan(model, "int4", 64),
        "int8/64": everything["int8/64"],
    }


def bits_per_weight(source: Source, formats: Mapping[str, Format]) -> float:
    """Scales included, over all matrices."""
    numbers = bits = 0.0
    for name in names_of_matrices(source):
        form, count = format_of(formats, name), float(np.prod(source.weights.shape(name)))
        numbers += count
        bits += count * (form.bits + (16 / form.block if form.block else 0))
    return bits / numbers


def names_of_matrices(source: Source) -> Iterator[str]:
    from edgedec.weights import shapes

    return (name for name in shapes(source.architecture) if role(name))


@dataclass(frozen=True)
class Settings:
    """What the options say."""

    checkpoint: Path
    runtime: str
    threads: int
    peer: str | None
    peer_types: tuple[str, ...]


class Comparison:
    """Everything is compared with the checkpoint in fp32 on the same windows."""

    def __init__(self, settings: Settings, source: Source, windows: Windows) -> None:
        self._settings, self._source, self._windows = settings, source, windows
        self._expected = reference(source, windows)
        self._losses = losses(self._expected, windows)
        self.rows = [self._row("fp32 reference", 32.0, self._expected)]
        self.arithmetic: list[Arithmetic] = []

    def _row(self, name: str, bits: float, logits: Floats) -> Row:
        found = losses(logits, self._windows)
        more = found - self._losses
        kl, same, _ = divergence(self._expected, logits)
        error = float(more.std() / np.sqrt(len(more)))
        return Row(name, bits, float(np.exp(found.mean())), float(more.mean()), error, kl, same)

    def ours(self, folder: Path) -> None:
        for name, formats in native_formats(self._source).items():
            target = folder / name.replace("/", "-").replace(", ", "-").replace(" ", "-")
            make_bundle(target, self._source.architecture, self._source.weights, formats,
                        self._settings.runtime)  # fmt: skip
            bits = bits_per_weight(self._source, formats)
            exact = reference(
                self._source, self._windows, Dequantised(self._source.weights, formats)
            )
            self.rows.append(self._row(f"{name}: fp32 arithmetic", bits, exact))
            kinds = ("fp16", "int8") if self._settings.runtime == "native" else (None,)
            for kind in kinds:
                self._run(target, f"{name}: {self._settings.runtime}", kind, exact, bits)

    def _run(self, path: Path, name: str, kind: str | None, exact: Floats, bits: float) -> None:
        full = f"{name}, {kind} keys and values" if kind else name
        order = {"path": str(path), "threads": self._settings.threads, "kv_type": kind}
        logits = of_worker(self._windows, full, sys.executable, kind="ours", **order)
        self.rows.append(self._row(full, bits, logits))
        self.arithmetic.append(Arithmetic(full, *divergence(exact, logits)))

    def peer(self, folder: Path) -> None:
        bits = {"Q4_0": 4.5, "Q8_0": 8.5, "F32": 32.0}
        for kind in self._settings.peer_types if self._settings.peer else ():
            order = {
                "path": str(folder / f"{kind}.gguf"),
                "threads": self._settings.threads,
                "checkpoint": str(self._settings.checkpoint),
                "type": kind,
            }
            name = f"llama.cpp {kind}, every matrix"
            logits = of_worker(
                self._windows, name, self._settings.peer or "", kind="llama", **order
            )
            self.rows.append(self._row(name, bits[kind], logits))

    def verdict(self) -> dict[str, Any] | None:
        """Perplexity of 4 bit in every matrix over that of Q4_0."""
        peer = next((row for row in self.rows if row.name.startswith("llama.cpp Q4_0")), None)
        if peer is None:
            return None
        wanted = f"int4/64, every matrix: {self._settings.runtime}"
        ours = next(row for row in self.rows if row.name.startswith(wanted))
        share = ours.perplexity / peer.perplexity
        met = share <= PERPLEXITY_LIMIT
        return {"ours": ours.name, "ratio": share, "limit": PERPLEXITY_LIMIT, "met": met}


# --- the script ----------------------------------------------------------------------------------


def read_windows(text: str, checkpoint: Path, window: int, most: int) -> Windows:
    """The first tokens of a text in windows that do not overlap."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(text).ids[:most]
    windows = [ids[first : first + window] for first in range(0, len(ids), window)]
    windows = [part for part in windows if len(part) > 1]
    if not windows:
        raise UsageError("the text has fewer than two tokens: give a longer one")
    return windows


def show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=140)
    title = f"{document['text']}, {document['tokens']} tokens in windows of {document['window']}"
    table = Table(title=title, title_justify="left")
    columns = ("", "bits", "perplexity", "loss over fp32 (± s.e.)", "KL", "same first choice")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in document["rows"]:
        more = f"{row['loss_more']:+.4f} ± {row['loss_error']:.4f}"
        table.add_row(row["name"], f"{row['bits']:.2f}", f"{row['perplexity']:.3f}", more,
                      f"{row['kl']:.5f}", f"{row['top1']:.2%}")  # fmt: skip
    console.print(table)
    title = f"against fp32 arithmetic on the same weights (KL {KL_LIMIT} at most, {TOP1_LIMIT:.0%})"
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(("", "KL", "same first choice", "largest error", "met")):
        table.add_column(column, justify="right" if index else "left")
    for row in document["arithmetic"]:
        met = "yes" if row["met"] else "no"
        table.add_row(row["name"], f"{row['kl']:.6f}", f"{row['top1']:.2%}",
                      f"{row['max_error']:.3f}", met)  # fmt: skip
    console.print(table)
    verdict = document["verdict"]
    if verdict:
        console.print(
            f"perplexity of {verdict['ours']} over llama.cpp's Q4_0: {verdict['ratio']:.4f} (at "
            f"most {verdict['limit']}): {'met' if verdict['met'] else 'not met'}"
        )


@click.command(help=__doc__)
@click.option("--checkpoint", type=click.Path(path_type=Path), default=CHECKPOINT)
@click.option("--text", type=click.Path(path_type=Path), help="held-out text  [our own]")
@click.option("--window", default=512, show_default=True, help="tokens that see each other")
@click.option("--tokens", "most", default=8192, show_default=True, help="of the text at most")
@click.option("--threads", default=2, show_default=True)
@click.option("--runtime", default="native", type=click.Choice(["native", "onnx"]))
@click.option("--peer/--no-peer", default=True, help="llama.cpp beside it")
@click.option("--peer-python", default=sys.executable, help="an environment with llama-cpp-python")
@click.option("--peer-type", "peer_types", multiple=True, default=["Q4_0"], show_default=True,
              help="Q4_0, Q8_0 or F32")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def main(
    text: Path | None, window: int, most: int, peer: bool, peer_python: str, **options: Any
) -> None:
    as_json = options.pop("as_json")
    settings = Settings(peer=peer_python if peer else None, **options)
    source = open_source(str(settings.checkpoint))
    content = (text or ROOT / "export" / HELD_OUT).read_text("utf-8")
    window = min(window, source.architecture.limits.context)
    windows = read_windows(content, settings.checkpoint, window, most)
    comparison = Comparison(settings, source, windows)
    with tempfile.TemporaryDirectory() as folder:
        comparison.ours(Path(folder))
        comparison.peer(Path(folder))
    document = {
        "schema": 1,
        "model": source.origin.name,
        "text": text.name if text else HELD_OUT,
        "tokens": sum(map(len, windows)),
        "window": window,
        "rows": [asdict(row) for row in comparison.rows],
        "arithmetic": [{**asdict(row), "met": row.met} for row in comparison.arithmetic],
        "verdict": comparison.verdict(),
    }
    if as_json:
        click.echo(json.dumps(document, indent=1))
    else:
        show(document)


if __name__ == "__main__":
    main()
