"""Beam search against every text there is, and against a search written out plainly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.beams import Beams, Hypothesis, Rule, Search, largest
from edgedec.contracts import TRUNK, Rows, Session
from edgedec.errors import InputError, UsageError
from edgedec.manifest import Decoding
from edgedec.runtimes.fake import Fake, FakeSession
from edgedec.sampling import Sampler, Sampling, Terms

from .searched import Found, Next, Wish, exhaustive, model, search

VOCAB, STOP = 5, frozenset({1})


def fake(vocab: int = VOCAB, **given: Any) -> Fake:
    return Fake(**{"vocab": vocab, "context": 64, "eos": (1,), "sharpness": 1.0, **given})


def rule(wish: Wish, returned: int = 1, sampling: Sampling | None = None) -> Rule:
    beams = Beams(
        num_beams=wish.size * wish.groups,
        num_return_sequences=returned,
        length_penalty=wish.penalty,
        early_stopping=wish.early,  # type: ignore[arg-type]
        patience=wish.patience,
        num_beam_groups=wish.groups,
        diversity_penalty=wish.diversity,
    )
    terms = Terms(VOCAB, wish.stop, wish.limit)
    return Rule(beams, Sampler.build(sampling or Sampling(), None, terms), wish.stop, wish.limit)


def run(engine: Fake, prompt: Sequence[int], chosen: Rule, session: Session | None = None) -> Any:
    searched = Search(session or engine.session(), engine.capabilities, chosen)
    list(searched.run(prompt))
    return searched.found()


def check(found: list[Hypothesis], expected: list[Found]) -> None:
    assert [each.tokens for each in found] == [each.tokens for each in expected]
    scores = [each.score for each in expected]
    assert [each.score for each in found] == pytest.approx(scores, 1e-5, 2e-5)
    reasons = ["stop" if each.stopped else "length" for each in expected]
    assert [each.finish_reason for each in found] == reasons


# --- what is found ---------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.5, -1.0])
@pytest.mark.parametrize("prompt", [[2], [2, 0, 0, 2]])
def test_with_a_beam_for_every_text_the_best_texts_are_found(
    prompt: list[int], penalty: float
) -> None:
    engine, vocab = fake(vocab=3), 3
    wish = Wish(STOP, limit=4, size=vocab**4, penalty=penalty)
    expected = exhaustive(model(engine, prompt), vocab, wish)
    check(run(engine, prompt, rule(wish, returned=10)), expected[:10])


WISHES = st.builds(
    Wish,
    stop=st.sampled_from([frozenset(), STOP, frozenset({1, 2})]),
    limit=st.integers(1, 9),
    size=st.integers(1, 4),
    groups=st.integers(1, 3),
    penalty=st.sampled_from([1.0, 0.0, 2.0, 0.3, -0.7]),
    early=st.sampled_from([False, True, "never"]),
    patience=st.sampled_from([1.0, 1.0, 2.0, 0.5]),
    diversity=st.sampled_from([0.0, 0.4, 5.0]),
).map(lambda wish: replace(wish, diversity=wish.diversity if wish.groups > 1 else 0.0))
PROMPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=12)


def returned(wish: Wish) -> int:
    return min(wish.size * wish.groups, wish.groups * max(1, round(wish.patience * wish.size)))


# The same examples each time: two texts may have scores that only float64 tells apart.
@settings(max_examples=150, deadline=None, derandomize=True)
@given(wish=WISHES, prompt=PROMPTS)
def test_it_finds_what_a_plain_search_finds(wish: Wish, prompt: list[int]) -> None:
    engine, count = fake(), returned(wish)
    expected = search(model(engine, prompt), wish)
    check(run(engine, prompt, rule(wish, count)), expected[:count])


@pytest.mark.parametrize("widths", [None, (1, 4, 16), (8,)])
@pytest.mark.parametrize("size", [1, 4])
def test_one_beam_is_greedy_and_static_widths_change_nothing(
    widths: tuple[int, ...] | None, size: int
) -> None:
    engine, prompt = fake(vocab=24), list(range(2, 22))
    wish = Wish(STOP, limit=12, size=size)
    found = run(fake(vocab=24, row_widths=widths, max_rows=16), prompt, rule(wish))
    check(found, search(model(engine, prompt), wish)[:1])
    if size == 1:
        after, tokens = model(engine, prompt), list[int]()
        while len(tokens) < 12 and (best := int(after(tuple(tokens)).argmax())) not in STOP:
            tokens.append(best)
        assert list(found[0].tokens) == tokens


def test_a_source_is_read_once_for_all_beams() -> None:
    engine = fake(encoder=True)
    source, wish = np.array([4, 5, 6], np.int32), Wish(STOP, limit=6, size=3)
    session = engine.session()
    session.encode(source)
    check(run(engine, [2], rule(wish, 3), session), search(model(engine, [2], source), wish)[:3])
    assert session.source_rows == 3


def test_groups_differ_more_with_a_penalty() -> None:
    wish = Wish(frozenset(), limit=8, size=1, groups=3)
    same = run(fake(), [3], rule(wish, 3))
    assert len({each.tokens for each in same}) == 1
    apart = run(fake(), [3], rule(replace(wish, diversity=3.0), 3))
    assert len({each.tokens for each in apart}) == 3


# --- processors ------------------------------------------------------------------------------


def processed(after: Next, sampler: Sampler, prompt: Sequence[int]) -> Next:
    """The same with the states of the processors gone through from the beginning."""

    def then(tokens: tuple[int, ...]) -> Any:
        state = sampler.start(prompt)
        for index, token in enumerate(tokens):
            state = sampler.advance(state, token, after(tokens[:index]).astype(np.float32))
        return sampler.process(state, after(tokens).astype(np.float32)).astype(np.float64)

    return then


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    wish=WISHES,
    prompt=PROMPTS,
    sampling=st.builds(
        Sampling,
        repetition_penalty=st.sampled_from([1.0, 1.7]),
        presence_penalty=st.sampled_from([0.0, 0.6]),
        no_repeat_ngram_size=st.sampled_from([0, 2, 3]),
        suppress_tokens=st.sampled_from([(), (0,)]),
        forced_bos_token_id=st.sampled_from([None, 4]),
    ),
)
def test_every_beam_has_processors_of_its_own(
    wish: Wish, prompt: list[int], sampling: Sampling
) -> None:
    wish = replace(wish, groups=1, diversity=0.0)
    chosen = rule(wish, returned(wish), sampling)
    engine = fake()
    expected = search(processed(model(engine, prompt), chosen.sampler, prompt), wish)
    if not expected:
        with pytest.raises(InputError, match="allows no token"):
            run(engine, prompt, chosen)
        return
    check(run(engine, prompt, chosen), expected[: returned(wish)])


def test_first_last_and_least_are_as_the_manifest_says() -> None:
    decoding = Decoding(forced={0: 3}, forced_last=1, suppressed=(0,), suppressed_first=(2,))
    terms = Terms(VOCAB, STOP, 6, decoding)
    sampler = Sampler.build(Sampling(min_new_tokens=4), None, terms)
    chosen = Rule(Beams(4, 4, length_penalty=0.0), sampler, STOP, 6)
    for each in run(fake(), [4], chosen):
        assert each.tokens[0] == 3
        assert each.tokens[1] != 2
        assert 0 not in each.tokens
        assert 4 <= len(each.tokens) <= 5
        assert each.finish_reason == "stop"


def test_a_constraint_holds_for_every_beam() -> None:
    class Rising:
        def start(self) -> int:
            return -1

        def advance(self, state: int, token: int) -> int:
            return token

        def mask(self, state: int) -> list[int]:
            return list(range(state + 1, VOCAB))

    sampler = Sampler.build(Sampling(), Rising())
    found = run(fake(), [3], Rule(Beams(3, 3), sampler, frozenset(), 3))
    assert len(found) == 3
    assert all(list(each.tokens) == sorted({*each.tokens}) for each in found)
    # Five ids can rise five times; then there is nothing left, and nothing was finished.
    with pytest.raises(InputError, match="allows no token"):
        run(fake(), [3], Rule(Beams(2), sampler, frozenset(), 6))


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = fake()
    broken.logits = lambda *_: np.full(VOCAB, np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(InputError, match="no number"):
        run(broken, [3], rule(Wish(STOP, 4, 2)))


# --- the session -----------------------------------------------------------------------------


class Counting(FakeSession):
    """A session that counts the rows stepped, and how many live at once."""

    rows = 0
    most = 0

    def step(self, rows: Rows, *args: object, **given: object) -> Any:
        self.rows += len(rows.tokens)
        found = super().step(rows, *args, **given)  # type: ignore[arg-type]
        self.most = max(self.most, self._tree.living)
        return found


def test_a_step_has_one_row_for_each_beam_and_nothing_is_computed_twice() -> None:
    engine = fake(vocab=24)
    session = Counting(engine)
    searched = Search(session, engine.capabilities, rule(Wish(frozenset(), 10, 4)))
    steps = list(searched.run([3, 4, 5, 6]))
    assert searched.passes == 9
    assert session.rows == 4 + 9 * 4
    assert [len(tokens) for tokens in steps] == list(range(1, 11))
    assert steps[-1] == searched.found()[0].tokens


def test_groups_share_the_rows_of_texts_that_are_the_same() -> None:
    session = Counting(fake())
    searched = Search(session, session._engine.capabilities, rule(Wish(frozenset(), 10, 1, 4)))
    list(searched.run([3]))
    assert session.rows == 1 + 9


def test_the_prompt_is_read_in_chunks_and_what_is_held_is_not_read_again() -> None:
    engine = fake(vocab=24, max_rows=4)
    prompt, wish = list(range(2, 20)), rule(Wish(STOP, 5, 2))
    session = Counting(engine)
    searched = Search(session, engine.capabilities, wish)
    steps = list(searched.run(prompt))
    assert steps[:5] == [(), (), (), (), steps[4]]
    first = session.rows
    assert list(session.tokens[: len(prompt)]) == prompt
    again = Search(session, engine.capabilities, wish)
    list(again.run(prompt))
    assert again.found() == searched.found()
    assert session.rows - first == first - len(prompt) + 1


def test_closing_cancels_and_what_was_found_is_there() -> None:
    engine = fake(vocab=24)
    session = engine.session()
    searched = Search(session, engine.capabilities, rule(Wish(frozenset(), 10, 4), returned=3))
    steps = searched.run([3, 4])
    for _ in range(3):
        best = next(steps)
    steps.close()
    found = searched.found()
    assert [each.finish_reason for each in found] == ["cancelled"] * 3
    assert found[0].tokens == best
    assert [len(each.tokens) for each in found] == [3, 3, 3]
    assert session.keep([TRUNK]) == (TRUNK,)
    with pytest.raises(UsageError):
        session.keep([0])


def test_a_search_that_had_not_begun_has_an_empty_text() -> None:
    engine = fake(max_rows=4)
    searched = Search(engine.session(), engine.capabilities, rule(Wish(STOP, 10, 2)))
    steps = searched.run(list(range(VOCAB)) * 3)
    assert next(steps) == ()
    steps.close()
    assert searched.found() == [Hypothesis((), 0.0, "cancelled")]


def test_more_beams_than_rows_are_refused() -> None:
    engine = fake(max_rows=4)
    with pytest.raises(UsageError, match="5 beams, but a step here has at most 4 rows"):
        Search(engine.session(), engine.capabilities, rule(Wish(STOP, 10, 5)))


# --- settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_beams": 257}, "1 to 256"),
        ({"num_beams": 2.5}, "whole number"),
        ({"num_return_sequences": 5}, "from 1 to 4 with 4 beams"),
        ({"num_return_sequences": 3, "patience": 0.5}, "from 1 to 2"),
        ({"length_penalty": math.nan}, "length_penalty is nan"),
        ({"length_penalty": "long"}, "from -10 to 10"),
        ({"patience": 0}, "above 0"),
        ({"early_stopping": "always"}, "True, False or 'never'"),
        ({"early_stopping": 1}, "True, False or 'never'"),
        ({"num_beam_groups": 3}, "num_beam_groups must divide num_beams"),
        ({"num_beam_groups": 5}, "from 1 to 4"),
        ({"diversity_penalty": 0.5}, "needs groups"),
        ({"diversity_penalty": -1, "num_beam_groups": 2}, "from 0 to 1000"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Beams(**{"num_beams": 4, **given})


# --- the choice ------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    lines=st.integers(1, 4),
    width=st.integers(1, 900),
    count=st.integers(1, 30),
    seed=st.integers(0, 1 << 30),
)
def test_the_largest_of_a_table(lines: int, width: int, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    # Coarse values, so that ties are common; a third is masked.
    table = (random.integers(-60, 60, (lines, width)) / 4).astype(np.float32)
    table[random.random((lines, width)) < 1 / 3] = -np.inf
    flat = table.ravel().tolist()
    order = sorted(range(len(flat)), key=lambda i: (-flat[i], i))
    expected = [divmod(i, width) for i in order[:count] if flat[i] > -math.inf]
    assert [tuple(each) for each in largest(table, count).tolist()] == expected
