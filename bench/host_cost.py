"""What a drafted turn costs outside of the step: propose, merge, plan, accept, keep, sample.

    python bench/host_cost.py                 stories on the native runtime, trees of 8 nodes
    python bench/host_cost.py --twin          with the Python twins instead of the C part
    python bench/host_cost.py --json

All drafters of `auto` are asked in every turn and the likeliest 8 nodes are checked (the policy
`fixed`), so this is the dearest turn there is. Median of all turns, with the 10th and 90th
percentile; plain turns beside it. The limit is 0.10 ms.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import click
import numpy as np

LIMIT_MS = 0.10


def turns(strategy: str, temperature: float, tokens: int) -> dict[str, Any]:
    """Milliseconds of host time of the turns of some texts."""
    import edgedec
    from edgedec.benchmark.workloads import shipped

    found: list[float] = []
    with edgedec.load("stories", strategy=strategy, policy="fixed") as model:
        planner = model._planner
        note = planner.spent

        def spent(rows: int, step: float, host: float) -> None:
            if planner._pending == 1:
                found.append(1e3 * host)
            note(rows, step, host)

        planner.spent = spent  # type: ignore[method-assign]
        evaluated = passes = 0
        for seed, prompt in enumerate(shipped("story").prompts):
            done = model.generate(
                prompt.turns[0], temperature=temperature, seed=seed, max_new_tokens=128
            )
            evaluated += done.evaluated
            passes += done.passes
            if len(found) >= tokens:
                break
    low, middle, high = np.percentile(found, [10, 50, 90]).round(4).tolist()
    return {
        "strategy": strategy,
        "temperature": temperature,
        "turns": len(found),
        "nodes": round(evaluated / passes, 2),
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
        turns(strategy, temperature, count)
        for strategy in ("plain", "prompt_lookup", "token_recycling", "auto")
        for temperature in (0.0, 0.8)
    ]
    if as_json:
        click.echo(json.dumps({"schema": 1, "limit_ms": LIMIT_MS, "twin": twin, "rows": rows}))
        return
    for row in rows:
        click.echo(
            f"{row['strategy']:16} temperature {row['temperature']:3}  {row['nodes']:5.2f} nodes  "
            f"{row['ms']:.3f} ms ({row['low_ms']:.3f}-{row['high_ms']:.3f})  {row['turns']} turns"
        )


if __name__ == "__main__":
    main()
