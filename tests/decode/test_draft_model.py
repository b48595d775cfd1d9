"""A draft model that is not the model: its session follows the text, its guesses change none."""

from __future__ import annotations

import numpy as np
import pytest

from edgedec.accept import Rule
from edgedec.contracts import Rows
from edgedec.decode import Tally
from edgedec.host import Files, Scratch
from edgedec.runtimes.fake import Fake, FakeSession
from edgedec.sampling import Sampler, Sampling
from edgedec.strategies.draft_model import DraftModel, Speculator
from edgedec.strategies.plain import Silent

from .looped import CONTEXT, VOCAB, architecture, drafted, fake, run


class Watched(FakeSession):
    """Counts the rows it runs."""

    rows = 0

    def step(self, rows: Rows, *args: object, **given: object) -> object:
        result = super().step(rows, *args, **given)
        Watched.rows += len(rows.tokens)
        return result


class Small(Fake):
    """A draft model that agrees with the model often, not always."""

    def session(self) -> FakeSession:
        return Watched(self)


def small(**given: object) -> Small:
    return Small(**{"vocab": VOCAB, "context": CONTEXT, "eos": (1,), "sharpness": 30.0, **given})


def speculator(draft: Fake, options: DraftModel, target: Fake) -> tuple[Speculator, FakeSession]:
    session = target.session()
    host = Scratch(target, session, architecture(), Files(lambda path: draft))
    found = options.open(host)
    return found, session


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("draft", [small(), small(row_widths=(1, 4, 16)), small(max_rows=4)])
def test_the_draft_session_holds_the_text_and_runs_little_twice(
    temperature: float, draft: Small
) -> None:
    target = fake(sharpness=25.0)
    drafter, session = speculator(draft, DraftModel("x", depth=3, branches=2), target)
    Watched.rows = 0
    rule = Rule(Sampler.build(Sampling(temperature=temperature, seed=5)), frozenset(), 40)
    looped, _ = drafted(target, session, [drafter], policy="fixed")
    prompt, text = [3, 4, 5, 6, 3, 4], []
    for emitted in looped.run(prompt, rule, Tally()):
        held = list(drafter._follower._session.tokens)
        whole = [*prompt, *text]
        assert held == whole[: len(held)]
        assert len(held) >= len(whole) - 1 or not emitted
        text += [each.token for each in emitted]
    assert text == run(fake(sharpness=25.0), Silent(), prompt, rule).tokens
    padding = 4 if draft.row_widths else 1
    assert Watched.rows <= padding * (len(prompt) + len(text) * (1 + 2 * 3))


def test_a_full_draft_context_ends_the_guesses_not_the_text() -> None:
    target = fake()
    drafter, session = speculator(small(context=20), DraftModel("x"), target)
    Watched.rows = 0
    rule = Rule(Sampler.build(Sampling()), frozenset(), 50)
    looped, _ = drafted(target, session, [drafter], policy="fixed")
    text = [each.token for step in looped.run([3, 4], rule, Tally()) for each in step]
    assert text == run(fake(), Silent(), [3, 4], rule).tokens
    assert Watched.rows < 250


@pytest.mark.parametrize("draft", [fake(sharpness=3.0), small(sharpness=6.0)])
def test_recursive_rejection_of_whole_trees_keeps_the_distribution(draft: Fake) -> None:
    """The first two tokens of many seeds, drafted and plain: a chi-square test of their pairs."""
    options = DraftModel("x", depth=2, branches=3, acceptance="recursive")
    target = fake(sharpness=3.0)
    counts = {rule: np.zeros((VOCAB, VOCAB)) for rule in ("exact", "recursive")}
    drafter, session = speculator(draft, options, target)
    plain_session = target.session()
    accepted = 0
    for rule, drafters in (("exact", []), ("recursive", [drafter])):
        looped, _ = drafted(
            target, session if drafters else plain_session, drafters, policy="fixed"
        )
        for seed in range(1500):
            sampler = Sampler.build(Sampling(temperature=2.5, top_k=8, seed=seed))
            tally = Tally()
            steps = looped.run([3, 4], Rule(sampler, frozenset(), 2, acceptance=rule), tally)  # type: ignore[arg-type]
            first, second = [each.token for step in steps for each in step]
            counts[rule][first, second] += 1
            accepted += tally.accepted
    assert accepted > 300
    one, other = counts["exact"].ravel(), counts["recursive"].ravel()
    seen = one + other >= 10
    chi = ((one - other) ** 2 / (one + other + 1e-9))[seen].sum()
    freedom = int(seen.sum())
    assert freedom > 10
    assert chi < freedom + 4 * np.sqrt(2 * freedom)


def test_planners_and_policies_leave_a_whole_tree_alone() -> None:
    target = fake()
    options = DraftModel("x", depth=3, branches=3, acceptance="recursive")
    drafter, session = speculator(small(), options, target)
    looped, _ = drafted(target, session, [drafter])
    sampler, tally = Sampler.build(Sampling(temperature=1.0, seed=1)), Tally()
    next(looped.run([3, 4], Rule(sampler, frozenset(), 12, acceptance="recursive"), tally))
    assert tally.evaluated == 3 + 9 + 27
