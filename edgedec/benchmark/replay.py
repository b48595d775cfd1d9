"""Co-simulation: the words of a small model at the speed of a large one.

Every step runs twice: on the real model, which says what comes next and whose time does not count,
and on its shadow, a model of random weights in the shape that is to be known, whose answers are
thrown away and whose time counts. Both see the same tree on the same past. What is asked of a
result is asked of both, so that a large vocabulary is paid for as well. It knows no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgedec import _tree
from edgedec.accept import NEAR
from edgedec.benchmark.stopwatch import Stopwatch
from edgedec.contracts import Rows, Want
from edgedec.errors import UnsupportedError

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import (
        Capabilities,
        Engine,
        Floats,
        Ints,
        Layers,
        Session,
        StepResult,
    )


def noise(count: int, width: int) -> Floats:
    """Vectors [count, width] to compute with: of nothing but zeros all logits would be alike."""
    return np.random.default_rng(width).standard_normal((count, width), np.float32)


class Scale:
    """What the real model's ids, layers and vectors are in the shadow."""

    def __init__(self, real: Architecture, shadow: Architecture) -> None:
        self._ids, self._layers = (real.vocab, shadow.vocab), (real.layers, shadow.layers)
        self._width = shadow.embed.dim
        self._sources = (shadow.source_embed or shadow.embed).vocab

    def layer(self, layer: int) -> int:
        """The same share of the layers; what is within stays within."""
        real, shadow = self._layers
        if layer in (0, real):
            return layer // real * shadow
        return min(max(round(layer * shadow / real), 1), shadow - 1)

    def layers(self, layers: Layers | None) -> Layers | None:
        """The same shares of the layers."""
        if layers is None:
            return None
        return tuple(range(self.layer(part.start), self.layer(part.stop)) for part in layers)

    def rows(self, rows: Rows) -> Rows:
        """The same tree. Ids wrap around; learned ids stay learned, vectors are noise."""
        vectors = None if rows.hidden is None else self.vectors(len(rows.hidden))
        return replace(rows, tokens=self.ids(rows.tokens), hidden=vectors)

    def ids(self, tokens: Ints) -> Ints:
        """Ids that the shadow has; learned ids stay learned."""
        real, shadow = self._ids
        found = np.asarray(tokens)
        return np.where(found < real, found % shadow, found - real + shadow).astype(np.int32)

    def source(self, source: Ints | Floats) -> Ints | Floats:
        """As many ids, that the shadow's encoder has."""
        return (source % self._sources).astype(np.int32)

    def vectors(self, count: int) -> Floats:
        """Vectors as wide as the shadow is."""
        return noise(count, self._width)

    def want(self, want: Want | None) -> Want | None:
        """The same rows; hidden states of the same shares."""
        if want is None or not want.hidden:
            return want
        return replace(want, hidden=tuple(map(self.layer, want.hidden)))


class ReplayEngine:
    """An engine with the real model's answers and the shadow's times; `watch` has the time.

    `temperature` is that of the generation that comes next: each draw of the real model is then
    drawn from the shadow's logits as well.
    """

    def __init__(
        self, real: Engine, shadow: Engine, scale: Scale, watch: Stopwatch | None = None
    ) -> None:
        self.real, self.shadow, self.scale = real, shadow, scale
        self.watch = watch or Stopwatch()
        self.temperature = 0.0
        self.capabilities = _common(real.capabilities, shadow.capabilities, scale)

    def steady(self) -> bool:
        """As the real model's rows are."""
        return self.real.steady()

    def session(self) -> ReplaySession:
        """A new, empty session."""
        return ReplaySession(self, self.real.session(), self.shadow.session())

    def learn(self, vectors: Floats) -> int:
        """The real model gets them; its shadow gets as many, told apart by their ids."""
        first = self.real.learn(vectors)
        self.shadow.learn(self.scale.vectors(len(vectors)) + np.float32(first))
        return first

    def close(self) -> None:
        """Give both back."""
        self.real.close()
        self.shadow.close()


def _common(real: Capabilities, shadow: Capabilities, scale: Scale) -> Capabilities:
    """What both can do."""
    most = min(real.max_rows, shadow.max_rows)
    return replace(
        real,
        max_rows=most,
        prompt_rows=min(shadow.prompt_rows, most),
        cuts=tuple(cut for cut in real.cuts if scale.layer(cut) in shadow.cuts),
        hidden_layers=tuple(
            layer for layer in real.hidden_layers if scale.layer(layer) in shadow.hidden_layers
        ),
        resume=real.resume and shadow.resume,
        learned_ids=real.learned_ids and shadow.learned_ids,
        encoder=real.encoder and shadow.encoder,
        source_states=real.source_states and shadow.source_states,
    )


