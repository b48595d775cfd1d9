"""What a drafted turn costs outside of the step: propose, merge, plan, accept, keep, sample.

    python bench/host_cost.py                 stories on the native runtime, trees of 8 nodes
    python bench/host_cost.py --twin          with the Python twins instead of the C part
    python bench/host_cost.py --json

With the policy `fixed` all drafters of `auto` are asked in every turn and the likeliest 8 nodes are
checked: the dearest turn there is. With `best` only those are asked that pay, and only turns in
which somebody was asked are counted. Median of all turns, with the 10th and 90th percentile; plain
turns beside it. The limit is 0.10 ms.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import numpy as np

LIMIT_MS = 0.10


CASES = (
    ("plain", "fixed"),
    ("prompt_lookup", "fixed"),
    ("token_recycling", "fixed"),
    ("trigram", "fixed"),
    ("auto", "fixed"),
    ("auto", "best"),
)


def turns(strategy: str, policy: str, temperature: float, tokens: int) -> dict[str, Any]:
    """Milliseconds of host time of the turns of some texts."""
    import edgedec
    from edgedec.benchmark.workloads import shipped

    found: list[tuple[float, int]] = []
    with edgedec.load("stories", strategy=strategy, policy=policy) as model:
        planner = model._planner
        note = planner.spent

        def spent(rows: int, step: float, host: float) -> None:
            if planner._pending == 1 and (planner.asked or policy == "fixed"):
                found.append((1e3 * host, rows - 1))
            note(rows, step, host)

        planner.spent = spent  # type: ignore[method-assign]
        for seed, prompt in enumerate(shipped("story").prompts):
            model.generate(prompt.turns[0], temperature=temperature, seed=seed, max_new_tokens=128)
            if len(found) >= tokens:
                break
    times, nodes = zip(*found, strict=True)
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
        )


if __name__ == "__main__":
    main()
