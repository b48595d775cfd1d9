"""Answers that are made up, and what the bench opens on the fake runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edgedec.benchmark import shapes
from edgedec.benchmark.rows import Row
from edgedec.benchmark.shapes import Llama
from edgedec.benchmark.stand import Place, Stand, opened
from edgedec.generation import Generation

ANSWER: dict[str, Any] = {
    "text": "", "prompt_tokens": 3, "finish_reason": "length", "seed": 0, "model": "m",
    "runtime": "r", "device": "d", "strategy": "plain", "strategy_requested": "plain",
    "lossy": False, "seconds": 1.0, "load_seconds": 0.0, "time_to_first_token_ms": 5.0,
    "passes": 4, "tokens_per_pass": 2.0, "evaluated": 0, "accepted": 0, "near_ties": 0,
    "depths": (), "peak_rss_mb": 0.0,
}  # fmt: skip
ROW: dict[str, Any] = {
    "model": "m", "runtime": "r", "device": "d", "strategy": "auto", "workload": "w",
    "new_tokens": 9, "tokens_per_second": 10.0, "speedup": 1.5, "speedup_low": 1.2,
    "speedup_high": 1.8, "pairs": 2, "tokens_per_pass": 2.0, "acceptance": 0.5,
    "time_to_first_token_ms": 1.0, "peak_rss_mb": 60.0, "distinct4": 0.9, "identical": True,
    "near_ties": 0, "lossy": False, "simulated": False, "replayed": None, "forced": False,
    "ran": "trigram", "ratios": (1.2, 1.8), "depths": ((9, 6), (8, 2)), "draft_share": 0.25,
    "part_parameters": 0, "part_bytes": 0,
}  # fmt: skip


@pytest.fixture
def answer() -> Callable[..., Generation]:
    """A generation of so many tokens (or these) at so many per second."""

    def make(tokens: int | tuple[int, ...], rate: float | None = 10.0, **more: Any) -> Generation:
        ids = tuple(range(tokens)) if isinstance(tokens, int) else tokens
        told = {"tokens": ids, "new_tokens": len(ids), "tokens_per_second": rate}
        return Generation(**ANSWER | told | more)

    return make


@pytest.fixture
def row() -> Callable[..., Row]:
    """A row with some fields changed."""
    return lambda **more: Row(**ROW | more)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A shape that is written in no time."""
    monkeypatch.setitem(shapes.SHAPES, "tiny", Llama(64, 3, 1, 1, 128, 9000, tied=True))
    return "tiny"


@pytest.fixture
def stand(plain_bundle: Path, fake_device: None) -> Iterator[Stand]:
    """The bundle of bytes on the fake runtime."""
    with opened(Place(str(plain_bundle), "fake"), "fake", False, lambda what, share: None) as found:
        yield found
