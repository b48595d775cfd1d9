"""One conversation with a model in native form; see `edgedec.contracts.Session`.

The tree says who sees whom; the C engine computes and holds keys and values. Row h of the living
lies behind the trunk at index len(trunk) + h, so nothing but sets of handles passes between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgedec.contracts import TRUNK, Layers, Rows, Want
from edgedec.errors import InputError, UsageError
from edgedec.rowsets import chain_matrix, check_hidden, layer_set
from edgedec.rowtree import Call, RowTree
from edgedec.runtimes import _source, _state
from edgedec.runtimes._result import chosen_rows

from ._engine import Refused, Session
from .result import NativeResult

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.architecture import Architecture
    from edgedec.contracts import Capabilities, Floats, Ints
    from edgedec.runtimes._learned import Learned

    from ._engine import Model
    from .encoder import Encoder

SPARE = 4096
"""Living rows beyond the context: beams that share nothing hold many. Memory is touched by use."""

_ANY = Want()
_NONE = np.zeros(0, np.int32)
_NO_STATES = np.empty((0, 0, 0), np.float32)
_NOT_SHOWN: dict[int, Floats] = {}
_COUNT = np.arange(1024, dtype=np.int32)
"""0, 1, 2, ...: handles and lines of most steps are pieces of it."""


class Layered(Protocol):
    """Layers that sessions run: a bundle's, or those of a trained part."""

    architecture: Architecture
    capabilities: Capabilities
    kv_type: str
    identity: dict[str, str]
    learned: Learned

    @property
    def model(self) -> Model:
        """The C engine's model."""

    @property
    def encoder(self) -> Encoder:
        """What reads a source."""

    def session(self) -> NativeSession:
        """A new, empty session."""


