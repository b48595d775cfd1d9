"""An encoder-decoder beside a decoder alone of the same size: "Return of the Encoder" (2501.16273).

    python bench/encoder_decoder.py                          330 M parameters, every runtime
    python bench/encoder_decoder.py --size 70m --runtime native
    python bench/encoder_decoder.py --case 1024/128 --no-draft
    python bench/encoder_decoder.py --json                   one JSON document

The paper's shapes with random weights, 4 bit in every matrix. The first token of the decoder alone
comes after it has run over the input; that of the encoder-decoder after its encoder has, its keys
and values for the decoder are made, and the decoder has taken one step. Then so many single steps.
The two take turns in one process; ratios are medians over rounds, with the 10th and 90th
percentile. Beside them stand the floor (what the machine needs at least for the bytes and products,
measured in the same run) and what the paper reports. Drafting from the source is measured with the
words of `fix` in the time of the large shape (a replay), and labelled so.
"""

from __future__ import annotations

import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from _machine import Limits, peak_mb
from _shapes import open_engine
from _turns import Ratio, percentiles

from edgedec.benchmark.shapes import INT4, FormName, random_bundle
from edgedec.contracts import TRUNK, Rows, Want
from edgedec.manifest import format_of
from edgedec.weights import role, shapes

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Engine, Session

CASES = ("64/64", "128/128", "512/128", "1024/128", "2048/128")
KINDS = ("encoder-decoder", "decoder alone")
PAPER = {"first token": 0.53, "throughput": 4.7}
"""On the NPU that the paper measures: 47 % less waiting, 4.7 times the tokens per second."""


@dataclass(frozen=True)
class Case:
    """Tokens of the input and of the output."""

    read: int
    written: int


@dataclass
class Times:
    """Seconds of one kind of model, by round."""

    first: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


class Contestant:
    """One engine; its rounds."""

    def __init__(self, engine: Engine, model: Architecture) -> None:
        self.model, self._engine = model, engine
        self._session: Session = engine.session()
        self._rounds = 0

    def round(self, case: Case, times: Times) -> None:
        """Read an input that was not read before, and write."""
        self._rounds += 1
        ids = (np.arange(case.read, dtype=np.int64) * 7919 + self._rounds) % self.model.vocab
        started = time.perf_counter()
        if self.model.encoder is not None:
            self._session.encode(ids.astype(np.int32))
            token = self._step([1])
        else:
            self._session.truncate(0)
            chunk = self._engine.capabilities.prompt_rows
            for start in range(0, case.read, chunk):
                token = self._step(ids[start : start + chunk].tolist(), start + chunk >= case.read)
        first = time.perf_counter()
        for _ in range(case.written):
            token = self._step([token])
        times.first.append(first - started)
        times.steps.append((time.perf_counter() - first) / case.written)

    def _step(self, tokens: Sequence[int], answer: bool = True) -> int:
        count = len(tokens)
        rows = Rows(np.array(tokens, np.int32), np.arange(-1, count - 1, dtype=np.int32))
        want = Want((count - 1,) if answer else ())
        result = self._session.step(rows, want=want)
        token = int(result.argmax()[-1]) if answer else 0
        self._session.keep([result.handles[-1] if count else TRUNK])
        return token

    def close(self) -> None:
        """Give the weights back."""
        self._engine.close()


# --- the floor -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """Seconds that the machine needs at least: for the first token, and for each one after it."""

    first: float
    step: float


def floor(model: Architecture, case: Case, limits: Limits) -> Floor:
    """Weights are read once a step, products done at the measured peak; whichever is longer."""
    work = _work(model)
    products = case.read * work.input_products + _attention(model, case.read)
    busy = limits.seconds("int8", products) or limits.seconds("fp32", products)
    spec = model.decoder.layers[0].self_attention
    seen = case.read + case.written // 2
    keys_and_values = seen * model.layers * 2 * spec.kv_heads * spec.head_dim * 2
    return Floor(
        max(busy, limits.seconds("read", work.all_bytes)),
        limits.seconds("read", work.step_bytes + keys_and_values),
    )


@dataclass
class Work:
    """What a model asks of a machine: bytes of its matrices and of those of a step, and the
    products of each row of the input."""

    all_bytes: int = 0
    step_bytes: int = 0
    input_products: int = 0


def _work(model: Architecture) -> Work:
    found = Work()
    for name, shape in shapes(model).items():
        if role(name) is None:
            continue
        numbers, form = math.prod(shape), format_of(INT4, name)
        size = numbers * form.bits // 8 + 2 * numbers // (form.block or numbers)
        across = ".cross_attention.k." in name or ".cross_attention.v." in name
        outside = name.startswith(("embed", "head"))
        once = name.startswith("encoder.layers") or across
        found.all_bytes += size
        found.step_bytes += 0 if once else size
        if not outside and (once or model.encoder is None):
            found.input_products += numbers
    return found


def _attention(model: Architecture, count: int) -> int:
    """Products of scores and mixtures over the input."""
    stack = model.encoder or model.decoder
    pairs = count * count if model.encoder is not None else count * (count + 1) // 2
    specs = (layer.self_attention for layer in stack.layers)
    return pairs * sum(2 * spec.heads * spec.head_dim for spec in specs)


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """One case on one runtime."""

    size: str
    runtime: str
    case: str
    first_ms: dict[str, float]
    step_ms: dict[str, float]
    floor_first_ms: dict[str, float]
    floor_step_ms: dict[str, float]
    peak_mb: dict[str, float]
    first_ratio: Ratio
    throughput_ratio: Ratio


