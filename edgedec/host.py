"""The only door from a drafter to a model: scratch rows in the session that decodes.

It cannot keep a row, so a drafter cannot change the text. It knows no drafter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgedec.architecture import Architecture
from edgedec.contracts import (
    Capabilities,
    Engine,
    Layers,
    Rows,
    Session,
    StepResult,
    Want,
)
from edgedec.text import Text

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints
    from edgedec.parts import Part


@dataclass(frozen=True, slots=True)
class Files:
    """What a bundle holds for strategies, and how other models and trained parts are opened."""

    open_engine: Callable[[str], Engine]
    data: Callable[[str], Path | None] = lambda strategy: None
    open_part: Callable[[str], Part | None] = lambda strategy: None


class Scratch:
    """The `Host` of one session. `rows` counts the scratch rows stepped since the last keep.

    Of rows that leave early it remembers what the layers in `shown` gave, for those who want to
    see it once they are resumed.
    """

    def __init__(
        self,
        engine: Engine,
        session: Session,
        architecture: Architecture,
        files: Files,
        text: Text | None = None,
    ) -> None:
        self.architecture = architecture
        self.text = text
        self.capabilities: Capabilities = engine.capabilities
        self.rows = 0
        self.shown: tuple[int, ...] = ()
        self._early: dict[int, dict[int, Floats]] = {}
        self._engine, self._session, self._files = engine, session, files
        self._parts: dict[str, Part | None] = {}
        self._engines: list[Engine] = []

    @property
    def source_states(self) -> Floats | None:
        """What the encoder made of the source, where the runtime shows it."""
        return self._session.source_states

    def data(self, strategy: str) -> Path | None:
        """The bundle's file for a strategy, if there is one."""
        return self._files.data(strategy)

    def part(self, strategy: str) -> Part | None:
        """What a strategy had trained for this bundle, opened once."""
        if strategy not in self._parts:
            self._parts[strategy] = self._files.open_part(strategy)
        return self._parts[strategy]

    def learn(self, vectors: Floats) -> int:
        """Learned ids for these embeddings [count, D]; the first. The same have the same ids."""
        return self._engine.learn(vectors)

    def step(
        self, rows: Rows, layers: Layers | None = None, want: Want | None = None
    ) -> StepResult:
        """Scratch rows in the session that decodes."""
        shown = self.before(layers[0].stop) if layers and layers[0].start == 0 else ()
        if shown:
            want = want or Want()
            want = replace(want, hidden=tuple(sorted({*want.hidden, *shown})))
        result = self._session.step(rows, layers, want)
        self.rows += len(rows.tokens)
        for layer in shown:
            states = result.hidden(layer).copy()
            self._early.setdefault(layer, {}).update(zip(result.handles, states, strict=True))
        return result

    def before(self, layer: int) -> tuple[int, ...]:
        """The layers in `shown` that rows which leave after `layer` layers have run."""
        return tuple(each for each in self.shown if each <= layer)

    def early(self, layer: int, handles: Sequence[int]) -> Floats:
        """What a layer in `shown` gave for rows that have left since [n, D]."""
        states = self._early[layer]
        return np.stack([states[handle] for handle in handles])

    def load(self, bundle: str) -> Engine:
        """Open a draft model, on the same device."""
        engine = self._files.open_engine(bundle)
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        """Give the weights of all draft models and trained parts back."""
        self._parts.clear()
        while self._engines:
            self._engines.pop().close()


class Resumed:
    """The result of rows that were resumed at a layer: those before it gave their states then."""

    def __init__(self, result: StepResult, early: dict[int, Floats]) -> None:
        self._result, self._early = result, early

    @property
    def handles(self) -> Sequence[int]:
        """The handles of the rows."""
        return self._result.handles

    @property
    def astray(self) -> Set[int]:
        """Rows that are better not kept."""
        return self._result.astray

    def argmax(self) -> Ints:
        """The most likely token of each row [n]."""
        return self._result.argmax()

    def topk(self, k: int) -> tuple[Ints, Floats]:
        """The k largest logits of each row with logits."""
        return self._result.topk(k)

    def logits(self, i: int) -> Floats:
        """The logits of row i [V]."""
        return self._result.logits(i)

    def hidden(self, layer: int) -> Floats:
        """The hidden states of all rows at a layer that was wanted [n, D]."""
        return self._early[layer] if layer in self._early else self._result.hidden(layer)
