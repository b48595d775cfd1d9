"""The encoder of a model in native form: a whole source in one step of the C engine.

It is a model of its own beside the decoder's, with the same threads. It knows no session: what it
gives, the decoder's sessions turn into keys and values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from edgedec import frontend as frontends
from edgedec.manifest import Manifest
from edgedec.mapped import Mapped
from edgedec.weights import shapes

from . import _engine, spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from edgedec.architecture import Architecture, Stack
    from edgedec.contracts import Floats, Ints

KEPT_ROWS = 256
"""The memory of a source up to this length is kept for the next one, that of longer ones is not."""

FP16 = 0
"""How the engine stores an encoder's own keys and values, which live while it runs."""


class Encoder:
    """See `read`; it may be used by several threads at once."""

    def __init__(
        self, model: _engine.Model, manifest: Manifest, stack: Stack, packed: Mapped
    ) -> None:
        self._model = model.beside(spec.encode_encoder(manifest, stack, packed.tensors))
        self._layers, self._width = len(stack.layers), manifest.architecture.embed.dim
        self._frontend = manifest.architecture.frontend
        self._weights = _frontend_weights(manifest.architecture, packed)
        self._idle: list[_engine.Session] = []

    def read(self, source: Ints | Floats) -> Floats:
        """The hidden states [rows, D], before the final norm, of a source that was checked."""
        if self._frontend is None:
            return self.states(np.asarray(source, np.int32), None)
        sound = np.asarray(source, np.float32)
        return self.states(None, frontends.rows(self._frontend, self._weights, sound))

    def states(self, tokens: Ints | None, vectors: Floats | None) -> Floats:
        """The same of ids [rows], or of what a front end gave [rows, D]."""
        entering = tokens if vectors is None else vectors
        assert entering is not None
        rows = len(entering)
        session = self._session(rows)
        states = np.empty((rows, self._width), np.float32)
        order, nothing = np.arange(rows, dtype=np.int32), np.zeros(0, np.int32)
        layers = np.array([[0, self._layers]], np.int32)
        session.step(
            0, rows, self._width, order, order, None, tokens, vectors, None, layers, nothing,
            layers[0, 1:], states,
        )  # fmt: skip
        if rows <= KEPT_ROWS:
            self._idle[:] = [session]
        return states

    def _session(self, rows: int) -> _engine.Session:
        if rows > KEPT_ROWS:
            return _engine.Session(self._model, FP16, rows)
        try:
            return self._idle.pop()
        except IndexError:
            return _engine.Session(self._model, FP16, KEPT_ROWS)


def _frontend_weights(architecture: Architecture, packed: Mapped) -> Mapping[str, Floats]:
    """The front end's tensors by their names in it, as views of the mapped file."""

    def one(name: str, shape: tuple[int, ...]) -> Floats:
        values: NDArray[np.float32] = packed.array(name)
        lines = math.prod(values.shape[:-1])
        used = math.prod(shape) // lines
        return values.reshape(lines, -1)[:, :used].reshape(shape)

    start = "frontend."
    named = shapes(architecture).items()
    return {n.removeprefix(start): one(n, shape) for n, shape in named if n.startswith(start)}
