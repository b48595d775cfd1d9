"""Copy the source: input-guided aggressive decoding (2205.10350), for models that rewrite it.

The paper feeds all that is left of the source as a draft, and after a change writes token by token
until the last few tokens stand in one place of the source again. Ours keeps its place in words and
characters: behind a change it offers the places at which the source may go on (a word was replaced,
left out or added) as branches of one tree, so that most changes cost one pass. Where encoder and
decoder have tokens of their own, words of the source are written with the decoder's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgedec.contracts import Host, Needs
from edgedec.copyist import Copying, Copyist
from edgedec.errors import UnsupportedError
from edgedec.passage import Words


@dataclass(frozen=True, slots=True)
class Aggressive(Copying):
    """Copies at most `tokens` tokens of the source; behind a change, from up to `branches` places
    within `reach` words."""

    automatic: ClassVar[bool] = True

    @property
    def lossy(self) -> bool:
        """A copy is checked like any other draft."""
        return False

    def needs(self, host: Host) -> Needs:
        """A source in words.

        Raises:
            UnsupportedError: the model has no encoder, or one that hears.
        """
        if host.architecture.encoder is None or host.architecture.frontend is not None:
            raise UnsupportedError(
                "the strategy aggressive copies the text that an encoder reads; this model has "
                "none: use prompt_lookup"
            )
        return Needs()

    def open(self, host: Host) -> Copyist:
        """Begin with no source."""
        return Copyist(self, None if host.text is None else Words(host.text))
