"""Whatever is drafted, the output is plain decoding's, token for token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedec.accept import Rule
from edgedec.contracts import TRUNK, Context, Draft, Needs, Outcome, Rows
from edgedec.decode import Tally
from edgedec.errors import UsageError
from edgedec.host import Scratch
from edgedec.runtimes.fake import FakeSession
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.plain import Silent

from .looped import VOCAB, drafted, fake, loop, run

if TYPE_CHECKING:
    from edgedec.contracts import Floats


class Guesses:
    """A drafter that knows what plain decoding says, and is right as often as it is told to be."""

    def __init__(
        self, truth: Sequence[int], right: float, seed: int, *, whole: bool = True
    ) -> None:
        self._truth, self._right, self._whole = list(truth), right, whole
        self._random = np.random.default_rng(seed)
        self.outcomes: list[Outcome] = []
        self.resets = 0

    def propose(self, context: Context, budget: int) -> Draft:
        assert budget > 0
        ahead = self._truth[len(context.tokens) - context.prompt_length :]
        tokens, parents, spine = [], [], TRUNK
        for _ in range(int(self._random.integers(0, 12))):
            depth = 0 if spine == TRUNK else self._depth(parents, spine)
            parent = spine
            if tokens and self._random.random() < 0.4:
                parent = int(self._random.integers(-1, len(tokens)))
            token = int(self._random.integers(0, VOCAB))
            if parent == spine and depth < len(ahead) and self._random.random() < self._right:
                token, spine = ahead[depth], len(tokens)
            tokens.append(token)
            parents.append(parent)
        count = len(tokens)
        return Draft(
            np.array(tokens, np.int32),
            np.array(parents, np.int32),
            np.full(count, 0.5, np.float32),
            np.zeros(count, np.int32),
            whole=self._whole,
        )

    @staticmethod
    def _depth(parents: list[int], node: int) -> int:
        depth = 0
        while node != TRUNK:
            node, depth = parents[node], depth + 1
        return depth

    def observe(self, outcome: Outcome) -> None:
        # The text and the arrays go on changing.
        tokens = list(outcome.context.tokens)
        tree = replace(outcome.tree, tokens=outcome.tree.tokens.copy())
        context = replace(outcome.context, tokens=tokens)
        self.outcomes.append(replace(outcome, context=context, tree=tree))

    def reset(self) -> None:
        self.resets += 1


@dataclass(frozen=True)
class Case:
    sampling: Sampling
    right: float
    seed: int
    prompt: list[int]
    limit: int
    stop: frozenset[int]
    widths: tuple[int, ...] | None
    whole: bool


PENALISED = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.0, 0.7, 1.5]),
    top_k=st.sampled_from([0, 5]),
    top_p=st.sampled_from([1.0, 0.9]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 1000),
)


MIROSTAT = st.builds(
    Sampling, temperature=st.just(0.9), mirostat_tau=st.just(3.0), seed=st.integers(0, 1000)
)
CASES = st.builds(
    Case,
    sampling=st.one_of(PENALISED, PENALISED, MIROSTAT),
    right=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1 << 30),
    prompt=st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=30),
    limit=st.integers(1, 80),
    stop=st.frozensets(st.integers(0, VOCAB - 1), max_size=2),
    widths=st.sampled_from([None, (1, 4, 16), (8,)]),
    whole=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(CASES)
def test_any_draft_gives_the_text_of_plain_decoding(case: Case) -> None:
    rule = Rule(Sampler.build(case.sampling), case.stop | {1}, case.limit)
    plain = run(fake(), Silent(), case.prompt, rule)
    drafter = Guesses(plain.tokens, case.right, case.seed, whole=case.whole)
    done = run(fake(row_widths=case.widths), drafter, case.prompt, rule)
    assert done.tokens == plain.tokens
    assert done.tally.finish == plain.tally.finish
    assert done.tally.drawn == plain.tally.drawn == plain.tally.passes
    text = [*case.prompt, *plain.tokens]
    for outcome in drafter.outcomes:
        start = len(outcome.context.tokens)
        assert [*outcome.context.tokens, *outcome.emitted] == text[: start + len(outcome.emitted)]
        path = [int(outcome.tree.tokens[node]) for node in outcome.accepted]
        assert path == list(outcome.emitted[: len(path)])


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.9, seed=1),
        Sampling(repetition_penalty=1.5),
        Sampling(frequency_penalty=1.0, presence_penalty=1.0),
        Sampling(temperature=1.0, mirostat_tau=2.0, mirostat_eta=0.5, seed=1),
    ],
    ids=repr,
)
def test_plain_decoding_is_the_models_own_choice_step_by_step(sampling: Sampling) -> None:
    """The oracle of the others, against a loop of a few lines on a session of its own."""
    session, tokens, sampler = fake().session(), [3, 4, 5], Sampler.build(sampling)
    for token in tokens[:-1]:
        session.step(Rows(np.array([token]), np.array([TRUNK])))
        session.keep([0])
    state = sampler.start(tokens)
    for index in range(20):
        logits = session.step(Rows(np.array([tokens[-1]]), np.array([TRUNK]))).logits(0)
        session.keep([0])
        tokens.append(sampler.draw(state, logits, index))
        state = sampler.advance(state, tokens[-1], logits)
    rule = Rule(sampler, frozenset(), 20)
    assert run(fake(), Silent(), [3, 4, 5], rule).tokens == tokens[3:]


def test_a_perfect_draft_takes_fewer_passes() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 40)
    plain = run(fake(), Silent(), [3, 4], rule)
    drafted = run(fake(), Guesses(plain.tokens, 1.0, 7), [3, 4], rule)
    assert plain.tally.passes == 40
    assert drafted.tally.passes < 25
    assert drafted.tally.accepted > 0
    assert drafted.tally.evaluated >= drafted.tally.accepted


@pytest.mark.parametrize("temperature", [0.0, 0.01])
def test_near_ties_of_drafted_turns_are_left_to_plain_ones(temperature: float) -> None:
    """All logits are the same: greedy is a tie each time, at 0.01 the noise decides clearly."""
    sampling = Sampling(temperature=temperature, seed=1)
    rule = Rule(Sampler.build(sampling), frozenset(), 40, near_ties=True)
    level = fake()
    level.logits = lambda *_: np.zeros(VOCAB, np.float32)  # type: ignore[method-assign]
    plain = run(level, Silent(), [3], rule)
    assert plain.tally.near_ties == 0
    drafter, tally = Guesses(plain.tokens, 1.0, 1), Tally()
    # Whether it pays does not matter here: every turn is drafted.
    steps = drafted(level, FakeSession(level), [drafter], policy="fixed")[0].run([3], rule, tally)
    assert [each.token for step in steps for each in step] == plain.tokens
    trees = [outcome for outcome in drafter.outcomes if len(outcome.tree.tokens)]
    drawn = sum(len(outcome.emitted) for outcome in trees)
    assert len(trees) > 5
    if temperature == 0:
        assert tally.near_ties == len(trees)
        assert drawn == 0
        assert tally.passes - len(trees) >= len(plain.tokens)
    else:
        assert tally.near_ties <= drawn // 2


class Straying(FakeSession):
    """Drafted rows at even places are astray: what follows them is wrong."""

    strayed = 0

    def step(self, rows: Rows, *args: Any, **given: Any) -> Any:
        result = super().step(rows, *args, **given)
        if self.tokens:
            result.astray = set(range(2, len(rows.tokens), 2))
            for row in result.astray:
                result._logits[result.line(row)] = np.roll(result._logits[result.line(row)], 1)
            self.strayed += len(result.astray)
        return result


@pytest.mark.parametrize("near_ties", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_what_follows_rows_astray_is_not_believed(temperature: float, near_ties: bool) -> None:
    sampler = Sampler.build(Sampling(temperature=temperature, seed=1))
    rule = Rule(sampler, frozenset(), 40, near_ties=near_ties)
    plain, engine = run(fake(), Silent(), [3], rule), fake()
    session = Straying(engine)
    tally, guesses = Tally(), Guesses(plain.tokens, 0.9, 1)
    steps = drafted(engine, session, [guesses])[0].run([3], rule, tally)
    assert [each.token for step in steps for each in step] == plain.tokens
    assert session.strayed and tally.accepted > 0


class EarlyExit(Silent):
    """A drafter that lets the first layers of the same model guess, in scratch rows."""

    def __init__(self) -> None:
        self.host: Scratch | None = None

    def propose(self, context: Context, budget: int) -> Draft:
        assert self.host is not None
        seen = len(self.host._session.tokens)
        chain, guessed = list(context.tokens[seen:]), list[int]()
        first = 0
        for _ in range(min(4, budget)):
            parents = [first + i - 1 for i in range(len(chain))]
            rows = Rows(np.array(chain, np.int32), np.array(parents, np.int32))
            result = self.host.step(rows, (range(2),))
            first += len(chain)
            chain = [int(result.argmax()[-1])]
            guessed += chain
        count = len(guessed)
        return Draft(
            np.array(guessed, np.int32),
            np.arange(-1, count - 1, dtype=np.int32),
            np.full(count, 0.5, np.float32),
            np.zeros(count, np.int32),
        )


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_scratch_rows_of_a_drafter_change_nothing(temperature: float) -> None:
    rule = Rule(Sampler.build(Sampling(temperature=temperature, seed=2)), frozenset(), 50)
    drafter = EarlyExit()
    engine = fake(agreement=0.8)
    tally = Tally()
    looped, drafter.host = drafted(engine, engine.session(), [drafter])
    steps = looped.run([3, 4, 5], rule, tally)
    tokens = [each.token for step in steps for each in step]
    assert tokens == run(fake(), Silent(), [3, 4, 5], rule).tokens
    assert tally.evaluated > tally.accepted > 0


# --- what the session already holds ----------------------------------------------------------


def test_only_what_is_new_in_a_prompt_is_run() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 6)
    looped, session = loop(fake(), Silent())
    first = Tally()
    said = [each.token for step in looped.run([3, 4, 5, 6], rule, first) for each in step]
    assert (first.reused, first.prefilled, session.rows) == (0, 4, 4 + 5)
    session.rows = 0
    second = Tally()
    list(looped.run([3, 4, 5, 6, *said, 7, 8], rule, second))
    assert (second.reused, second.prefilled) == (9, 3)
    assert session.rows == 3 + 5


def test_the_last_token_of_a_known_prompt_is_run_again() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 6)
    looped, _ = loop(fake(), Silent())
    runs = []
    for _ in range(2):
        tally = Tally()
        runs.append([e.token for step in looped.run([3, 4, 5], rule, tally) for e in step])
    assert runs[0] == runs[1]
    assert (tally.reused, tally.prefilled) == (2, 1)


def test_another_conversation_resets_the_drafter() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 3)
    drafter = Guesses([], 0.0, 0)
    looped, _ = loop(fake(), drafter)
    said = [each.token for step in looped.run([3, 4, 5], rule, Tally()) for each in step]
    list(looped.run([3, 4, 5, *said, 6], rule, Tally()))
    assert drafter.resets == 0
    list(looped.run([3, 4, 5, said[0], 6], rule, Tally()))
    assert drafter.resets == 1
    list(looped.run([9, 4], rule, Tally()))
    assert drafter.resets == 2


@pytest.mark.parametrize("widths", [None, (4,), (1, 3)])
def test_long_prompts_go_in_chunks(widths: tuple[int, ...] | None) -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 6)
    prompt = list(range(2, 22))
    engine = fake(max_rows=4, row_widths=widths)
    steps = list(loop(engine, Silent())[0].run(prompt, rule, Tally()))
    assert steps[0] == ()
    tokens = [each.token for step in steps for each in step]
    assert tokens == run(fake(), Silent(), prompt, rule).tokens


def test_closing_the_generator_cancels_and_the_session_lives_on() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 20)
    whole = run(fake(), Silent(), [3, 4], rule).tokens
    looped, _ = loop(fake(), Guesses(whole, 0.5, 5))
    tally = Tally()
    steps = looped.run([3, 4], rule, tally)
    next(steps)
    steps.close()
    assert tally.finish == "cancelled"
    again = [each.token for step in looped.run([3, 4], rule, Tally()) for each in step]
    assert again == whole


class Following(Guesses):
    """Wants to hear of the text's hidden states."""

    def read(self, start: int, hidden: dict[int, Floats]) -> None:
        """Nothing is remembered."""


