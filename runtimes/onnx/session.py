"""One conversation with a model in ONNX form; see `edgedec.contracts.Session`.

The tree says who sees whom and in which slots; here that is put into the buffers of a step, which
writes its keys and values into their slots. It knows no strategy and no text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import Layers, Rows, Want
from edgedec.errors import InputError, UsageError
from edgedec.rowsets import bucket, check_hidden, layer_set
from edgedec.rowtree import Call, RowTree
from edgedec.runtimes import _source, _state
from edgedec.runtimes._result import Result, chosen_rows

from .bindings import Bindings, Bound, Entry, Shape
from .encoder import Encoded
from .keyvalues import KeyValues, shapes
from .lanes import Lanes
from .masks import Masks
from .segments import crossing

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints
    from edgedec.rowsets import Indices

    from .engine import Onnx

_ANY = Want()

SPARE = 4096
"""Rows that may live beyond the context: many beams share little but the prompt."""


class OnnxSession:
    """A trunk, living rows, and their keys and values in host memory."""

    def __init__(self, engine: Onnx) -> None:
        self._engine = engine
        self.model = engine.architecture
        parts = engine.parts
        self._blocks = [block for segment in parts.segments for block in segment.blocks]
        self._table = parts.table
        self._crossing = crossing(self.model)
        self._encoded = Encoded.nothing(self._crossing)
        self._bindings = Bindings(parts)
        self._nothing = np.zeros((1, self.model.embed.dim), np.float32)
        layers, context = self.model.layers, self.model.limits.context
        self._adopt(RowTree(layers, context, SPARE, compact=True))

    def _adopt(self, tree: RowTree) -> None:
        """Begin anew with a tree and empty buffers that can hold it."""
        capacity = bucket(tree.width, self._limit)
        self._tree = tree
        self._past = KeyValues(self._blocks, capacity)
        self._lanes, self._masks = Lanes(), Masks(capacity, self._table)
        self._leaving: Floats | None = None
        self._bindings.clear()

    def close(self) -> None:
        """The engine was closed: let go of its weights."""
        self._bindings.close()

    @property
    def _limit(self) -> int:
        return self.model.limits.context + SPARE

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids of the trunk."""
        return self._tree.tokens

    # --- steps -----------------------------------------------------------------------------------

    def step(self, rows: Rows, layers: Layers | None = None, want: Want | None = None) -> Result:
        """Run new rows; with `hidden` at layer 0 they stand in place of token embeddings."""
        engine, want = self._engine, want or _ANY
        run, chosen = self._plan(len(rows.tokens), layers, want)
        entry = self._entry(rows, run)
        call = self._tree.place(rows, run, engine.learned.ids)
        parents = np.asarray(rows.parents).tolist()
        self._lanes.place(call, parents, len(self._tree.tokens), self._past.capacity)
        source = rows.tokens if rows.hidden is None else rows.hidden
        return self._run(call, run, chosen, want.hidden, (entry, source))

    def resume(self, handles: Sequence[int], layers: Layers, want: Want | None = None) -> Result:
        """Run living rows, which ran the layers before, through further layers."""
        want = want or _ANY
        run, chosen = self._plan(len(handles), layers, want)
        call = self._tree.resume(handles, run)
        self._lanes.find(call)
        leaving = self._leaving
        if leaving is None:
            raise UsageError("no row has left the model early, so there is none to resume")
        return self._run(call, run, chosen, want.hidden, ("hidden", leaving[call.slots]))

    def _plan(
        self, count: int, layers: Layers | None, want: Want
    ) -> tuple[int, tuple[int, ...] | None]:
        capabilities = self._engine.capabilities
        if self._engine.closed:
            raise UsageError("the model was closed: load it again")
        if capabilities.encoder and not self._encoded.heard.rows:
            raise UsageError(_source.NOT_ENCODED)
        if count > capabilities.max_rows:
            raise InputError(f"a step of {count} rows; at most {capabilities.max_rows} fit")
        run = layer_set(layers, self.model.layers, capabilities.cuts)
        if want.hidden:
            check_hidden(want.hidden, run, capabilities.hidden_layers)
        return run, chosen_rows(want.logits, count)

    def _entry(self, rows: Rows, run: int) -> Entry:
        if rows.hidden is None:
            if not run & 1:
                raise UsageError("rows that do not begin at layer 0 need hidden vectors")
            return "ids"
        width = self.model.embed.dim
        if rows.hidden.ndim != 2 or rows.hidden.shape[1] != width:
            raise UsageError(f"hidden vectors are [n, {width}], these {rows.hidden.shape}")
        return "vectors" if run & 1 else "hidden"

    def _run(
        self,
        call: Call,
        run: int,
        chosen: tuple[int, ...] | None,
        hidden: tuple[int, ...],
        source: tuple[Entry, Ints | Floats],
    ) -> Result:
        count = len(call.slots)
        logits = count if chosen is None else len(chosen)
        shape = Shape(count, logits, chosen is None, run, hidden, source[0])
        try:
            self._reserve(int(call.slots.max()) + 1)
            # The graph reads a row of the table even where there is none.
            learned = self._engine.learned.vectors
            learned = learned if len(learned) else self._nothing
            bound = self._bindings.get(shape, self._past, learned, self._encoded)
            self._enter(bound, call, chosen, source)
            bound.run()
        except BaseException:
            self._tree.withdraw(call)
            raise
        if bound.leaving is not None:
            self._remember(bound.leaving, call)
        shown = {layer: bound.hidden[layer] for layer in hidden}
        result = Result(call.handles, bound.logits, chosen, shown)
        result.astray = self._lanes.astray(call)
        return result

    def _reserve(self, slots: int) -> None:
        if slots <= self._past.capacity:
            return
        capacity = bucket(slots, self._limit)
        self._bindings.clear()
        self._past.grow(capacity)
        self._masks.grow(capacity)
        if self._leaving is not None:
            self._leaving = np.pad(self._leaving, ((0, capacity - len(self._leaving)), (0, 0)))

    def _enter(
        self,
        bound: Bound,
        call: Call,
        chosen: tuple[int, ...] | None,
        source: tuple[Entry, Ints | Floats],
    ) -> None:
        entry, values = source
        if bound.entering is None:
            bound.ids[:] = values
        else:
            bound.entering[:] = values
            if entry == "vectors":
                bound.ids[:] = np.arange(len(values)) + self.model.vocab
        bound.positions[:] = call.positions
        if chosen is not None:
            bound.head_rows[:] = chosen
        for places in bound.places.values():
            places[:, :, 1] = call.slots
        self._masks.fill(bound.masks, call, self._tree)
        if bound.buckets is not None:
            self._masks.fill_buckets(bound.buckets, call)

    def _remember(self, leaving: Floats, call: Call) -> None:
        """Keep what rows are when they leave early, by slot: they may be resumed."""
        if self._leaving is None:
            self._leaving = np.zeros((self._past.capacity, leaving.shape[1]), np.float32)
        self._leaving[call.slots] = leaving

    # --- what stays ------------------------------------------------------------------------------

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Let the leaves and their ancestors live on; see the contract."""
        trunk = len(self._tree.tokens)
        kept = self._tree.keep(leaves)
        source, target = self._lanes.keep(self._tree, trunk)
        if source:
            self._past.move(source, target)
        return kept

    def truncate(self, length: int) -> None:
        """Cut the trunk to its first `length` rows and drop all living rows."""
        self._tree.truncate(length)
        self._lanes.clear()

    @property
    def source_rows(self) -> int:
        """How many rows the encoder gave; 0 before the first source and without an encoder."""
        return self._encoded.heard.rows

    @property
    def source_key(self) -> str:
        """The digest of the source; "" before the first and without an encoder."""
        return self._encoded.heard.key

    @property
    def source_states(self) -> Floats | None:
        """None: the graph gives keys and values alone."""
        return None

    def encode(self, source: Ints | Floats) -> None:
        """Run the encoder over a source and keep what it gives; see the contract."""
        checked, encoder = _source.checked(source, self.model), self._engine.encoder
        assert encoder is not None
        self.truncate(0)
        if _source.key_of(checked) != self.source_key:
            # Let go of the old keys and values first: two copies are never in memory.
            self._encoded = Encoded.nothing(self._crossing)
            self._bindings.look_at(self._encoded)
            self._encoded = encoder.run(checked)

    def fork(self) -> OnnxSession:
        """A second session with a copy of this trunk; weights and source are shared."""
        other = self._engine.session()
        other._encoded = self._encoded
        tree = self._tree
        other._take_over(tree.tokens, tree.trunk_positions, self._past.gathered(tree.trunk_slots))
        return other

    def save(self, path: Path) -> None:
        """Write the trunk and what the encoder gave to a safetensors file."""
        tensors: _state.Tensors = {
            "tokens": np.array(self.tokens, np.int64),
            "positions": self._tree.trunk_positions,
            **self._past.gathered(self._tree.trunk_slots),
            **self._encoded.tensors(),
        }
        _state.write(path, tensors, self._engine.identity, self._encoded.heard)

    def load(self, path: Path) -> None:
        """Take over a saved trunk and its source; what was here is dropped."""
        most = _source.most_rows(self.model)
        limits = _state.Limits(self.model.limits.context, self._engine.learned.ids, most)
        found, heard = _state.read(path, self._engine.identity, self._shapes, limits)
        self._encoded = Encoded.restored(heard, self._crossing, found)
        self._take_over(found["tokens"].tolist(), found["positions"], found)

    def _shapes(self, tokens: int, rows: int) -> dict[str, tuple[int, ...]]:
        return {**shapes(self._blocks, tokens), **shapes(self._crossing, rows, "cross")}

    def _take_over(
        self, tokens: Sequence[int], positions: Indices, rows: Mapping[str, Floats]
    ) -> None:
        self._adopt(self._tree.restored(tokens, positions))
        self._past.fill(rows)
