"""A pretend model for tests, ours and those of users: no weights, yet a whole `Session`.

Its logits are a pure function of the tokens that a row sees, so whatever a loop does with trees,
layer ranges or saved states, the text must come out the same. It is never chosen by itself: only
`Fake(...)`, or the device name "fake", leads here. It knows no files but saved sessions.

    engine = Fake(script=[5, 9, 2, 7])     # after 5, 9 comes 2; off the script, made-up text
    session = engine.session()
    session.step(Rows(tokens=np.array([5, 9]), parents=np.array([-1, 0]))).argmax()[-1]   # 2
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgedec.architecture import Architecture
from edgedec.bundle import Bundle
from edgedec.contracts import Capabilities, Layers, Rows, Want
from edgedec.devices import Device, EngineOptions
from edgedec.errors import DeviceError, InputError, UsageError
from edgedec.rowsets import check_hidden, layer_set
from edgedec.rowtree import Call, RowTree

from . import _source, _state
from ._result import Result, chosen_rows

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints

PREFERENCE = 1000
FORM = "none"

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_ANY_LENGTH = 10**9 - 1


def devices() -> list[Device]:
    """Nothing, unless EDGEDEC_FAKE=1 asks for it: pretend text must never come by surprise."""
    if os.environ.get("EDGEDEC_FAKE") != "1":
        return []
    return [Device("fake", "fake", "a pretend model for tests")]


def open(bundle: Bundle, options: EngineOptions) -> Fake:
    """Pretend to run a bundle: its vocabulary, layers, cuts and limits, without its weights.

    Raises:
        DeviceError: another device than "fake" was asked for.
    """
    if options.device != "fake":
        raise DeviceError(f"the fake runtime has no device {options.device!r}, only 'fake'")
    model = bundle.manifest.architecture
    return Fake(
        vocab=model.vocab,
        dim=model.embed.dim,
        layers=model.layers,
        context=model.limits.context,
        eos=model.tokens.eos,
        cuts=bundle.manifest.cuts,
        encoder=model.encoder is not None,
        reads=None if model.encoder is None else model,
    )


@dataclass
class Fake:
    """A pretend model.

    `sharpness` weighs a habit of the last token against the whole text: the higher, the more
    the text repeats itself. `agreement` is how often rows that skipped layers guess what the whole
    model says. On the `script` the next token is the script's, and after its end `eos[0]`.
    With an `encoder` it reads whatever is not empty, or what the model `reads`.
    """

    vocab: int = 256
    dim: int = 16
    layers: int = 4
    context: int = 1024
    eos: tuple[int, ...] = ()
    script: Sequence[int] = ()
    sharpness: float = 2.0
    agreement: float = 0.6
    cuts: tuple[int, ...] = (1, 2, 3)
    row_widths: tuple[int, ...] | None = None
    max_rows: int = 512
    encoder: bool = False
    reads: Architecture | None = None
    learned: list[int] = field(default_factory=list, init=False)
    closed: bool = field(default=False, init=False)

    @property
    def capabilities(self) -> Capabilities:
        """Everything that a session can do."""
        return Capabilities(
            max_rows=self.max_rows,
            row_widths=self.row_widths,
            cuts=self.cuts,
            resume=True,
            hidden_layers=tuple(range(self.layers + 1)),
            learned_ids=True,
            encoder=self.encoder,
            exactness="bitwise",
        )

    def steady(self) -> bool:
        """A row is a pure function of its path."""
        return True

    def session(self) -> FakeSession:
        """A new, empty session."""
        return FakeSession(self)

    def learn(self, vectors: Floats) -> int:
        """The first of the ids that stand for these vectors."""
        found = [_digest(vector) for vector in np.asarray(vectors, np.float32)]
        starts = range(len(self.learned) - len(found) + 1)
        known = next((i for i in starts if self.learned[i : i + len(found)] == found), None)
        if known is not None:
            return self.vocab + known
        self.learned += found
        return self.vocab + len(self.learned) - len(found)

    def close(self) -> None:
        """End all sessions."""
        self.closed = True

    @property
    def most_rows(self) -> int:
        """The most rows that a source can give."""
        if self.reads is not None:
            return _source.most_rows(self.reads)
        return _ANY_LENGTH if self.encoder else 0

    def read(self, source: Ints | Floats) -> tuple[int, _state.Heard]:
        """The path that a source begins, and what was heard of it.

        Raises:
            InputError: it is empty, or longer than what is read.
            UsageError: there is no encoder, or it has another form than what is read.
        """
        if not self.encoder:
            raise UsageError("this model has no encoder: give it a prompt only")
        if not len(source):
            raise InputError("the source is empty: give it at least one token or frame")
        array, rows = np.asarray(source), len(source)
        if self.reads is not None:
            array = _source.checked(source, self.reads)
            frontend = self.reads.frontend
            rows = rows if frontend is None else frontend.rows(rows)
        return _digest(array), _state.Heard(rows, _source.key_of(array))

    @cached_property
    def identity(self) -> dict[str, str]:
        """What saved states must agree on."""
        about = (self.vocab, self.layers, self.context, tuple(self.script), self.sharpness)
        return {"bundle": hashlib.sha256(repr(about).encode()).hexdigest(), "runtime": "fake"}

    @cached_property
    def on_script(self) -> dict[int, int]:
        """The state of each row that is on the script, and the token that follows it."""
        following = [*self.script[1:], *self.eos[:1]]
        state, found = 0, {}
        for position, (token, after) in enumerate(zip(self.script, following, strict=False)):
            state = _mix(state, token, position)
            found[state] = after
        return found

    def hashed(self, token: int) -> int:
        """What stands for a token in a path: learned ids count by their vectors."""
        return token if token < self.vocab else self.learned[token - self.vocab]

    def logits(self, state: int, habit: int, layers: int) -> Floats:
        """Logits [V] of a row by its path, its token and the layers it ran."""
        partial = layers != (1 << self.layers) - 1
        if partial and _mix(state, layers, 1) > self.agreement * _MASK:
            state = habit = _mix(state, layers, 2)
        values = self.sharpness * _gumbel(habit, self.vocab) + _gumbel(state, self.vocab)
        follows = self.on_script.get(state)
        if follows is not None:
            values[follows] = values.max() + 8
        return values.astype(np.float32)

    def hidden(self, state: int, layers: int, layer: int) -> Floats:
        """Hidden states [D] of a row after the first `layer` layers."""
        key = _mix(state, layers & ((1 << layer) - 1), layer)
        return (_uniform(key, self.dim) * 2 - 1).astype(np.float32)


class FakeSession:
    """See `edgedec.contracts.Session`. A row is a 64-bit hash of the path that leads to it."""

    def __init__(self, engine: Fake) -> None:
        self._engine = engine
        self._tree = RowTree(engine.layers, engine.context, engine.max_rows)
        self._root: int | None = None if engine.encoder else 0
        self._heard = _state.Heard()
        # By slot: the hash of the path, the same with the extra rows in sight, the token.
        self._rows: dict[int, tuple[int, int, int]] = {}

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids of the trunk."""
        return self._tree.tokens

    def step(self, rows: Rows, layers: Layers | None = None, want: Want | None = None) -> Result:
        """Run new rows; see the contract."""
        engine, want, count = self._open(), want or Want(), len(rows.tokens)
        run = layer_set(layers, engine.layers, engine.cuts)
        check_hidden(want.hidden, run, engine.capabilities.hidden_layers)
        self._check_width(count)
        if run & 1 == 0 and rows.hidden is None:
            raise UsageError("rows that do not begin at layer 0 need hidden vectors")
        chosen = chosen_rows(want.logits, count)
        call = self._tree.place(rows, run, engine.vocab + len(engine.learned))
        self._remember(rows, call)
        return self._result(call, chosen, want)

    def _open(self) -> Fake:
        if self._engine.closed:
            raise UsageError("the model was closed: load it again")
        if self._root is None:
            raise UsageError(_source.NOT_ENCODED)
        return self._engine

    def _check_width(self, count: int) -> None:
        widths = self._engine.row_widths
        if widths is not None and count not in widths:
            raise UsageError(f"a step of {count} rows; this runtime has the widths {widths} only")
        if count > self._engine.max_rows:
            raise InputError(f"a step of {count} rows; at most {self._engine.max_rows} fit")

    def _remember(self, rows: Rows, call: Call) -> None:
        slot = self._tree.slot
        for index, handle in enumerate(call.handles):
            above = slot(int(rows.parents[index]))
            state = self._rows[above][0] if above >= 0 else self._root or 0
            token = self._engine.hashed(int(rows.tokens[index]))
            if rows.hidden is not None:
                token = _digest(rows.hidden[index])
            state = _mix(state, token, int(call.positions[index]))
            self._rows[slot(handle)] = (state, state, token)
        for handle, others in zip(call.handles, rows.visible or (), strict=False):
            if others:
                state, _, token = self._rows[slot(handle)]
                extra = sum(self._rows[slot(other)][0] for other in others) & _MASK
                self._rows[slot(handle)] = (state, _mix(state, extra, 3), token)

    def resume(self, handles: Sequence[int], layers: Layers, want: Want | None = None) -> Result:
        """Run living rows through further layers; see the contract."""
        engine, want = self._open(), want or Want()
        run = layer_set(layers, engine.layers, engine.cuts)
        check_hidden(want.hidden, run, engine.capabilities.hidden_layers)
        self._check_width(len(handles))
        chosen = chosen_rows(want.logits, len(handles))
        return self._result(self._tree.resume(handles, run), chosen, want)

    def _result(self, call: Call, chosen: tuple[int, ...] | None, want: Want) -> Result:
        engine, ran = self._engine, call.layers
        rows = [self._rows[slot] for slot in call.slots.tolist()]
        picked = rows if chosen is None else [rows[row] for row in chosen]
        logits = [engine.logits(seen, _mix(token, 0), ran) for _, seen, token in picked]
        hidden = {
            layer: np.stack([engine.hidden(seen, ran, layer) for _, seen, _ in rows])
            for layer in want.hidden
        }
        table = np.array(logits, np.float32).reshape(len(picked), engine.vocab)
        return Result(call.handles, table, chosen, hidden)

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Let leaves and their ancestors live on; see the contract."""
        return self._tree.keep(leaves)

    def truncate(self, length: int) -> None:
        """Cut the trunk and drop all living rows."""
        self._tree.truncate(length)

    @property
    def source_rows(self) -> int:
        """One row for each item of the source, or as many as the model gives."""
        return self._heard.rows

    @property
    def source_key(self) -> str:
        """The digest of the source; "" before the first."""
        return self._heard.key

    @property
    def source_states(self) -> Floats | None:
        """None: it has no states."""
        return None

    def encode(self, source: Ints | Floats) -> None:
        """Read a source: another source, another text. A trunk from before is dropped."""
        root, heard = self._engine.read(source)
        self.truncate(0)
        self._root, self._heard = root, heard

    def save(self, path: Path) -> None:
        """Write the trunk to a safetensors file."""
        rows = [self._rows[slot] for slot in self._tree.trunk_slots.tolist()]
        plain = np.array([*rows, (self._root or 0, 0, 0)], np.uint64)
        tensors: _state.Tensors = {
            "tokens": np.array(self.tokens, np.int64),
            "positions": self._tree.trunk_positions,
            "rows": plain.view(np.float32).reshape(len(plain), 6),
        }
        _state.write(path, tensors, self._engine.identity, self._heard)

    def load(self, path: Path) -> None:
        """Take over a saved trunk."""
        engine = self._engine
        found, heard = _state.read(
            path,
            engine.identity,
            lambda count, _: {"rows": (count + 1, 6)},
            _state.Limits(engine.context, engine.vocab + len(engine.learned), engine.most_rows),
        )
        rows = np.ascontiguousarray(found["rows"]).view(np.uint64).tolist()
        root = rows.pop()[0]
        self._root, self._heard = None if engine.encoder and not heard.rows else root, heard
        self._tree = self._tree.restored(found["tokens"].tolist(), found["positions"])
        self._rows = {slot: tuple(row) for slot, row in enumerate(rows)}

    def fork(self) -> FakeSession:
        """A second session with a copy of this trunk."""
        other = FakeSession(self._engine)
        other._root, other._heard = self._root, self._heard
        other._tree = self._tree.restored(self.tokens, self._tree.trunk_positions)
        slots = self._tree.trunk_slots.tolist()
        other._rows = {index: self._rows[slot] for index, slot in enumerate(slots)}
        return other


def _mix(*parts: int) -> int:
    """A 64-bit hash of integers (SplitMix64's finaliser after each)."""
    state = 0
    for part in parts:
        state = (state ^ part) + _GOLDEN & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def _uniform(key: int, count: int) -> NDArray[np.float64]:
    """`count` numbers between 0 and 1, a function of `key` and their index."""
    state = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    state = (state ^ state >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ state >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(40)).astype(np.float64) + 0.5) / (1 << 24)


def _gumbel(key: int, count: int) -> NDArray[np.float64]:
    # Rounded, so that another C library's logarithm makes the same text.
    return np.round(-np.log(-np.log(_uniform(key, count))) * 1024) / 1024


def _digest(vector: NDArray[np.generic]) -> int:
    data = np.ascontiguousarray(vector).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
