"""What self-drafting would gain at 135 M, 1 B and 3 B: published acceptance, times of this machine.

    python bench/forecast.py                     shapes 135m, 1b and 3b (random weights, made once)
    python bench/forecast.py --shape 135m --json

`edgedec bench --replay SHAPE` measures our own drafters on a small model's words. Larger models are
guessed better: here the acceptance that papers report for models of their size meets the times T(n)
that this machine needs at the shape. Prompt tokens (PPD, 2405.18628; accuracies recovered from the
trees it ships): the best tree whose every row is paid for, riders included, and the widths of the
paper beside it. A head with one layer (EAGLE, 2401.15077; acceptance by place at 7 B): the best
chain, each guess a pass through one layer and a head of 8192 ids.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from _shapes import open_engine

from edgedec import guess
from edgedec.costs import Costs
from edgedec.draft import Sheet

PAST, WIDEST, HEAD = 128, 64, 8192
PPD = {
    "68 M": ((0.151, 0.092, 0.065, 0.050), (0.077, 0.060), (0.068, 0.055)),
    "1.4 B": ((0.350, 0.146, 0.075, 0.047), (0.175, 0.119), (0.115, 0.088)),
    "7 B": ((0.483, 0.143, 0.074, 0.045), (0.263, 0.146), (0.164, 0.118)),
}
"""By model: how often the token of rank 1, 2, ... is right, at each distance."""
EAGLE_7B = (0.79, 0.74, 0.72, 0.73, 0.67)
"""How often a guess is right, given that those before it are."""
PAPER_ROWS = 60


@dataclass(frozen=True, slots=True)
class Best:
    """Speed over plain decoding of the best tree, its nodes, and the rows of its step."""

    speed: float
    tokens: float
    nodes: int
    rows: int


def prompt_tokens(accuracies: tuple[tuple[float, ...], ...], times: np.ndarray) -> list[Best]:
    """By number of nodes, with the number of riders per node (1 to 3) that is best there."""
    found: list[Best] = []
    for nodes in range(13):
        every = []
        for riders in range(1, len(accuracies) + 1):
            levels = [
                (np.arange(len(each), dtype=np.int32), np.array(each, np.float32))
                for each in accuracies[:riders]
            ]
            tree = guess.product(levels, nodes, Sheet(WIDEST))
            paths: list[float] = []
            for score, parent in zip(tree.score.tolist(), tree.parents.tolist(), strict=True):
                paths.append(score * (paths[parent] if parent >= 0 else 1.0))
            tokens, rows = 1 + sum(paths), (1 + riders) * (1 + len(paths))
            if rows < len(times):
                every.append(Best(tokens * times[1] / times[rows], tokens, nodes, rows))
        if every:
            found.append(max(every, key=lambda each: each.speed))
    return [Best(1.0, 1.0, 0, 1), *found[1:]]


def head(costs: Costs, times: np.ndarray, vocab: int) -> Best:
    """The best chain of a head with one layer."""
    logits = costs.part(PAST, 0, 0, 1) * min(1.0, HEAD / vocab)
    one = costs.part(PAST, 1, 1) + logits
    best, tokens = Best(1.0, 1.0, 0, 1), 1.0
    for depth, path in enumerate(np.cumprod(EAGLE_7B), start=1):
        tokens += float(path)
        speed = tokens * times[1] / (times[depth + 1] + depth * one)
        best = max(best, Best(speed, tokens, depth, depth + 1), key=lambda each: each.speed)
    return best


def forecast(shape: str, threads: int) -> dict[str, Any]:
    """What was measured at a shape, and what follows."""
    from edgedec.benchmark.shapes import random_bundle
    from edgedec.profiler.measure import FULL, measure

    bundle = random_bundle(shape, "native")
    model = bundle.manifest.architecture
    engine = open_engine(bundle, threads)
    costs = measure(engine, model, FULL).costs
    engine.close()
    times = costs.step(PAST, WIDEST)
    row: dict[str, Any] = {
        "shape": shape,
        "t_ms": {n: round(1e3 * times[n], 3) for n in (1, 2, 4, 8, 16, 32, 64)},
        "eagle_7b": vars_of(head(costs, times, model.vocab)),
    }
    for size, accuracies in PPD.items():
        trees = prompt_tokens(accuracies, times)
        row[f"ppd {size}"] = {
            "best": vars_of(max(trees, key=lambda each: each.speed)),
            "by_nodes": [round(float(each.speed), 3) for each in trees],
            "paper_rows": round(float(trees[-1].tokens * times[1] / times[PAPER_ROWS]), 3),
        }
    return row


def vars_of(best: Best) -> dict[str, float]:
    """For a table or JSON."""
    return {
        "speed": round(float(best.speed), 3),
        "tokens": round(float(best.tokens), 3),
        "nodes": best.nodes,
        "rows": best.rows,
    }


@click.command(help=__doc__)
@click.option("--shape", "shapes", multiple=True, default=["135m", "1b", "3b"], show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True)
def main(shapes: tuple[str, ...], threads: int, as_json: bool) -> None:
    rows = [forecast(shape, threads) for shape in shapes]
    if as_json:
        click.echo(json.dumps({"schema": 1, "rows": rows}))
        return
    for row in rows:
        times = "  ".join(f"{n}: {ms}" for n, ms in row["t_ms"].items())
        click.echo(f"{row['shape']}: ms by rows  {times}")
        eagle = row["eagle_7b"]
        click.echo(f"  head with a layer, acceptance of 7 B: {eagle['speed']:.2f} ({eagle})")
        for size in PPD:
            found = row[f"ppd {size}"]
            best = found["best"]
            click.echo(
                f"  prompt tokens, accuracy of {size}: {best['speed']:.2f} with {best['nodes']} "
                f"nodes in {best['rows']} rows; {PAPER_ROWS} rows: {found['paper_rows']:.2f}; "
                f"by nodes {found['by_nodes']}"
            )


if __name__ == "__main__":
    main()
