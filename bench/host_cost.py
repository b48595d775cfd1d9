"""What a drafted turn costs outside of the step: propose, merge, plan, accept, keep, sample.

    python bench/host_cost.py                 stories on the native runtime, trees of 8 nodes
    python bench/host_cost.py --twin          with the Python twins instead of the C part
    python bench/host_cost.py --source        with modules as they are written, not compiled
    python bench/host_cost.py --json

With the policy `fixed` all drafters are asked in every turn and the likeliest 8 nodes are checked:
the dearest turn there is. With `best` only those are asked that pay, and only turns in which
somebody was asked are counted. Median of all turns, with the 10th and 90th percentile; plain turns
beside it. `free` are the drafters of `auto` that need no training. What trained parts run is time
of a model and not of the host: it stands apart, as the passes of a turn on average. The limit is
0.10 ms, for `free` with `fixed`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import click
import numpy as np

LIMIT_MS = 0.10
FREE = "phrase_pool+prompt_lookup+token_recycling+trigram"

CASES = (
    ("plain", "fixed"),
    ("prompt_lookup", "fixed"),
    ("token_recycling", "fixed"),
    ("trigram", "fixed"),
    ("free", "fixed"),
    ("free", "best"),
    ("auto", "fixed"),
    ("auto", "best"),
)


class Timed:
    """A session whose steps are noted: whose they are, how many rows, and the seconds."""

    def __init__(self, inner: Any, log: list[tuple[Any, int, float]]) -> None:
        self._inner, self._log = inner, log
        self.keep, self.truncate, self.encode = inner.keep, inner.truncate, inner.encode

    @property
    def tokens(self) -> Any:
        return self._inner.tokens

    def step(self, rows: Any, layers: Any = None, want: Any = None) -> Any:
        before = time.perf_counter()
        found = self._inner.step(rows, layers, want)
        self._log.append((self, len(rows.tokens), time.perf_counter() - before))
        return found

    def resume(self, handles: Any, layers: Any, want: Any = None) -> Any:
        before = time.perf_counter()
        found = self._inner.resume(handles, layers, want)
        self._log.append((self, len(handles), time.perf_counter() - before))
        return found


@contextmanager
def timed(log: list[tuple[Any, int, float]]) -> Iterator[None]:
    """Sessions that are made meanwhile, the model's and those of trained parts, are `Timed`."""
    from edgedec.runtimes.native.engine import Native
    from edgedec.runtimes.native.part import NativePart

    with ExitStack() as stack:
        for kind in (Native, NativePart):

            def session(self: Any, make: Callable[[Any], Any] = kind.session) -> Timed:
                return Timed(make(self), log)

            stack.enter_context(patch.object(kind, "session", session))
        yield


def measure_device() -> None:
    """Now, if it has not been: sessions that are timed cannot fork."""
    import edgedec

    edgedec.load("stories").close()


def turns(strategy: str, policy: str, temperature: float, tokens: int) -> dict[str, Any]:
    """Milliseconds of host time of the turns of some texts."""
    import edgedec
    from edgedec import options
    from edgedec.benchmark.workloads import shipped
    from edgedec.decode import Tally

    found: list[tuple[float, int, float]] = []
    log: list[tuple[Any, int, float]] = []
    asked = FREE if strategy == "free" else strategy
    with timed(log), edgedec.load("stories", strategy=asked, policy=policy) as model:
        planner = model._planner
        for seed, prompt in enumerate(shipped("story").prompts):
            chosen = options.read({"temperature": temperature, "seed": seed, "max_new_tokens": 128})
            read = model._read(prompt.turns[0])
            rule = model._answering.rule(read, chosen)
            steps, first = model._loop.run(read.prompt, rule, Tally()), True
            while True:
                log.clear()
                before = time.perf_counter()
                emitted = next(steps, None)
                whole = time.perf_counter() - before
                if emitted is None:
                    break
                # The turn that reads the end of the prompt is no measure of the others.
                if not first and (planner.asked or policy == "fixed"):
                    own = [each for each in log if each[0] is model._session][-1]
                    passing = sum(each[2] for each in log) - own[2]
                    host = whole - own[2] - passing
                    found.append((1e3 * host, own[1] - 1, 1e3 * passing))
                first = first and not emitted
            if len(found) >= tokens:
                break
    times, nodes, passing_ms = zip(*found, strict=True)
    low, middle, high = np.percentile(times, [10, 50, 90]).round(4).tolist()
    return {
        "strategy": strategy,
        "policy": policy,
        "temperature": temperature,
        "turns": len(found),
        "nodes": round(float(np.mean(nodes)), 2),
        "ms": middle,
        "low_ms": low,
        "high_ms": high,
        "passes_ms": round(float(np.mean(passing_ms)), 4),
    }


@click.command(help=__doc__)
@click.option("--turns", "count", default=3000, show_default=True)
@click.option("--twin", is_flag=True, help="the Python twins of the C part")
@click.option("--source", is_flag=True, help="modules that were compiled run as their source")
@click.option("--json", "as_json", is_flag=True)
def main(count: int, twin: bool, source: bool, as_json: bool) -> None:
    if source:
        os.environ["EDGEDEC_COMPILED"] = "0"
    if twin:
        sys.modules["edgedec._tree._fast"] = None  # type: ignore[assignment]
    measure_device()
    rows = [
        turns(strategy, policy, temperature, count)
        for strategy, policy in CASES
        for temperature in (0.0, 0.8)
    ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "limit_ms": LIMIT_MS, "twin": twin, "rows": rows}))
        return
    for row in rows:
        click.echo(
            f"{row['strategy']:16} {row['policy']:6} temperature {row['temperature']:3}  "
            f"{row['nodes']:5.2f} nodes  "
            f"{row['ms']:.3f} ms ({row['low_ms']:.3f}-{row['high_ms']:.3f})  {row['turns']} turns"
            + (f"  and {row['passes_ms']:.3f} ms of passes" if row["passes_ms"] else "")
        )


if __name__ == "__main__":
    main()
