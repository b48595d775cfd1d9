"""A model as `edgedec.speech` drives it: it hears a window of sound and writes after a prompt.

Knows the loop; nothing of windows, languages or files.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgedec.contracts import Source
from edgedec.decode import Tally
from edgedec.options import Options
from edgedec.reading import Asked
from edgedec.sampling import Sampling

if TYPE_CHECKING:
    from edgedec.answering import Answering
    from edgedec.contracts import Floats
    from edgedec.processors import Processor


@dataclass(frozen=True, slots=True)
class Hearing:
    """See `edgedec.speech.transcribe.Ear`: greedy, and drafted as the model drafts."""

    answering: Answering

    def encode(self, features: Floats) -> None:
        """Hear a window of features [n, F]."""
        self.answering.loop.encode(features, Source())

    def run(
        self, prompt: Sequence[int], rules: Sequence[Processor], limit: int
    ) -> Generator[int, None, None]:
        """Write up to `limit` ids after a prompt."""
        asked, chosen = Asked(list(prompt)), Options(Sampling(), max_new_tokens=limit)
        rule = self.answering.rule(asked, chosen, rules)
        with closing(self.answering.loop.run(asked.prompt, rule, Tally())) as steps:
            for emitted in steps:
                for each in emitted:
                    yield each.token
