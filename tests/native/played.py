"""A fixed script of steps, the hash of its logits, and the same script as a file for driver.c."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedec.contracts import Rows, Want
from edgedec.runtimes import _source, _state
from edgedec.runtimes.native import _engine
from edgedec.runtimes.native.encoder import Encoder
from edgedec.runtimes.native.engine import Native
from edgedec.runtimes.native.session import NativeSession

from .counted import Floats, counted

Ints = NDArray[np.int32]

STEP, MOVE, RESTORE, READ = 1, 2, 3, 4
VISIBLE, VECTORS = 1, 2

PREFILL, SINGLE = 70, 10
SOURCE, LONG_SOURCE = 70, 330
"""Rows of a source; the long one is more than is read at once."""
TREE, KEPT = (-1, 0, 0, 1, 2, -1, 5), 4


class Recorder:
    """Stands between a session and the engine: hashes logits and writes down what was asked."""

    def __init__(self, engine: _engine.Session, vocab: int, capacity: int, dim: int) -> None:
        self.engine, self._vocab, self._dim = engine, vocab, dim
        self._parents: list[int] = []
        self.script = struct.pack("<i", capacity)
        self.hash = 0xCBF29CE484222325

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def step(self, *arguments: Any) -> None:
        self.engine.step(*arguments)
        self._stepped(arguments[:8], arguments[9:12])

    def tree_step(self, *arguments: Any) -> bool:
        """Written down as the step that it is."""
        trunk, position, _, _, tokens, parents, _, ranges, layers, _ = arguments
        if not self.engine.tree_step(*arguments):
            return False
        count, self._parents = len(tokens), parents.tolist()
        sees, positions = np.eye(count, dtype=np.uint8), np.full(count, position, np.int32)
        for row, parent in enumerate(self._parents):
            if parent >= 0:
                sees[row] |= sees[parent]
                positions[row] = positions[parent] + 1
        places = np.arange(count, dtype=np.int32)
        visible = None if self._parents == list(range(-1, count - 1)) else sees
        given = trunk, count, self._dim, places, positions, visible, tokens, None
        self._stepped(given, (ranges, places, layers))
        return True

    def tree_keep(self, trunk: int, leaf: int) -> list[int]:
        path = []
        row = leaf
        while row >= 0:
            path.append(row)
            row = self._parents[row]
        moves = [(trunk + row, trunk + i) for i, row in enumerate(path[::-1]) if row != i]
        if moves:
            self._note(MOVE, len(moves), *(row for row, _ in moves), *(to for _, to in moves))
        return self.engine.tree_keep(trunk, leaf)

    def _stepped(self, given: tuple[Any, ...], wanted: tuple[Any, ...]) -> None:
        trunk, living, dim, handles, positions, visible, tokens, vectors = given
        ranges, heads, layers = wanted
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
            self.engine.logits(number, line)
            self.hash = fnv(line.astype("<f4").tobytes(), self.hash)

    def move(self, source: NDArray[np.int32], target: NDArray[np.int32]) -> None:
        self.engine.move(source, target)
        self._note(MOVE, len(source), *source.tolist(), *target.tolist())

    def restored(self, engine: _engine.Session, positions: Sequence[int]) -> None:
        """From now on another session, which took over the trunk."""
        self.engine = engine
        self._note(RESTORE, len(positions), *positions)

    def read(self, encoder: Encoder, tokens: Ints | None, vectors: Floats | None) -> None:
        """A source, as it enters the encoder."""
        states, layers = encoder.states(tokens, vectors), encoder._layers
        self.engine.source(states)
        entering = tokens if vectors is None else vectors
        assert entering is not None
        flags = VECTORS * (vectors is not None)
        self._note(READ, len(states), flags, states.shape[1], layers)
        self.script += np.ascontiguousarray(entering).tobytes()

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
    spec = engine.architecture
    recorder = Recorder(session._session, spec.vocab, capacity, spec.embed.dim)
    session._session = recorder  # type: ignore[assignment]
    return session, recorder


def read(session: NativeSession, recorder: Recorder, count: int) -> None:
    """Give a session a source of so many rows, if its model reads any.

    Sound enters behind the convolutions, which numpy computes and no two machines alike.
    """
    engine, spec = session._engine, session._engine.architecture
    if spec.encoder is None:
        return
    count = min(count, _source.most_rows(spec))
    tokens, vectors = None, None
    if spec.frontend is None:
        vocab = (spec.source_embed or spec.embed).vocab
        tokens = (counted(f"source {count}", count) % vocab).astype(np.int32)
    else:
        numbers = counted(f"sound {count}", count * spec.embed.dim) % 257 - 128
        vectors = (numbers / 64).astype(np.float32).reshape(count, -1)
    recorder.read(engine.encoder, tokens, vectors)
    session._heard = _state.Heard(count, "0" * 32)
    session.truncate(0)


def play_briefly(engine: Native) -> bytes:
    """A prefill and a tree, as a script."""
    session, recorder = recorded(engine)
    read(session, recorder, 5)
    _step(session, range(9), range(-1, 8), (8,))
    session.keep([8])
    _step(session, range(7), TREE)
    return recorder.script + struct.pack("<i", 0)


def play(engine: Native) -> Recorder:
    """Prefill, a tree, a branch kept, a fork, layers in two parts, single steps, other sources."""
    spec = engine.architecture
    session, recorder = recorded(engine)
    read(session, recorder, SOURCE)
    text = (counted("text", PREFILL + 16 + SINGLE) % spec.vocab).tolist()

    _step(session, text[:PREFILL], range(-1, PREFILL - 1), (0, 1, 30, 62, 63, 64, PREFILL - 1))
    session.keep([PREFILL - 1])
    _step(session, text[PREFILL : PREFILL + 7], TREE)
    session.keep([KEPT, 6])
    session.keep([0])

    session._session = recorder.engine
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
    if spec.encoder is not None:
        for count in (LONG_SOURCE, 1):
            read(session, recorder, count)
            _step(session, text[:9], range(-1, 8))
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
