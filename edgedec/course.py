"""One generation on its way: the tokens it gave, when they came, and how it ended.

It drives the steps of the loop; it knows no model and no runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgedec.decode import Tally
from edgedec.generation import FinishReason, TokenLogprobs

if TYPE_CHECKING:
    from edgedec.accept import Emitted
    from edgedec.decode import Steps
    from edgedec.options import Options
    from edgedec.sampling import Logprobs
    from edgedec.streaming import Writer


@dataclass(slots=True)
class Course:
    """What one generation gave so far, and when."""

    clock: Callable[[], float]
    started: float
    tally: Tally = field(default_factory=Tally)
    taken: list[Emitted] = field(default_factory=list)
    first: float = 0.0
    last: float = 0.0
    at_first: int = 0

    def mark(self, tokens: int) -> None:
        """A step has given tokens."""
        self.last = self.clock()
        if not self.first:
            self.first, self.at_first = self.last, tokens

    def tokens_per_second(self, count: int) -> float | None:
        """Of `count` tokens those after the first step that gave some; None if it is the only one.

        That step's time is not in it, so its tokens, which may be several, are not either.
        """
        if count <= self.at_first or self.last <= self.first:
            return None
        return round((count - self.at_first) / (self.last - self.first), 3)

    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Those of all tokens taken, where they were asked for."""
        found = ((each.token, each.logprobs) for each in self.taken)
        return tuple(_logprobs(token, known) for token, known in found if known is not None)

    def time_to_first_token_ms(self) -> float | None:
        """None if there is no token."""
        return round((self.first - self.started) * 1000, 3) if self.first else None


def follow(steps: Steps, writer: Writer, chosen: Options, course: Course) -> FinishReason:
    """Take tokens until the text ends, a stop string is found, or someone cancels."""
    finish: FinishReason | None = None
    while finish is None:
        if chosen.cancel is not None and chosen.cancel.is_set:
            finish = "cancelled"
            break
        emitted = next(steps, None)
        if emitted is None:
            finish = course.tally.finish
            break
        if emitted:
            course.mark(len(emitted))
        for each in emitted:
            course.taken.append(each)
            if writer.push(each.token):
                finish = "stop"
                break
            if chosen.cancel is not None and chosen.cancel.is_set:
                break
    return "stop" if writer.close() else finish


def _logprobs(token: int, found: Logprobs) -> TokenLogprobs:
    top = zip(found.ids.tolist(), found.values.tolist(), strict=True)
    return TokenLogprobs(token, found.token, tuple(top))
