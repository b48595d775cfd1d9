"""A fixed script of steps, the hash of its logits, and the same script as a file for driver.c."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import Rows, Want
from edgedec.runtimes.native import _engine
from edgedec.runtimes.native.engine import Native
from edgedec.runtimes.native.session import NativeSession

from .variants import counted

STEP, MOVE, RESTORE = 1, 2, 3
VISIBLE, VECTORS = 1, 2

PREFILL, SINGLE = 70, 10
TREE, KEPT = (-1, 0, 0, 1, 2, -1, 5), 4


class Recorder:
    """Stands between a session and the engine: hashes logits and writes down what was asked."""

    def __init__(self, engine: _engine.Session, vocab: int, capacity: int) -> None:
        self._engine, self._vocab = engine, vocab
        self.script = struct.pack("<i", capacity)
        self.hash = 0xCBF29CE484222325

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def step(self, *arguments: Any) -> None:
        trunk, living, dim, handles, positions, visible, tokens, vectors = arguments[:8]
        ranges, heads, layers = arguments[9:12]
        self._engine.step(*arguments)
        flags = VISIBLE * (visible is not None) + VECTORS * (vectors is not None)
        sizes = len(ranges), len(heads), len(layers), dim
        self._note(STEP, len(handles), trunk, living, flags, *sizes)
        entering = tokens if vectors is None else vectors
        for array in (handles, positions, visible, entering, ranges, heads, layers):
            if array is not None:
                raw = np.ascontiguousarray(array).tobytes()
                self.script += raw + bytes(-len(raw) % 4)
        line = np.empty(self._vocab, np.float32)
        for number in range(len(heads)):
            self._engine.logits(number, line)
            self.hash = fnv(line.astype("<f4").tobytes(), self.hash)

    def move(self, source: NDArray[np.int32], target: NDArray[np.int32]) -> None:
        self._engine.move(source, target)
        self._note(MOVE, len(source), *source.tolist(), *target.tolist())

    def restored(self, engine: _engine.Session, positions: Sequence[int]) -> None:
        """From now on another session, which took over the trunk."""
        self._engine = engine
        self._note(RESTORE, len(positions), *positions)

    def _note(self, *numbers: int) -> None:
        self.script += struct.pack(f"<{len(numbers)}i", *numbers)


def fnv(data: bytes, start: int = 0xCBF29CE484222325) -> int:
    """FNV-1a, 64 bits."""
    for byte in data:
        start = ((start ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return start


def recorded(engine: Native) -> tuple[NativeSession, Recorder]:
    session = engine.session()
    capacity = engine.architecture.limits.context + engine.capabilities.max_rows
    recorder = Recorder(session._session, engine.architecture.vocab, capacity)
    session._session = recorder  # type: ignore[assignment]
    return session, recorder


def play_briefly(engine: Native) -> bytes:
    """A prefill and a tree, as a script."""
    session, recorder = recorded(engine)
    _step(session, range(9), range(-1, 8), (8,))
    session.keep([8])
    _step(session, range(7), TREE)
    return recorder.script + struct.pack("<i", 0)


def play(engine: Native) -> Recorder:
    """Prefill, a tree, a branch kept, a fork, layers in two parts, single steps."""
    spec = engine.architecture
    session, recorder = recorded(engine)
    text = (counted("text", PREFILL + 16 + SINGLE) % spec.vocab).tolist()

    _step(session, text[:PREFILL], range(-1, PREFILL - 1), (0, 1, 30, 62, 63, 64, PREFILL - 1))
    session.keep([PREFILL - 1])
    _step(session, text[PREFILL : PREFILL + 7], TREE)
    session.keep([KEPT, 6])
    session.keep([0])

    session = session.fork()
    recorder.restored(session._session, session._tree.trunk_positions.tolist())
    session._session = recorder  # type: ignore[assignment]
    nine, cut = text[PREFILL + 7 : PREFILL + 16], spec.layers - 1
    if cut:
        rows = Rows(np.array(nine, np.int32), np.arange(-1, 8, dtype=np.int32))
        session.step(rows, (range(cut),), Want(logits=(0, 8), hidden=(0, cut)))
        session.resume([3, 2, 1, 0], (range(cut, cut + 1),))
        session.keep([3])
    for token in text[PREFILL + 16 :]:
        _step(session, [token], [-1])
        session.keep([0])
    recorder.script += struct.pack("<i", 0)
    return recorder


def _step(
    session: NativeSession,
    tokens: Sequence[int],
    parents: Sequence[int],
    logits: tuple[int, ...] | None = None,
) -> None:
    rows = Rows(np.array(tokens, np.int32), np.array(parents, np.int32))
    session.step(rows, want=Want(logits=logits))