def test_what_a_drafter_needs_is_collected_for_the_tree_alone() -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 8)
    drafter = Following(run(fake(), Silent(), [3, 4, 5], rule).tokens, 0.7, 6)
    looped, _ = loop(fake(row_widths=(1, 16)), drafter, Needs(topk=3, hidden=(0, 4)))
    list(looped.run([3, 4, 5], rule, Tally()))
    for outcome in drafter.outcomes:
        rows = len(outcome.tree.tokens) + 1
        assert outcome.topk is not None
        assert outcome.topk[0].shape == (rows, 3)
        assert {j: h.shape for j, h in outcome.hidden.items()} == {0: (rows, 16), 4: (rows, 16)}
        if outcome.emitted:
            assert int(outcome.topk[0][0, 0]) == outcome.emitted[0]


class Wrong(Silent):
    """A drafter whose trees are broken."""

    def __init__(self, tokens: list[int], parents: list[int]) -> None:
        self._draft = Draft(
            np.array(tokens, np.int32),
            np.array(parents, np.int32),
            np.zeros(len(tokens), np.float32),
            np.zeros(len(tokens), np.int32),
        )

    def propose(self, context: Context, budget: int) -> Draft:
        return self._draft


@pytest.mark.parametrize(
    ("tokens", "parents", "message"),
    [
        ([VOCAB], [-1], "token 24"),
        ([-1], [-1], "token -1"),
        ([3, 4], [1, -1], "parent 1"),
        ([3], [-2], "parent -2"),
        ([3, 4], [-1], "entries in 'parents'"),
    ],
)
def test_broken_trees_are_refused(tokens: list[int], parents: list[int], message: str) -> None:
    rule = Rule(Sampler.build(Sampling()), frozenset(), 4)
    with pytest.raises(UsageError, match=message):
        run(fake(), Wrong(tokens, parents), [3], rule)