class NativeSession:
    """A trunk, living rows, and their keys and values in the C engine."""

    def __init__(self, engine: Layered) -> None:
        self._engine = engine
        self._model = engine.architecture
        self._vocab, self._depth = self._model.vocab, self._model.layers
        self._dim = self._model.embed.dim
        self._context = self._model.limits.context
        tree = RowTree(self._model.layers, self._model.limits.context, SPARE, compact=True)
        self._whole = np.array([[0, self._model.layers]], np.int32)
        self._heard = _state.Heard()
        self._bests: dict[int, Ints] = {}
        self._adopt(tree)

    def _adopt(self, tree: RowTree) -> None:
        """Begin anew with a tree and memory that nothing has touched."""
        from .engine import KV_TYPES

        self._known, self._grown = tree, 0
        capacity = self._model.limits.context + SPARE
        kind = KV_TYPES.index(self._engine.kv_type)
        try:
            self._session = Session(self._engine.model, kind, capacity)
        except Refused as error:
            raise InputError(f"there is no room for a session: {error}") from None
        self._leaving: dict[int, Floats] = {}
        self._latest: NativeResult | None = None

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids of the trunk."""
        return self._known.tokens

    @property
    def _tree(self) -> RowTree:
        """Trunk and living rows. Those of a step that was a tree below the trunk's end join it when
        they are asked for: mostly one path of them is kept, which takes no more than the engine.
        """
        if self._grown:
            tokens, parents = self._session.tree_rows()
            self._grown = 0
            rows = Rows(np.array(tokens, np.int32), np.array(parents, np.int32))
            self._known.place(rows, (1 << self._depth) - 1, self._engine.learned.ids)
        return self._known

    # --- steps -----------------------------------------------------------------------------------

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> NativeResult:
        """Run new rows; with `hidden` at layer 0 they stand in place of token embeddings."""
        engine, want = self._engine, want or _ANY
        run, chosen = self._plan(len(rows.tokens), layers, want)
        grown = self._grow(rows, want.hidden) if layers is None and chosen is None else None
        if grown is not None:
            return grown
        if rows.hidden is not None:
            self._check_vectors(rows.hidden)
        elif not run & 1:
            raise UsageError("rows that do not begin at layer 0 need hidden vectors")
        call = self._tree.place(rows, run, engine.learned.ids)
        return self._run(call, run, layers, (chosen, want.hidden), rows)

    def resume(
        self, handles: Sequence[int], layers: Layers, want: Want | None = None
    ) -> NativeResult:
        """Run living rows, which ran the layers before, through further layers."""
        want = want or _ANY
        run, chosen = self._plan(len(handles), layers, want)
        missing = [handle for handle in handles if handle not in self._leaving]
        call = self._tree.resume(handles, run)
        if missing:
            self._tree.withdraw(call)
            raise UsageError(f"row {missing[0]} has not left the model early: nothing to resume")
        vectors = np.stack([self._leaving[handle] for handle in handles])
        rows = Rows(_NONE, _NONE, hidden=vectors)
        return self._run(call, run, layers, (chosen, want.hidden), rows)

    def _grow(self, rows: Rows, hidden: tuple[int, ...]) -> NativeResult | None:
        """Run a step that is a tree below the trunk's end; None where it is something else."""
        tree, learned = self._known, self._engine.learned
        odd = rows.positions is not None or rows.hidden is not None or rows.visible is not None
        if odd or self._grown or tree.living:
            return None
        count = len(rows.tokens)
        states = np.empty((len(hidden), count, self._dim), np.float32) if hidden else _NO_STATES
        try:
            run = self._session.tree_step(
                len(tree.tokens),
                tree.end + 1,
                self._context,
                learned.ids,
                rows.tokens,
                rows.parents,
                learned.vectors if len(learned.vectors) else None,
                self._whole,
                np.array(hidden, np.int32) if hidden else _NONE,
                states,
            )
        except Refused as error:
            raise UsageError(f"the engine refuses the step: {error}") from None
        if not run:
            return None
        self._grown = count
        by_layer = dict(zip(hidden, states, strict=True)) if hidden else _NOT_SHOWN
        return self._result(range(count), None, by_layer)

    def _plan(
        self, count: int, layers: Layers | None, want: Want
    ) -> tuple[int, tuple[int, ...] | None]:
        capabilities = self._engine.capabilities
        _ = self._engine.model  # refuses if it was closed
        if capabilities.encoder and not self._heard.rows:
            raise UsageError(_source.NOT_ENCODED)
        if count > capabilities.max_rows:
            raise InputError(f"a step of {count} rows; at most {capabilities.max_rows} fit")
        run = layer_set(layers, self._depth, capabilities.cuts)
        if want.hidden:
            check_hidden(want.hidden, run, capabilities.hidden_layers)
        return run, chosen_rows(want.logits, count)

    def _check_vectors(self, vectors: Floats) -> None:
        width = self._dim
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise UsageError(f"hidden vectors are [n, {width}], these {vectors.shape}")

    def _run(
        self,
        call: Call,
        run: int,
        layers: Layers | None,
        want: tuple[tuple[int, ...] | None, tuple[int, ...]],
        rows: Rows,
    ) -> NativeResult:
        chosen, hidden = want
        # The engine takes rows in the order of their handles.
        order = np.argsort(call.handles, kind="stable") if call.layers_before else None
        count, top = len(call.slots), run.bit_length()
        leaves = top < self._depth
        shown = sorted({*hidden, *((top,) if leaves else ())}) if hidden or leaves else []
        states = np.empty((len(shown), count, self._dim), np.float32) if shown else _NO_STATES
        heads = _counted(range(count)) if chosen is None else np.array(chosen, np.int32)
        try:
            self._compute(call, rows, layers, (heads, shown, states), order)
        except BaseException:
            self._tree.withdraw(call)
            raise
        by_layer = dict(zip(shown, states, strict=True))
        if leaves:
            self._leaving.update(zip(call.handles, by_layer[top], strict=True))
        hidden_states = {layer: by_layer[layer] for layer in hidden}
        return self._result(call.handles, chosen, hidden_states)

    def _compute(
        self,
        call: Call,
        rows: Rows,
        layers: Layers | None,
        want: tuple[Ints, list[int], Floats],
        order: NDArray[np.intp] | None,
    ) -> None:
        heads, shown, states = want
        handles = _counted(call.handles)
        visible = self._visible(call, handles)
        vectors = None if rows.hidden is None else np.ascontiguousarray(rows.hidden, np.float32)
        tokens = None if vectors is not None else np.ascontiguousarray(rows.tokens, np.int32)
        positions = call.positions.astype(np.int32)
        if order is not None:
            handles, positions = handles[order], positions[order]
            visible = None if visible is None else np.ascontiguousarray(visible[order])
            vectors = None if vectors is None else np.ascontiguousarray(vectors[order])
            heads = np.argsort(order)[heads].astype(np.int32)
        learned = self._engine.learned.vectors
        try:
            self._session.step(
                len(self._tree.tokens),
                self._tree.living,
                self._dim,
                handles,
                positions,
                visible,
                tokens,
                vectors,
                learned if len(learned) else None,
                self._whole if layers is None else _ranges(layers),
                heads,
                np.array(shown, np.int32) if shown else _NONE,
                states,
            )
        except Refused as error:
            raise UsageError(f"the engine refuses the step: {error}") from None
        if order is not None and shown:
            states[:] = states[:, np.argsort(order)]

    def _visible(self, call: Call, handles: Ints) -> NDArray[np.uint8] | None:
        """Which living rows each row sees [n, living]; None: all up to itself."""
        if call.chain:
            return None
        first, count = int(handles[0]), len(handles)
        if call.past.shape[1] == first and call.layers_before == 0:
            if not first:
                return call.own.view(np.uint8)
            if call.past.all() and (count == 1 or _is_lower(call.own)):
                return None
        visible = np.zeros((count, self._tree.living), np.uint8)
        visible[:, : call.past.shape[1]] = call.past
        visible[:, handles] = call.own
        return visible

    def _result(
        self, handles: Sequence[int], chosen: tuple[int, ...] | None, hidden: dict[int, Floats]
    ) -> NativeResult:
        if self._latest is not None:
            self._latest.latest = False
        self._latest = NativeResult(
            self._session, handles, chosen, self._vocab, hidden, self._bests
        )
        return self._latest

    # --- what stays ------------------------------------------------------------------------------

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Let the leaves and their ancestors live on; see the contract."""
        if self._grown and len(leaves) == 1 and TRUNK <= leaves[0] < self._grown:
            self._grown = 0
            self._known.go_on(self._session.tree_keep(len(self._known.tokens), leaves[0]))
            return (TRUNK,)
        kept = self._tree.keep(leaves)
        source, target = self._tree.moves
        if source:
            self._session.move(np.array(source, np.int32), np.array(target, np.int32))
        self._leaving.clear()
        return kept

    def truncate(self, length: int) -> None:
        """Cut the trunk to its first `length` rows and drop all living rows."""
        self._tree.truncate(length)
        self._leaving.clear()

    # --- the source ------------------------------------------------------------------------------

    @property
    def source_rows(self) -> int:
        """How many rows the encoder gave; 0 before the first `encode` and without an encoder."""
        return self._heard.rows

    @property
    def source_key(self) -> str:
        """The digest of what `encode` was given, "" before."""
        return self._heard.key

    @property
    def source_states(self) -> Floats | None:
        """The encoder's rows, as long as they are those of an encoding and not of a file."""
        return self._heard.states

    def encode(self, source: Ints | Floats) -> None:
        """Run the encoder over a source and keep what cross-attention reads; the trunk is empty."""
        found = _source.checked(source, self._model)
        encoder, key = self._engine.encoder, _source.key_of(found)
        if key != self.source_key:
            try:
                states = encoder.read(found)
                self._session.source(states)
            except Refused as error:
                raise InputError(f"there is no room for the source: {error}") from None
            self._heard = _state.Heard(len(states), key, states)
        self.truncate(0)

    # --- copies ----------------------------------------------------------------------------------

    def fork(self) -> NativeSession:
        """A second session with a copy of this trunk; weights and source are shared."""
        other = self._engine.session()
        tree = self._tree
        other._take_over(tree.restored(tree.tokens, tree.trunk_positions), self._rows())
        if self._heard.rows:
            other._session.share_source(self._session)
            other._heard = self._heard
        return other

    def _rows(self) -> bytes:
        return self._session.get(len(self._tree.tokens))

    def save(self, path: Path) -> None:
        """Write trunk, keys, values and what the encoder gave to a safetensors file."""
        tensors: _state.Tensors = {
            "tokens": np.array(self.tokens, np.int64),
            "positions": self._tree.trunk_positions,
            "rows": np.frombuffer(self._rows(), np.uint8),
        }
        if self._heard.rows:
            tensors["source"] = np.frombuffer(self._session.get_source(), np.uint8)
        _state.write(path, tensors, self._engine.identity, self._heard)

    def load(self, path: Path) -> None:
        """Take over a saved trunk and its source; what was here is dropped."""
        most = _source.most_rows(self._model)
        limits = _state.Limits(self._model.limits.context, self._engine.learned.ids, most)
        found, heard = _state.read(path, self._engine.identity, self._shapes, limits)
        tree = self._tree.restored(found["tokens"].tolist(), found["positions"])
        self._take_over(tree, found["rows"])
        if heard.rows:
            self._session.set_source(heard.rows, found["source"])
        self._heard = heard

    def _shapes(self, count: int, source_rows: int) -> dict[str, tuple[int, ...]]:
        rows = (len(self._session.get(1)) * count,)
        if not source_rows:
            return {"rows": rows}
        return {"rows": rows, "source": (self._session.source_bytes(source_rows),)}

    def _take_over(self, tree: RowTree, rows: bytes | NDArray[np.uint8]) -> None:
        self._adopt(tree)
        self._session.set(tree.trunk_positions.astype(np.int32), rows)


def _ranges(layers: Layers) -> Ints:
    return np.array([[part.start, part.stop] for part in layers], np.int32)


def _counted(rows: Sequence[int]) -> Ints:
    """Rows as an array; not to be written to."""
    if isinstance(rows, range) and rows.stop <= len(_COUNT):
        return _COUNT[rows.start : rows.stop]
    return np.array(rows, np.int32)


def _is_lower(own: NDArray[np.bool_]) -> bool:
    return bool((own == chain_matrix(len(own))).all())
