"""What a prompt is to a model: the beginning of its text, or a source that its encoder reads.

Knows texts and ids; it runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from edgedec.contracts import Source
from edgedec.errors import BundleError, InputError

if TYPE_CHECKING:
    from edgedec.architecture import Architecture
    from edgedec.contracts import Floats, Ints
    from edgedec.text import Text


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt, read: the ids that the decoder begins with and, for an encoder, its source.

    `features` is what the encoder is given. `tokens` are those of the prompt as its writer sees
    it: of the source where there is one. `before` are the ids whose text the output continues.
    """

    prompt: list[int]
    features: Ints | Floats = field(default_factory=lambda: np.zeros(0, np.int32))
    source: Source | None = None

    @property
    def tokens(self) -> int:
        """How many tokens, or frames of sound, were read."""
        return len(self.prompt) if self.source is None else len(self.features)

    @property
    def before(self) -> list[int]:
        """None with an encoder: its decoder begins a text of its own."""
        return self.prompt if self.source is None else []


class Reader:
    """Prompts for one model.

    Raises:
        BundleError: an encoder, but nothing that says how the decoder begins.
    """

    def __init__(self, text: Text, architecture: Architecture) -> None:
        self._text, self._architecture = text, architecture
        if architecture.encoder is not None and architecture.tokens.decoder_start is None:
            raise BundleError(
                "the manifest names no token that the decoder begins with: export the model again"
            )

    def text(self, prompt: str) -> Asked:
        """A text to continue, or to be read by the encoder.

        Raises:
            InputError: it is empty, not valid Unicode, or too long for the encoder.
        """
        if not prompt:
            raise InputError("the prompt is empty: give at least one word")
        if self._architecture.encoder is None:
            return Asked(self._text.encode(prompt))
        return self._sourced(self._text.encode_source(prompt), prompt)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> Asked:
        """Messages, as the model's template writes them.

        Raises:
            UnsupportedError: the model has no chat template.
            InputError: the template refuses them.
        """
        rendered = self._text.chat(messages)
        if self._architecture.encoder is None:
            return Asked(self._text.encode(rendered, special=False))
        return self._sourced(self._text.encode_source(rendered, special=False), rendered)

    def sound(self, features: Floats, prompt: Sequence[int] = ()) -> Asked:
        """Features [n, F] for the encoder; `prompt` stands behind the decoder's first token."""
        return Asked([*self._begin, *prompt], features, Source())

    @property
    def _begin(self) -> list[int]:
        start = self._architecture.tokens.decoder_start
        return [] if start is None else [start]

    def _sourced(self, ids: list[int], text: str) -> Asked:
        limit = self._architecture.limits.source
        if limit is not None and len(ids) > limit:
            raise InputError(
                f"the text has {len(ids)} tokens; the model reads up to {limit} at a time: give it "
                "in parts"
            )
        if self._architecture.frontend is not None:
            raise InputError("this model reads sound, not text: use `edgedec transcribe`")
        return Asked(self._begin, np.array(ids, np.int32), Source(tuple(ids), text))
