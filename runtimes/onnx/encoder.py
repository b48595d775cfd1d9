"""The encoder's graph: a source in, keys and values of every layer's cross-attention out.

It knows no tree and no tokens of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedec.architecture import Architecture
from edgedec.errors import DeviceError
from edgedec.runtimes import _source
from edgedec.runtimes._state import Heard

from .buffers import attach, by_layer, shrinking
from .keyvalues import name, new
from .segments import Block, check_encoder, crossing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from edgedec.contracts import Floats


@dataclass(frozen=True, slots=True)
class Encoded:
    """What was heard, and the keys and values [layers, 2, G, s, d] of it; never written again."""

    heard: Heard
    arrays: Mapping[Block, Floats]

    @classmethod
    def nothing(cls, blocks: Sequence[Block]) -> Encoded:
        """What is there before the first source."""
        return cls(Heard(), {block: new(block, 0) for block in blocks})

    @classmethod
    def restored(
        cls, heard: Heard, blocks: Sequence[Block], tensors: Mapping[str, Floats]
    ) -> Encoded:
        """The reverse of `tensors`."""
        return cls(heard, {block: tensors[name(block, "cross")] for block in blocks})

    def tensors(self) -> dict[str, Floats]:
        """Its arrays by their names in a saved state."""
        return {name(block, "cross"): array for block, array in self.arrays.items()}


class Encoder:
    """One graph, shared by all sessions.

    Raises:
        BundleError: the graph is not the encoder of this architecture.
    """

    def __init__(self, file: str, session: Any, architecture: Architecture) -> None:
        check_encoder(file, session, architecture)
        self._session = session
        self._blocks = crossing(architecture)
        self._frontend = architecture.frontend
        self._options = shrinking()

    def run(self, source: NDArray[Any]) -> Encoded:
        """What the encoder gives for a checked source.

        Raises:
            DeviceError: ONNX Runtime failed; its reason in one line.
        """
        frontend = self._frontend
        rows = len(source) if frontend is None else frontend.rows(len(source))
        given = {block: new(block, rows) for block in self._blocks}
        heard = Heard(rows, _source.key_of(source))
        taken, array = ("features", source) if frontend else ("source", source.astype(np.int64))
        binding = self._session.io_binding()
        # A list, for what is bound must live until the run is over.
        held = [attach(binding.bind_ortvalue_input, taken, array)]
        for output, values in by_layer("cross", given, given).items():
            held.append(attach(binding.bind_ortvalue_output, output, values))
        try:
            self._session.run_with_iobinding(binding, self._options)
        except Exception as error:  # ONNX Runtime's errors have no common class of their own.
            reason = str(error).splitlines()[0]
            raise DeviceError(f"ONNX Runtime failed in the encoder: {reason}") from error
        return Encoded(heard, given)
