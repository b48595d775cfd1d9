"""Where a text ends is plain decoding's choice too, also inside of a draft."""

from __future__ import annotations

import pytest

from edgedec.accept import Rule
from edgedec.decode import Tally
from edgedec.errors import InputError
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.plain import Silent

from .looped import CONTEXT, VOCAB, fake, loop, run
from .test_exact import Guesses


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_the_limit_holds_inside_an_accepted_draft(limit: int, right: float) -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), limit)
    truth = run(fake(), Silent(), [3], Rule(rule.sampler, frozenset(), 30)).tokens
    done = run(fake(), Guesses(truth, right, 3), [3], rule)
    assert done.tokens == truth[:limit]
    assert done.tally.finish == "length"


def test_a_stop_token_is_not_emitted() -> None:
    script = [3, 9, 8, 7, 6]
    rule = Rule(Sampler.build(Sampling()), frozenset({1}), 30)
    done = run(fake(script=script), Guesses([9, 8, 7, 6, 1, 5, 5], 1.0, 2), [3], rule)
    assert done.tokens == script[1:]
    assert done.tally.finish == "stop"


def test_the_context_ends_a_text() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 1000)
    prompt = [3] * (CONTEXT - 5)
    plain = run(fake(), Silent(), prompt, rule)
    assert len(plain.tokens) == 5
    assert plain.tally.finish == "length"
    assert run(fake(), Guesses(plain.tokens, 1.0, 4), prompt, rule).tokens == plain.tokens


class Shrinking:
    """Allows fewer and fewer tokens, and after `last` of them none."""

    def __init__(self, last: int) -> None:
        self.last = last

    def start(self) -> int:
        return 0

    def advance(self, state: int, token: int) -> int:
        return state + 1

    def mask(self, state: int) -> list[int]:
        return [] if state >= self.last else list(range(2, VOCAB - state))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("last", [1, 4, 7])
def test_a_constraint_that_leaves_nothing_ends_drafts_as_it_ends_plain_text(
    last: int, temperature: float
) -> None:
    sampler = Sampler.build(Sampling(temperature=temperature, seed=2), Shrinking(last))
    rule = Rule(sampler, frozenset(), 20)

    def told(drafter: object, whole: list[int]) -> list[int]:
        looped, _ = loop(fake(), drafter)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="allows no token"):
            for step in looped.run([3, 4], rule, Tally()):
                whole += [each.token for each in step]
        return whole

    plain = told(Silent(), [])
    assert len(plain) == last
    assert told(Guesses([*plain, 5, 5, 5], 1.0, 3), []) == plain


@pytest.mark.parametrize(("prompt", "message"), [([], "empty"), ([3] * CONTEXT, "64 tokens")])
def test_prompts_that_cannot_be_continued(prompt: list[int], message: str) -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 4)
    with pytest.raises(InputError, match=message):
        run(fake(), Silent(), prompt, rule)
