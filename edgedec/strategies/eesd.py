"""Leave the model early and guess with one more layer: EESD (2406.03853).

The first layers, one layer of its own and a head make the draft. How far to guess is decided by
Thompson sampling: a Beta distribution says how often guesses were right of late; a rate is drawn
from it, mixed with the guess's own probability, and one more guess made with that chance. No
threshold needs to be set, and it follows the text. Verification resumes the rows where they left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from edgedec import draft, exits
from edgedec.contracts import Context, Draft, Host, Needs, Outcome
from edgedec.growth import Limits
from edgedec.parts import Trained

NAME = "eesd"
MEMORY = 64.0
"""Guesses that the distribution remembers, about."""


@dataclass(frozen=True, slots=True)
class Eesd(Trained):
    """Guesses at most `depth` tokens ahead; the share `calibration` of the chance to go on is the
    guess's own probability. Beside each guess stand the next likely ones, `branches` in all."""

    depth: int = 8
    branches: int = 2
    calibration: float = 0.5

    def __post_init__(self) -> None:
        draft.check_options(self, depth=(1, 32), branches=(1, 8), calibration=(0.0, 1.0))

    def needs(self, host: Host) -> Needs:
        """The exit's hidden states, and a step that can end and go on there.

        Raises:
            UnsupportedError: the bundle has no part for it, or the runtime lacks one of these.
            StateError: the part names no layer to leave behind.
        """
        return exits.needs(host, NAME, exits.trained(host, NAME), hidden=True)

    def open(self, host: Host) -> Sampling:
        """Begin with no text, and nothing known of how good guesses are."""
        return Sampling(self, host)


class Sampling(exits.Leaver):
    """Goes on as often as guesses were right."""

    def __init__(self, options: Eesd, host: Host) -> None:
        super().__init__(host, NAME)
        self._options = options
        self._forget()

    def _forget(self) -> None:
        self._dice = np.random.default_rng(0)
        self._right = self._wrong = 1.0

    def propose(self, context: Context, budget: int) -> Draft:
        """What the layer guesses."""
        limits = Limits(self._options.depth, 1, self._options.branches, 0.0)
        found = self._exit.grow(context, budget, limits, self._further)
        self._path = found.tokens[found.rank == 0].tolist()
        return found

    def _further(self, share: float, depth: int) -> bool:
        own = self._options.calibration
        rate = (1 - own) * self._dice.beta(self._right, self._wrong) + own * share
        return bool(self._dice.random() < rate)

    def observe(self, outcome: Outcome) -> None:
        """Count which of the best guesses came true, until the first that did not."""
        super().observe(outcome)
        for guess, token in zip(self._path, outcome.emitted, strict=False):
            fade = 1 - 1 / MEMORY
            self._right, self._wrong = self._right * fade, self._wrong * fade
            if guess != token:
                self._wrong += 1
                break
            self._right += 1

    def reset(self) -> None:
        """Forget the text, and how good guesses were."""
        super().reset()
        self._forget()
