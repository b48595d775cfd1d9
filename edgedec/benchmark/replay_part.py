"""What a strategy was trained to, in replay: the real part's guesses in the time of its double.

Whatever is asked of the part is asked of a random one in the shape's sizes as well, whose answers
are thrown away and whose time counts. It knows no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgedec import devices, parts
from edgedec.benchmark.random_part import random_part, scaled
from edgedec.benchmark.replay import ReplaySession, Scale, noise

if TYPE_CHECKING:
    from edgedec.benchmark.replay import ReplayEngine
    from edgedec.bundle import Bundle
    from edgedec.contracts import Engine, Floats, Ints
    from edgedec.parts import Contents, Part


@dataclass(frozen=True, slots=True)
class Double:
    """A part in the shape's sizes, and what it holds."""

    part: Part
    contents: Contents


class ReplayPart:
    """See `edgedec.parts.Part`: answers of the `real` part, times of its double."""

    def __init__(self, real: Part, double: Double, engine: ReplayEngine, own: Contents) -> None:
        self._real, self._shadow, self._sizes = real, double.part, double.contents.matrices
        self._engine, self.watch = engine, engine.watch
        self.about: Mapping[str, Any] = real.about
        self.ids: Ints = real.ids
        self.temperature = 0.0
        """What is drafted is never drawn."""
        here, there = own.architecture, double.contents.architecture
        self.scale = engine.scale if here is None or there is None else Scale(here, there)

    def vectors(self, name: str) -> Floats:
        """The real one's."""
        return self._real.vectors(name)

    def embed(self, ids: Ints) -> Floats:
        """The real model's embeddings [n, D]."""
        with self.watch:
            found = self._real.embed(ids)
            there = self._engine.scale.ids(ids)
        self._shadow.embed(there)
        return found

    def linear(self, name: str, x: Floats) -> Floats:
        """The real product [n, N]."""
        with self.watch:
            found = self._real.linear(name, x)
            rows = noise(len(x), self._sizes[name][1])
        self._shadow.linear(name, rows)
        return found

    def likely(self, x: Floats, k: int) -> tuple[Ints, Floats]:
        """The real part's likeliest tokens [n, k]."""
        with self.watch:
            found = self._real.likely(x, k)
            rows = self._engine.scale.vectors(len(x))
        self._shadow.likely(rows, k)
        return found

    def session(self) -> ReplaySession:
        """A session of the real part's layers, and one of the double's."""
        with self.watch:
            real = self._real.session()
        return ReplaySession(self, real, self._shadow.session())


@dataclass(frozen=True, slots=True)
class Opening:
    """How parts are opened in a replay: the real one, and one for the shape's `bundle`.

    `shadow` runs the double if it is the engine that runs such parts, with so many `threads` else.
    """

    real: Callable[[str], Part | None]
    model: Bundle
    engine: ReplayEngine
    bundle: Callable[[], Bundle]
    shadow: Engine
    threads: int | None

    def __call__(self, strategy: str) -> ReplayPart | None:
        """The part of a strategy; None where it has none.

        Raises:
            EdgedecError: what opening the real one, or writing its double, raises.
        """
        real, path = self.real(strategy), self.model.strategy_file(strategy)
        if real is None or path is None:
            return None
        own, bundle = parts.contents(path), self.bundle()
        there = scaled(own, self.model.manifest.architecture, bundle)
        part = devices.open_part(random_part(there), bundle, self.shadow, self.threads)
        return ReplayPart(real, Double(part, there), self.engine, own)
