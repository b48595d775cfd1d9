"""What the encoder reads: drafters see it, a new one makes everything begin anew."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec.accept import Rule
from edgedec.contracts import Context, Draft, Outcome, Source
from edgedec.decode import Loop, Tally
from edgedec.draft import empty
from edgedec.errors import InputError, UsageError
from edgedec.sampling import Sampler, Sampling

from .looped import drafted, fake

FIRST = Source((4, 5, 6), "4 5 6")
SECOND = Source((7, 8), "7 8")
RULE = Rule(Sampler.build(Sampling()), frozenset({1}), 10)


class Watching:
    """Proposes nothing; remembers the sources that it was shown, and that it was reset."""

    def __init__(self) -> None:
        self.seen: list[Source | None] = []

    def propose(self, context: Context, budget: int) -> Draft:
        self.seen.append(context.source)
        return empty()

    def observe(self, outcome: Outcome) -> None:
        pass

    def reset(self) -> None:
        self.seen.clear()


def looped() -> tuple[Loop, Watching]:
    watching, engine = Watching(), fake(encoder=True)
    return drafted(engine, engine.session(), [watching], policy="fixed")[0], watching


def text(loop: Loop, source: Source | None = None) -> list[int]:
    if source is not None:
        loop.encode(np.array(source.tokens, np.int32), source)
    return [each.token for step in loop.run([3], RULE, Tally()) for each in step]


def test_drafters_see_the_source_and_begin_anew_with_another() -> None:
    loop, watching = looped()
    one = text(loop, FIRST)
    assert set(watching.seen) == {FIRST}
    other = text(loop, SECOND)
    assert set(watching.seen) == {SECOND}
    assert one != other
    assert text(loop, FIRST) == one


def test_a_source_serves_several_texts() -> None:
    loop, _ = looped()
    one = text(loop, FIRST)
    assert text(loop) == one
    assert text(loop, FIRST) == one


def test_without_a_source_there_is_no_text_and_a_refused_one_leaves_the_other() -> None:
    loop, _ = looped()
    with pytest.raises(UsageError, match="call encode before the first step"):
        text(loop)
    one = text(loop, FIRST)
    with pytest.raises(InputError, match="source is empty"):
        loop.encode(np.zeros(0, np.int32), Source())
    assert text(loop, FIRST) == one
