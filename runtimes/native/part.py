"""What a strategy was trained to, run by the C engine: see `edgedec.parts.Part`.

Its matrices and layers lie in a file of their own and use the threads of the model's engine. It
knows no strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec import parts
from edgedec.architecture import Norm
from edgedec.errors import StateError, UnsupportedError, UsageError
from edgedec.runtimes._learned import Learned

from . import spec
from ._engine import Linear, Model, Refused
from .engine import KV_TYPES, capabilities_of
from .packed import MAX_SIZE, part_tensors
from .session import NativeSession

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.bundle import Bundle
    from edgedec.contracts import Floats, Ints
    from edgedec.manifest import Format

    from .encoder import Encoder
    from .engine import Native

UNSAID = Norm(kind="rms", eps=1e-5)
"""The norm before a part's head where the model has no final norm to be like."""


@dataclass(frozen=True, slots=True)
class Uniform:
    """The part's layers, all in one format, as `spec` reads a model."""

    architecture: Architecture
    format: Format

    def format_of(self, tensor: str) -> Format:
        """How a tensor is stored: all alike."""
        return self.format


class NativePart:
    """See `edgedec.parts.Part`. Used by one thread at a time.

    Raises:
        StateError: the file is damaged, or was made for another bundle.
    """

    def __init__(self, path: Path, bundle: Bundle, engine: Native) -> None:
        self._contents, self._file = parts.opened(path, bundle, part_tensors)
        self._path, self._base, self._model = path, bundle.manifest, engine.model
        self._vocab, self._width = self._base.architecture.vocab, self._base.architecture.embed.dim
        self._weights = engine.file
        try:
            self._matrices = {name: self._matrix(name) for name in self._contents.matrices}
            self._layers = self._open_layers({**engine.identity, "part": path.stem})
        except Refused as error:
            raise StateError(f"{path} cannot be opened: {error}: train it again") from None
        self._head: Linear | None = None
        self.about: Mapping[str, Any] = self._contents.about
        self.ids: Ints = self._ids()

    def _ids(self) -> Ints:
        count = self._contents.ids
        if not count:
            return np.arange(self._vocab, dtype=np.int32)
        return np.array(self._file.array(parts.IDS)[:count])

    # --- opening what it holds -------------------------------------------------------------------

    def _open_layers(self, identity: dict[str, str]) -> Layers | None:
        own = self._contents.architecture
        if own is None:
            return None
        described = Uniform(own, self._contents.format)
        model = self._model.beside(spec.encode(described, self._file.tensors), self._file.data)
        return Layers(model, own, identity)

    def _matrix(self, name: str) -> Linear:
        fields = self._fields(name)
        if name == parts.HEAD:
            head = self._base.architecture.head
            norm = self._base.architecture.decoder.final_norm or UNSAID
            names = parts.NORM, f"{parts.NORM}.bias"
            fields |= {
                "norm": spec.norm(self._file.tensors, names, norm),
                "scale": head.scale,
                "softcap": head.softcap or 0.0,
            }
        return Linear(self._model, spec.encode_linear(fields), self._file.data)

    def _fields(self, name: str) -> dict[str, object]:
        shape, places = self._contents.matrices[name], self._file.tensors
        bias = places.get(f"{name}.bias")
        return {
            "matrix": spec.matrix(places, f"{name}.weight", shape, self._contents.format),
            "bias": 0 if bias is None else bias.offset,
        }

    def _open_head(self) -> Linear:
        """That of the part, of its layers, or of the model."""
        if parts.HEAD in self._matrices:
            return self._matrices[parts.HEAD]
        own = self._contents.architecture
        if own is not None:
            described = Uniform(own, self._contents.format)
            head = spec.encode_head(described, self._file.tensors)
            return Linear(self._model, head, self._file.data)
        if self._weights is None:
            raise UsageError("the model was closed: load it again")
        return Linear(self._model, spec.encode_head(self._base, self._weights.tensors), None)

    # --- using it --------------------------------------------------------------------------------

    def vectors(self, name: str) -> Floats:
        """A tensor of it, as it was trained.

        Raises:
            StateError: it has none of that name.
        """
        if name not in self._contents.vectors:
            raise StateError(f"{self._path} holds no {name}: train it again")
        width = self._contents.vectors[name][-1]
        return np.array(self._file.array(name)[..., :width])

    def embed(self, ids: Ints) -> Floats:
        """The model's embeddings of ids as they enter layer 0, without positions [n, D].

        Raises:
            UsageError: an id outside of 0..V.
        """
        wanted = np.ascontiguousarray(ids, np.int32)
        found = np.empty((len(wanted), self._width), np.float32)
        try:
            self._model.embed(wanted, found)
        except Refused as error:
            raise UsageError(f"no embedding: {error}") from None
        return found

    def linear(self, name: str, x: Floats) -> Floats:
        """Rows x [n, K] times a matrix [N, K] of the part, plus its bias: [n, N].

        Raises:
            StateError: it has no matrix of that name.
            UsageError: rows of another width.
        """
        if name not in self._matrices:
            raise StateError(f"{self._path} holds no matrix {name}: train it again")
        outputs, inputs = self._contents.matrices[name]
        found = np.empty((len(x), outputs), np.float32)
        self._matrices[name].run(_rows(x, inputs), found)
        return found

    def likely(self, x: Floats, k: int) -> tuple[Ints, Floats]:
        """The k likeliest tokens after hidden states x [n, D]: ids of the model, logits [n, k].

        Raises:
            UsageError: rows of another width, or k outside of 1..V'.
        """
        if not 1 <= k <= len(self.ids):
            raise UsageError(f"top-{k} of {len(self.ids)} tokens: k is 1 to {len(self.ids)}")
        if self._head is None:
            self._head = self._open_head()
        # Zeros: numbers that are none leave places unfilled.
        places, values = np.zeros((len(x), k), np.int32), np.zeros((len(x), k), np.float32)
        self._head.topk(_rows(x, self._width), k, places, values)
        return (self.ids[places] if self._contents.ids else places), values

    def session(self) -> NativeSession:
        """Its own layers with keys and values of their own.

        Raises:
            UnsupportedError: it has no layers.
        """
        if self._layers is None:
            raise UnsupportedError(f"{self._path} has no layers of its own")
        return self._layers.session()


def _rows(x: Floats, width: int) -> Floats:
    if x.ndim != 2 or x.shape[1] != width:
        raise UsageError(f"rows are [n, {width}], these {list(x.shape)}")
    return np.ascontiguousarray(x, np.float32)


class Layers:
    """The layers of a part, as sessions run them. Rows enter as vectors; ids are only counted."""

    def __init__(self, model: Model, architecture: Architecture, identity: dict[str, str]) -> None:
        self.model, self.architecture = model, architecture
        self.kv_type = KV_TYPES[0]
        self.identity = {**identity, "keys_and_values": self.kv_type}
        self.capabilities = capabilities_of(architecture, self.kv_type)
        self.learned = Learned(MAX_SIZE, architecture.embed.dim)

    @property
    def encoder(self) -> Encoder:
        """There is none."""
        raise UsageError("the layers of a part read no source")

    def session(self) -> NativeSession:
        """A new, empty session."""
        return NativeSession(self)