def measure(
    size: str, form: FormName, cases: Sequence[str], rounds: int, threads: int
) -> Iterator[Line]:
    """Every case; the two models take turns, who begins changing from round to round."""
    limits = Limits(threads)
    names = {KINDS[0]: f"mu-{size}", KINDS[1]: f"mu-{size}-decoder"}
    bundles = {kind: random_bundle(name, form) for kind, name in names.items()}
    field_of = {
        kind: Contestant(open_engine(bundle, threads), bundle.manifest.architecture)
        for kind, bundle in bundles.items()
    }
    for text in cases:
        case = Case(*map(int, text.split("/")))
        times = {kind: Times() for kind in KINDS}
        for number in range(rounds + 1):
            for kind in KINDS if number % 2 else KINDS[::-1]:
                field_of[kind].round(case, times[kind] if number else Times())
        floors = {kind: floor(each.model, case, limits) for kind, each in field_of.items()}
        yield Line(
            size,
            "native" if form == "native" else "onnx",
            text,
            {kind: 1e3 * statistics.median(times[kind].first) for kind in KINDS},
            {kind: 1e3 * statistics.median(times[kind].steps) for kind in KINDS},
            {kind: 1e3 * floors[kind].first for kind in KINDS},
            {kind: 1e3 * floors[kind].step for kind in KINDS},
            {kind: weighed(names[kind], form, text, threads) for kind in KINDS},
            _ratio(times[KINDS[0]].first, times[KINDS[1]].first),
            _ratio(times[KINDS[1]].steps, times[KINDS[0]].steps),
        )
    for each in field_of.values():
        each.close()


def _ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    values = [one / other for one, other in zip(above, below, strict=True)]
    return Ratio(statistics.median(values), *percentiles(values))


def weighed(name: str, form: FormName, case: str, threads: int) -> float:
    """Megabytes at the peak of a process of its own."""
    command = [sys.executable, __file__, "--weigh", name, form, case, str(threads)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def weigh(name: str, form: FormName, case: str, threads: int) -> float:
    """The same, in this process."""
    bundle = random_bundle(name, form)
    contestant = Contestant(open_engine(bundle, threads), bundle.manifest.architecture)
    contestant.round(Case(*map(int, case.split("/"))), Times())
    return peak_mb()


def drafted(size: str, pairs: int, threads: int) -> dict[str, float] | None:
    """Tokens per second of `fix`'s words in the time of the encoder-decoder, plain and drafted."""
    from edgedec.benchmark import stand, suite, workloads

    place = stand.Place(model="fix", threads=threads, replay=f"mu-{size}")
    shipped = (workloads.shipped("fix"),)
    settings = suite.Settings(place, stand.Ways(), shipped, pairs=pairs, weigh=False)
    rows = list(suite.run(settings, suite.Ears()))
    return {row.strategy: row.tokens_per_second or 0.0 for row in rows} or None


# --- telling -------------------------------------------------------------------------------------


def show(line: Line) -> None:
    def pair(values: dict[str, float], digits: int) -> str:
        return " / ".join(f"{values[kind]:.{digits}f}" for kind in KINDS)

    click.echo(
        f"{line.runtime:7} {line.case:9} first {pair(line.first_ms, 0):>13} ms "
        f"(floor {pair(line.floor_first_ms, 0)}) ratio {line.first_ratio}   "
        f"step {pair(line.step_ms, 2):>13} ms (floor {pair(line.floor_step_ms, 2)}) "
        f"throughput {line.throughput_ratio}   peak {pair(line.peak_mb, 0)} MB"
    )


@click.command(help=__doc__)
@click.option("--size", "sizes", multiple=True, default=["330m"], show_default=True,
              type=click.Choice(["330m", "70m"]))  # fmt: skip
@click.option("--runtime", "runtimes", multiple=True, default=["native", "onnx"], show_default=True,
              type=click.Choice(["native", "onnx"]))  # fmt: skip
@click.option("--case", "cases", multiple=True, default=CASES, show_default=True, help="in/out")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--draft/--no-draft", default=True, help="with the words of `fix`")
@click.option("--json", "as_json", is_flag=True, help="one JSON document on stdout")
def main(  # noqa: PLR0913, PLR0917 - one for each option
    sizes: tuple[str, ...],
    runtimes: tuple[FormName, ...],
    cases: tuple[str, ...],
    rounds: int,
    threads: int,
    draft: bool,
    as_json: bool,
) -> None:
    lines: list[dict[str, Any]] = []
    sources: dict[str, Any] = {}
    if not as_json:
        click.echo(
            f"{KINDS[0]} / {KINDS[1]}; ratios of times, and of tokens per second; "
            f"the paper: {PAPER['first token']} and {PAPER['throughput']}"
        )
    for size in sizes:
        for runtime in runtimes:
            for line in measure(size, runtime, cases, rounds, threads):
                lines.append(asdict(line))
                if not as_json:
                    show(line)
        if draft:
            sources[size] = found = drafted(size, 8, threads)
            if not as_json and found:
                speeds = ", ".join(f"{name} {speed:.1f}" for name, speed in found.items())
                click.echo(f"{size}: tokens per second with the words of fix, replayed: {speeds}")
    if as_json:
        click.echo(json.dumps({"schema": 1, "paper": PAPER, "lines": lines, "drafted": sources}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--weigh"]:
        name, form, case, threads = sys.argv[2:]
        print(weigh(name, "native" if form == "native" else "onnx", case, int(threads)))
    else:
        main()
