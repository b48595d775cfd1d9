"""A contestant in a process of its own: reads orders as JSON lines and answers with times.

    {"do": "open", "kind": "ours" | "llama" | "machine", ...}   what it is, as JSON
    {"do": "step", "past": 128, "rows": 8, "times": 4}          seconds of each step
    {"do": "prefill", "rows": 512, "chunk": 32, "times": 1}     seconds of each prompt
    {"do": "logits", "tokens": [...], "file": "x.npy"}          the logits of a text, saved
    {"do": "read" | "fp32" | "int8", "rows": 1000, "times": 1}  of the machine: so much of it

One process each, since the peer may live in an environment of its own, an instruction set is
chosen for a whole process, and a memory peak belongs to one. `_turns.py` gives the orders.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from _machine import Limits


class Contestant(Protocol):
    about: dict[str, Any]

    def prepare(self, past: int) -> Callable[[int], None]:
        """A conversation with so much past; what is given runs a step of n rows and drops it."""
        ...

    def prefill(self, rows: int, chunk: int) -> None:
        """A prompt from nothing; only its last row gets logits."""
        ...

    def logits(self, tokens: list[int]) -> np.ndarray:
        """The logits of every row of a text [n, V]."""
        ...


class Ours:
    """A runtime of edgedec's."""

    def __init__(self, order: dict[str, Any]) -> None:
        from _shapes import open_engine

        from edgedec.bundle import open_bundle

        bundle = open_bundle(Path(order["path"]))
        start = time.perf_counter()
        self._engine: Any = open_engine(bundle, order["threads"], order["kv_type"])
        seconds = time.perf_counter() - start
        self._sessions: dict[int, Any] = {}
        isa = getattr(self._engine, "isa", "its own choice")
        runtime = "native" if bundle.manifest.forms.native else "onnx"
        self.about = {"runtime": runtime, "isa": isa, "open_ms": 1e3 * seconds}

    def prepare(self, past: int) -> Callable[[int], None]:
        from edgedec.contracts import TRUNK, Want

        if past not in self._sessions:
            session = self._sessions[past] = self._engine.session()
            for first in range(0, past, 64):
                count = min(64, past - first)
                session.step(chain(count), want=Want(logits=()))
                session.keep([count - 1])
        session = self._sessions[past]
        prepared = {count: chain(count) for count in (1, 2, 4, 8, 16)}

        def step(count: int) -> None:
            session.step(prepared[count]).argmax()
            session.keep([TRUNK])

        return step

    def prefill(self, rows: int, chunk: int) -> None:
        from edgedec.contracts import Want

        session = self._sessions.setdefault(-1, self._engine.session())
        session.truncate(0)
        for first in range(0, rows, chunk):
            count = min(chunk, rows - first)
            last = first + count == rows
            result = session.step(chain(count), want=Want(logits=(count - 1,) if last else ()))
            session.keep([count - 1])
        result.argmax()

    def logits(self, tokens: list[int]) -> np.ndarray:
        from edgedec.contracts import Rows

        session = self._sessions.setdefault(-1, self._engine.session())
        session.truncate(0)
        rows = []
        for first in range(0, len(tokens), 32):
            part = np.array(tokens[first : first + 32], np.int32)
            result = session.step(Rows(part, np.arange(-1, len(part) - 1, dtype=np.int32)))
            rows += [result.logits(row).copy() for row in range(len(part))]
            session.keep([len(part) - 1])
        return np.stack(rows)


def chain(count: int) -> Any:
    from edgedec.contracts import Rows

    return Rows(np.full(count, 7, np.int32), np.arange(-1, count - 1, dtype=np.int32))


def contestant(order: dict[str, Any]) -> Contestant | Limits:
    if order["kind"] == "ours":
        return Ours(order)
    if order["kind"] == "machine":
        return Limits(order["threads"])
    from _llama import Llama

    return Llama(order)


def timed(work: Callable[[], object], times: int) -> list[float]:
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return found


def answer(player: Contestant | Limits, order: dict[str, Any]) -> object:
    match order["do"]:
        case "step":
            step = player.prepare(order["past"])
            return timed(lambda: step(order["rows"]), order["times"])
        case "prefill":
            return timed(lambda: player.prefill(order["rows"], order["chunk"]), order["times"])
        case "logits":
            np.save(order["file"], player.logits(order["tokens"]))
            return None
        case "read" | "fp32" | "int8" if isinstance(player, Limits):
            return [player.seconds(order["do"], order["rows"]) for _ in range(order["times"])]
    raise ValueError(f"no order {order['do']!r}")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not talk into the answers
    player: Contestant | Limits | None = None
    for line in sys.stdin:
        order = json.loads(line)
        if player is None:
            player = contestant(order)
            found: object = player.about
        else:
            found = answer(player, order)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
