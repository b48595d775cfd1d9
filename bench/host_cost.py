"""What a drafted turn costs outside of the step: propose, merge, plan, accept, keep, sample.

    python bench/host_cost.py                 stories on the native runtime, trees of 8 nodes
    python bench/host_cost.py --twin          with the Python twins instead of the C part
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
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
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


class Passes:
    """The time that drafters took of a model: steps of any session within a planner's calls."""

    def __init__(self, planner: Any) -> None:
        self.seconds, self._within = 0.0, False
        for name in ("propose", "observe", "read"):
            setattr(planner, name, self._drafting(getattr(planner, name)))

    def _drafting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def within(*given: Any) -> Any:
            self._within = True
            try:
                return call(*given)
            finally:
                self._within = False

        return within

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """A session's step, which counts where a drafter asked for it."""

        def step(*given: Any, **named: Any) -> Any:
            before = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                self.seconds += self._within * (time.perf_counter() - before)

        return step


def turns(strategy: str, policy: str, temperature: float, tokens: int) -> dict[str, Any]:
    """Milliseconds of host time of the turns of some texts."""
    import edgedec
    from edgedec.benchmark.workloads import shipped
    from edgedec.runtimes.native.session import NativeSession

    found: list[tuple[float, int, float]] = []
    asked = FREE if strategy == "free" else strategy
    with edgedec.load("stories", strategy=asked, policy=policy) as model, ExitStack() as stack:
        planner = model._planner
        passes, note = Passes(planner), planner.spent
        for name in ("step", "resume") if strategy == "auto" else ():
            step = passes.timed(getattr(NativeSession, name))
            stack.enter_context(patch.object(NativeSession, name, step))

        def spent(rows: int, step: float, host: float) -> None:
            if planner._pending == 1 and (planner.asked or policy == "fixed"):
                found.append((1e3 * (host - passes.seconds), rows - 1, 1e3 * passes.seconds))
            passes.seconds = 0.0
            note(rows, step, host)

        planner.spent = spent  # type: ignore[method-assign]
        for seed, prompt in enumerate(shipped("story").prompts):
            model.generate(prompt.turns[0], temperature=temperature, seed=seed, max_new_tokens=128)
            if len(found) >= tokens:
                break
    times, nodes, passing = zip(*found, strict=True)
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
        "passes_ms": round(float(np.mean(passing)), 4),
    }


@click.command(help=__doc__)
@click.option("--turns", "count", default=3000, show_default=True)
@click.option("--twin", is_flag=True, help="the Python twins of the C part")
@click.option("--json", "as_json", is_flag=True)
def main(count: int, twin: bool, as_json: bool) -> None:
    if twin:
        sys.modules["edgedec._tree._fast"] = None  # type: ignore[assignment]
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