class Pair(Protocol):
    """What two sessions in step belong to: a model and its shadow, or a part and its."""

    scale: Scale
    watch: Stopwatch
    temperature: float


class ReplaySession:
    """Two sessions in step: see `edgedec.contracts.Session`."""

    def __init__(self, engine: Pair, real: Session, shadow: Session) -> None:
        self._engine, self._watch = engine, engine.watch
        self._real, self._shadow = real, shadow

    @property
    def tokens(self) -> Sequence[int]:
        """The token ids of the real trunk."""
        return self._real.tokens

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> ReplayResult:
        """Run new rows through both."""
        scale = self._engine.scale
        with self._watch:
            real = self._real.step(rows, layers, want)
            order = scale.rows(rows), scale.layers(layers), scale.want(want)
        return ReplayResult(self._engine, real, self._shadow.step(*order))

    def resume(
        self, handles: Sequence[int], layers: Layers, want: Want | None = None
    ) -> ReplayResult:
        """Run living rows of both through further layers."""
        scale = self._engine.scale
        with self._watch:
            real = self._real.resume(handles, layers, want)
            further, wanted = scale.layers(layers) or (), scale.want(want)
        return ReplayResult(self._engine, real, self._shadow.resume(handles, further, wanted))

    def keep(self, leaves: Sequence[int]) -> tuple[int, ...]:
        """Keep the same rows of both."""
        with self._watch:
            found = self._real.keep(leaves)
        self._shadow.keep(leaves)
        return found

    def truncate(self, length: int) -> None:
        """Cut both trunks."""
        with self._watch:
            self._real.truncate(length)
        self._shadow.truncate(length)

    def fork(self) -> ReplaySession:
        """Copies of both."""
        return ReplaySession(self._engine, self._real.fork(), self._shadow.fork())

    @property
    def source_rows(self) -> int:
        """Those of the real model."""
        return self._real.source_rows

    @property
    def source_key(self) -> str:
        """That of the real model."""
        return self._real.source_key

    @property
    def source_states(self) -> Floats | None:
        """Those of the real model."""
        return self._real.source_states

    def encode(self, source: Ints | Floats) -> None:
        """Both read it; the shadow's ids wrap around."""
        with self._watch:
            known = self._real.source_key
            self._real.encode(source)
            again = known == self._real.source_key
            heard = self._engine.scale.source(source)
        # The shadow must do what a model of its shape would: nothing, where the source is held.
        if again:
            self._shadow.truncate(0)
        else:
            self._shadow.encode(heard)

    def save(self, path: Path) -> None:
        """Write the real state: the shadow's is worth nothing."""
        self._real.save(path)

    def load(self, path: Path) -> None:
        """The shadow has no such state."""
        raise UnsupportedError("a replayed session cannot take over a saved state")


class ReplayResult:
    """The real answers, each asked of the shadow as well."""

    def __init__(self, engine: Pair, real: StepResult, shadow: StepResult) -> None:
        self._engine, self._watch = engine, engine.watch
        self._real, self._shadow = real, shadow

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows of this step, the same in both."""
        return self._real.handles

    @property
    def astray(self) -> Set[int]:
        """Rows that are better not kept."""
        return self._real.astray

    def argmax(self) -> Ints:
        """The real model's first choices."""
        self._shadow.argmax()
        with self._watch:
            return self._real.argmax()

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The real model's likeliest tokens."""
        self._shadow.topk(k)
        with self._watch:
            return self._real.topk(k)

    def logits(self, i: int) -> Floats:
        """The real logits of row i [V]; the shadow's are drawn from as these are about to be."""
        line = self._shadow.logits(i)
        if self._engine.temperature > 0:
            _tree.draw(line, self._engine.temperature, 0, i)
        else:
            line[line > line.max() - NEAR].argmax()
        with self._watch:
            return self._real.logits(i)

    def hidden(self, layer: int) -> Floats:
        """The real hidden states [n, D]."""
        self._shadow.hidden(self._engine.scale.layer(layer))
        with self._watch:
            return self._real.hidden(layer)
