"""A bundle opened by the C engine: its weights as they lie in the file. It knows no tree."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from edgedec import __version__
from edgedec.architecture import Architecture
from edgedec.bundle import Bundle
from edgedec.contracts import Capabilities
from edgedec.errors import BundleError, UsageError
from edgedec.mapped import Mapped
from edgedec.runtimes._learned import Learned

from . import _engine, spec
from ._engine import Model, Refused
from .encoder import Encoder
from .packed import open_packed
from .session import NativeSession

if TYPE_CHECKING:
    from edgedec.contracts import Floats

MAX_ROWS = 512

PROMPT_ROWS = 256
"""At the 135M shape 512 tokens take a quarter less time in steps of 256 than in steps of 32."""

KV_TYPES = ("fp16", "int8")
"""By the engine's number."""


def capabilities_of(architecture: Architecture, kv_type: str) -> Capabilities:
    """What the engine can do with a model."""
    layers = architecture.layers
    return Capabilities(
        max_rows=min(MAX_ROWS, architecture.limits.context),
        prompt_rows=PROMPT_ROWS,
        cuts=tuple(range(1, layers)),
        resume=layers > 1,
        hidden_layers=tuple(range(layers + 1)),
        learned_ids=True,
        encoder=architecture.encoder is not None,
        source_states=architecture.encoder is not None,
        exactness="bitwise",
        kv_types=(kv_type, *(kind for kind in KV_TYPES if kind != kv_type)),
    )


class Native:
    """See `edgedec.contracts.Engine`.

    Raises:
        BundleError: no native form, or one that does not hold the manifest's architecture.
        UsageError: an unknown storage of keys and values, or more threads than the engine takes.
    """

    def __init__(
        self, bundle: Bundle, threads: int, kv_type: str | None = None, isa: str | None = None
    ) -> None:
        self.kv_type = kv_type or KV_TYPES[0]
        if self.kv_type not in KV_TYPES:
            raise UsageError(
                f"keys and values cannot be stored as {kv_type!r}; there is {', '.join(KV_TYPES)}"
            )
        packed, manifest = open_packed(bundle), bundle.manifest
        self.file: Mapped | None = packed
        stack = manifest.architecture.encoder
        try:
            model = Model(spec.encode(manifest, packed.tensors), packed.data, isa, threads)
            self._model: Model | None = model
            self._encoder = None if stack is None else Encoder(model, manifest, stack, packed)
        except Refused as error:
            raise BundleError(f"{bundle.path.name} cannot be opened: {error}") from None
        self.threads = threads
        self.architecture = manifest.architecture
        self.identity = {
            "bundle": bundle.hash,
            "runtime": "native",
            "keys_and_values": self.kv_type,
        }
        self.learned = Learned(self.architecture.vocab, self.architecture.embed.dim)
        self.capabilities = capabilities_of(self.architecture, self.kv_type)

    @property
    def model(self) -> Model:
        """The C engine's model.

        Raises:
            UsageError: the engine was closed.
        """
        if self._model is None:
            raise UsageError("the model was closed: load it again")
        return self._model

    @property
    def encoder(self) -> Encoder:
        """What reads a source.

        Raises:
            UsageError: the engine was closed.
        """
        _ = self.model
        assert self._encoder is not None  # a checked source is one for an encoder
        return self._encoder

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return self.model.isa

    @property
    def version(self) -> str:
        """Another one may take another time for a step: edgedec's, and a sum over the engine."""
        return f"{__version__} {zlib.crc32(Path(_engine.__file__).read_bytes()):08x}"

    def steady(self) -> bool:
        """They are: see docs/design.md 2.2."""
        return True

    def session(self) -> NativeSession:
        """A new, empty session."""
        return NativeSession(self)

    def learn(self, vectors: Floats) -> int:
        """Embeddings [count, D] for new ids; returns the first. The same have the same ids.

        Raises:
            UsageError: another width than the model's, or no vector.
        """
        return self.learned.learn(vectors)

    def close(self) -> None:
        """Give the weights back, once its sessions are gone too."""
        self._model = self._encoder = self.file = None
