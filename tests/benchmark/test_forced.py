"""Given texts: they come out, drafts are judged by them, and time is what the table says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from edgedec import costs, drafting
from edgedec.benchmark import forced
from edgedec.benchmark.forced import ForcedEngine
from edgedec.benchmark.stand import Stand
from edgedec.benchmark.stopwatch import Stopwatch
from edgedec.benchmark.workloads import Workload
from edgedec.contracts import Context, Draft, Host, Needs, Outcome
from edgedec.drafting import Drafting, Named
from edgedec.errors import InputError, UnsupportedError
from edgedec.model import Model, Setup

TEXT = "the cat sat on the mat and the dog sat on the log and " * 8
TABLE = costs.Costs((1, 4, 64), (0, 64), ((1.0, 2.0, 32.0), (1.5, 3.0, 48.0)), (0.1, 0.2, 3.2))
REACH = 3


@dataclass(frozen=True)
class Alphabet:
    """Guesses that after a letter the next two of the alphabet follow, and then a blank."""

    lossy = automatic = False

    def needs(self, host: Host) -> Needs:
        return Needs()

    def open(self, host: Host) -> Alphabet:
        return self

    def propose(self, context: Context, budget: int) -> Draft:
        chain = np.array(guesses(context.tokens[-1])[:budget], np.int32)
        count = len(chain)
        return Draft(
            chain,
            np.arange(-1, count - 1, dtype=np.int32),
            np.full(count, 0.9, np.float32),
            np.zeros(count, np.int32),
        )

    def observe(self, outcome: Outcome) -> None: ...

    def reset(self) -> None: ...


def guesses(token: int) -> list[int]:
    return [(token + 1) % 257, (token + 2) % 257, (token + 3) % 257]


def simulated(text: Sequence[int]) -> tuple[int, int, int]:
    """Passes, checked and accepted drafts over the text after its first token, by hand."""
    at = passes = evaluated = accepted = 0
    end = len(text) - 1
    while at < end:
        room = end - at - 1
        chain = guesses(text[at])[:room]
        right = 0
        while right < len(chain) and chain[right] == text[at + 1 + right]:
            right += 1
        passes, evaluated, accepted = passes + 1, evaluated + len(chain), accepted + right
        at += right + 1
    return passes, evaluated, accepted


def prepared(stand: Stand, text: str = TEXT, tokens: int = 40) -> tuple[Workload, Setup]:
    setup = replace(stand.setup, costs=TABLE)
    found, setup = forced.prepare(Workload("given", "", text=text), setup, tokens, 0.0)
    # No time passes but what the table says.
    setup.engine.watch = Stopwatch(lambda: 0.0)  # type: ignore[attr-defined]
    return found, replace(setup, clock=setup.engine.watch)  # type: ignore[attr-defined]


@pytest.mark.parametrize("strategy", ["plain", "auto", "prompt_lookup", "token_recycling"])
def test_the_given_text_comes_out(stand: Stand, strategy: str) -> None:
    found, setup = prepared(stand)
    model = Model(replace(setup, drafting=drafting.choose(strategy)))
    texts = []
    for prompt in found.prompts:
        assert len(prompt.turns[0]) == 56
        texts.append(model.generate(prompt.turns[0], max_new_tokens=found.longest).text)
    assert found.longest == 40
    assert "".join(texts) == TEXT[56 : 56 + 40 * len(texts)]
    assert len(texts) == (len(TEXT) - 56) // 40


def test_acceptance_is_counted_as_by_hand(stand: Stand) -> None:
    text = "ab abc xyz abcd wxyzz bcdeabcd " * 4
    found, setup = prepared(stand, text)
    way = Drafting("alphabet", (Named("alphabet", Alphabet()),), "fixed")
    model = Model(replace(setup, drafting=way))
    ids = setup.text.encode(text)
    for index, prompt in enumerate(found.prompts):
        answer = model.generate(prompt.turns[0], max_new_tokens=found.longest)
        start = 56 + index * 40 - 1
        passes, evaluated, accepted = simulated(ids[start : start + 41])
        assert (answer.passes, answer.evaluated, answer.accepted) == (passes, evaluated, accepted)
        assert accepted > 5
        tried, right = zip(*answer.depths, strict=True)
        assert sum(right) == accepted
        assert tried[0] >= right[0] >= tried[1]


def test_time_is_what_the_table_says(stand: Stand) -> None:
    found, setup = prepared(stand)
    answer = Model(setup).generate(found.prompts[0].turns[0], max_new_tokens=40)
    steps = [TABLE.part(past, 1, 1, 1) for past in range(56, 56 + 39)]
    assert answer.tokens_per_second == pytest.approx(39 / sum(steps), abs=1e-3)
    # The prompt goes in steps of 32 rows, the last of them with logits of one row.
    prompt = TABLE.part(0, 32, 1, 0) + TABLE.part(32, 24, 1, 1)
    assert answer.time_to_first_token_ms == pytest.approx(1000 * prompt)


def test_the_likeliest_tokens_take_their_time(stand: Stand) -> None:
    _, setup = prepared(stand)
    engine: Any = setup.engine
    timed = ForcedEngine(engine.inner, TABLE, topk_seconds=0.25, watch=Stopwatch(lambda: 0.0))
    session = timed.session()
    tokens = np.array([1, 2, 3], np.int32)
    result = session.step(forced.Rows(tokens, np.array([-1, 0, 1], np.int32)))
    before = timed.watch()
    result.argmax(), result.logits(1)
    assert timed.watch() == before
    result.topk(2)
    assert timed.watch() == before + 3 * 0.25
    assert forced.topk_seconds(engine.inner, rows=4, times=3) > 0


def test_who_needs_more_than_tokens_is_refused(stand: Stand) -> None:
    _, setup = prepared(stand)
    capabilities = setup.engine.capabilities
    assert (capabilities.cuts, capabilities.hidden_layers) == ((), ())
    assert not capabilities.learned_ids
    with pytest.raises(UnsupportedError):
        setup.engine.learn(np.zeros((1, 1), np.float32))
    with pytest.raises(UnsupportedError, match="draft model"):
        setup.files.open_engine("stories")


def test_a_text_that_is_too_short(stand: Stand) -> None:
    with pytest.raises(InputError, match=r"'given' has 54 tokens; 96 are needed"):
        prepared(stand, TEXT[:54])
