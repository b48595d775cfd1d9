"""The peak memory of a process that does nothing but load a model and answer a few prompts.

    python -m edgedec.benchmark.memory < order.json

Reads an `Order` as JSON and prints `{"peak_rss_mb": ...}`. A process of its own, since the peak of
one that measures everything is that of whatever was largest.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgspec

from edgedec.benchmark.prompts import Prompt

SECONDS = 300
"""After which a process that measures memory is given up."""


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to load and what to answer, each prompt with up to `longest` new tokens."""

    model: str
    device: str
    runtime: str
    threads: int | None
    kv_type: str | None
    strategy: str
    policy: str
    options: dict[str, Any]
    prompts: tuple[Prompt, ...]
    temperature: float
    longest: int
    seed: int


def peak_mb(order: Order) -> float | None:
    """Peak resident memory in MB (10^6 bytes); None where it could not be measured."""
    command = [sys.executable, "-m", "edgedec.benchmark.memory"]
    try:
        # In a session of its own, so that Ctrl-C is ours alone to handle.
        done = subprocess.run(
            command,
            input=msgspec.json.encode(order),
            capture_output=True,
            timeout=SECONDS,
            start_new_session=True,
            check=True,
        )
        found: float = msgspec.json.decode(done.stdout)["peak_rss_mb"]
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError, KeyError):
        return None
    return found or None


def main() -> None:
    """Follow the order on standard input."""
    import edgedec
    from edgedec.benchmark.play import Task, answers
    from edgedec.memory import peak_rss_mb

    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    with edgedec.load(
        order.model,
        device=order.device,
        runtime=order.runtime,
        strategy=order.strategy,
        strategy_options=order.options,
        policy=order.policy,
        threads=order.threads,
        kv_type=order.kv_type,
    ) as model:
        for index, prompt in enumerate(order.prompts):
            answers(model, Task(prompt, order.seed + index, order.longest), order.temperature)
    print(msgspec.json.encode({"peak_rss_mb": peak_rss_mb()}).decode())


if __name__ == "__main__":
    main()
