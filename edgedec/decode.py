"""The one loop: propose -> merge -> plan -> step -> accept -> keep -> observe.

A turn steps the tokens that the session has not seen (the end of the prompt at first, the last
token later) with the draft tree below them, draws along the tree, keeps the accepted path, and
tells the drafters. Plain decoding is the same loop with an empty tree. It reads and writes token
ids, and knows no runtime, no strategy and no text.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from edgedec import accept, draft
from edgedec.accept import Checked, Emitted, Rule, Walk
from edgedec.contracts import (
    TRUNK,
    Context,
    Draft,
    Needs,
    Outcome,
    Session,
    Source,
    StepResult,
    Want,
)
from edgedec.errors import InputError
from edgedec.host import Resumed, Scratch
from edgedec.sampling import State

if TYPE_CHECKING:
    from edgedec.contracts import Floats, Ints
    from edgedec.plan import Planner

_NOTHING = draft.empty()
_ALL = Want()
_ROOM = 64
"""Rows of nearly every step but a prompt's."""
Steps = Generator[tuple[Emitted, ...], None, None]


@dataclass(slots=True)
class Tally:
    """What a generation took, filled in as it runs.

    `reused` prompt tokens were in the session already, the other `prefilled` ones were run.
    `passes` are the steps after the prompt's, `drawn` the tokens they gave (a stop token counts),
    `evaluated` and `accepted` draft nodes. `depths[d]` counts the turns whose tree reached depth
    d + 1 below an accepted node, and those in which a node there was accepted. `drafting` are the
    seconds that asking, planning and telling drafters took. `finish` is `cancelled` until the text
    ends by itself.
    """

    reused: int = 0
    prefilled: int = 0
    passes: int = 0
    drawn: int = 0
    evaluated: int = 0
    accepted: int = 0
    near_ties: int = 0
    depths: list[list[int]] = field(default_factory=list)
    drafting: float = 0.0
    finish: Literal["stop", "length", "cancelled"] = "cancelled"


class Loop:
    """A session, the planner with its drafters, and the way from a prompt to tokens."""

    def __init__(
        self,
        session: Session,
        host: Scratch,
        planner: Planner,
        needs: Needs,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._session, self._host = session, host
        self._planner, self._needs, self._clock = planner, needs, clock
        host.shown = needs.hidden
        self._context = host.architecture.limits.context
        self._widths = host.capabilities.row_widths
        self._read: list[int] = []
        self._source: Source | None = None
        self._again, self._rests = False, 0
        self._lines = draft.Lines(_ROOM)
        self._most = draft.width(host.capabilities, host.capabilities.max_rows)
        self._chunk = draft.width(host.capabilities, host.capabilities.prompt_rows)

    def run(self, prompt: Sequence[int], rule: Rule, tally: Tally) -> Steps:
        """Yield what each step gave: nothing during the prompt, then one or more tokens.

        Closing the generator cancels; the session then holds what was kept so far. A prompt that
        continues what the session holds is not computed again, except for its last token.

        Raises:
            InputError: the prompt is empty or leaves no room in the context.
        """
        self.check(prompt)
        room = self._context - len(prompt)
        text = _Text.begun(prompt, replace(rule, limit=min(rule.limit, room)), self._source)
        tokens = text.tokens
        self._planner.begin(rule.sampler.sampling.temperature, rule.stop)
        done = tally.reused = self._reuse(tokens)
        tally.prefilled = len(tokens) - done
        while len(tokens) - done > self._chunk:
            self._prefill(tokens[done : done + self._chunk], done)
            done += self._chunk
            yield ()
        finish = None
        while finish is None:
            walk = self._turn(text, tokens[len(self._session.tokens) :], tally)
            text.state, finish = walk.state, walk.finish
            text.count += len(walk.emitted)
            tokens += [emitted.token for emitted in walk.emitted]
            # Set before the tokens are handed out: the last ones may be the last thing taken.
            tally.finish = finish or "cancelled"
            yield walk.emitted

    def check(self, prompt: Sequence[int]) -> None:
        """Whether a prompt can be continued.

        Raises:
            InputError: it is empty or leaves no room in the context.
        """
        if not prompt:
            raise InputError("the prompt is empty: give at least one word to continue")
        if len(prompt) >= self._context:
            raise InputError(
                f"the prompt has {len(prompt)} tokens; the model's context of {self._context} must "
                "hold it and at least one new token: shorten the prompt"
            )

    def encode(self, features: Ints | Floats, source: Source) -> None:
        """Let the encoder read a source, and the drafters begin anew with it.

        Raises:
            InputError: it is empty or longer than the model's limit.
        """
        before, self._source = self._source, None
        self._session.encode(features)
        self._source = source
        if source != before:
            self._forget()

    def reset(self) -> None:
        """Forget the conversation: session and drafter begin anew."""
        self._session.truncate(0)
        self._forget()

    def _forget(self) -> None:
        self._planner.reset()
        self._read = []

    def _reuse(self, tokens: list[int]) -> int:
        """Cut the trunk to what it shares with the prompt, leaving at least one token to run."""
        held = self._session.tokens
        most = min(len(held), len(tokens) - 1)
        shared = next((i for i in range(most) if held[i] != tokens[i]), most)
        if tokens[: len(self._read)] != self._read:
            self._planner.reset()
        self._read = tokens
        self._session.truncate(shared)
        self._host.rows = 0
        self._again, self._rests = False, 0
        return shared

    def _prefill(self, tokens: list[int], start: int) -> None:
        rows = draft.rows(tokens, draft.empty(), self._widths)
        result = self._session.step(rows, want=Want((), self._needs.hidden))
        self._show(result, start, len(tokens))
        self._session.keep([result.handles[len(tokens) - 1]])

    def _show(self, result: StepResult, start: int, count: int) -> None:
        """The hidden states of rows of the text before anybody was asked, to those who follow."""
        if self._needs.hidden and count:
            self._planner.read(start, {j: result.hidden(j)[:count] for j in self._needs.hidden})

    def _turn(self, text: _Text, pending: list[int], tally: Tally) -> Walk:
        """One turn: `pending` are the tokens at the end of the text that were not run yet."""
        clock, planner = self._clock, self._planner
        started = clock()
        context, tree = self._propose(text, len(pending))
        root = len(pending) - 1
        used = root + 1 + len(tree.tokens) + draft.riders(tree)
        hidden = self._needs.hidden if root or planner.wants_hidden else ()
        stepping = clock()
        result = self._step(pending, tree, self._want(root, used, hidden))
        stepped = clock()
        if root and hidden:
            self._show(result, len(text.tokens) - root - 1, root)
        likely, seconds = None, 0.0
        if context is not None and planner.wants_topk:
            # Before the walk: for who looks for the likeliest tokens, the first choice is no work.
            likely = result.topk(self._needs.topk)
            seconds = clock() - stepped
        # Without a draft the step is plain decoding's own: nothing can come out differently.
        checked = Checked(tree, result, root)
        walk = accept.walk(
            checked, text.rule if used > root + 1 else text.alone, text.state, text.count
        )
        if context is not None:
            telling = clock()
            self._observe(checked, walk, context, likely, seconds)
            tally.drafting += clock() - telling + seconds + stepping - started
        self._keep(checked, walk)
        self._host.rows = 0
        _count(tally, tree, walk)
        if context is not None:
            step = stepped - stepping
            planner.spent(used, step, clock() - started - step)
        return walk

    def _want(self, root: int, used: int, hidden: tuple[int, ...]) -> Want:
        """Logits of the rows `root` to `used`, which are all of a turn's but where it is padded."""
        if root or self._widths:
            return Want(tuple(range(root, used)), hidden)
        return Want(None, hidden) if hidden else _ALL

    def _step(self, pending: list[int], tree: Draft, want: Want) -> StepResult:
        """Run the pending tokens and the tree; what has run early layers already, resumes there."""
        began, first = tree.began, self._host.rows
        if began is None or self._widths:
            rows = self._lines.rows(pending, tree, self._widths, first)
            return self._session.step(rows, want=want)
        rows, handles = draft.resumed(pending[-1], tree, began, first)
        if len(rows.tokens):
            self._host.step(rows, (range(began.layer),), Want(logits=()))
        layers = range(began.layer, self._host.architecture.layers)
        before = self._host.before(began.layer)
        want = replace(want, hidden=tuple(each for each in want.hidden if each not in before))
        result = self._session.resume(handles, (layers,), want)
        if not before:
            return result
        return Resumed(result, {each: self._host.early(each, handles) for each in before})

    def _keep(self, checked: Checked, walk: Walk) -> None:
        """Keep the accepted path; without its last row if that is to be stepped again."""
        self._again = walk.again
        nodes = walk.nodes[:-1] if walk.again else walk.nodes
        last = checked.root + 1 + nodes[-1] if nodes else checked.root
        if walk.again and not walk.nodes:
            last -= 1
        self._session.keep([checked.result.handles[last] if last >= 0 else TRUNK])

    def _propose(self, text: _Text, pending: int) -> tuple[Context | None, Draft]:
        """A tree that fits the step and does not reach beyond the end of the text.

        Without a context nobody was asked, and nobody wants to hear how it went.
        """
        if self._again or self._rests:
            self._rests -= self._rests > 0
            return None, _NOTHING
        planner, context = self._planner, text.after(pending)
        depth = text.rule.limit - text.count - 1
        tree = planner.propose(context, pending, self._most - pending, depth)
        self._rests, planner.rests = planner.rests, 0
        return context, tree

    def _observe(
        self,
        checked: Checked,
        walk: Walk,
        context: Context,
        likely: tuple[Ints, Floats] | None,
        seconds: float,
    ) -> None:
        """Tell the drafters; `likely` tokens of each row took so many seconds to find."""
        planner = self._planner
        emitted = tuple([each.token for each in walk.emitted])
        if not planner.asked:
            planner.peeked(emitted)
            return
        used = checked.root + 1 + len(checked.tree.tokens) + draft.riders(checked.tree)
        shown = self._needs.hidden if planner.wants_hidden else ()
        hidden = {j: checked.result.hidden(j)[checked.root : used] for j in shown}
        outcome = Outcome(checked.tree, context, walk.nodes, emitted, likely, hidden)
        planner.observe(outcome, used, seconds)


@dataclass(slots=True)
class _Text:
    """A text as it is written: `count` tokens are new, and `state` is the sampler's after them.

    `alone` is the rule of steps that nothing was drafted for.
    """

    tokens: list[int]
    rule: Rule
    alone: Rule
    state: State
    context: Context
    count: int = 0

    @classmethod
    def begun(cls, prompt: Sequence[int], rule: Rule, source: Source | None) -> _Text:
        """Nothing but the prompt."""
        tokens, sampling = list(prompt), rule.sampler.sampling
        context = Context(tokens, len(prompt), sampling.seed, sampling.temperature, source)
        alone = replace(rule, near_ties=False)
        return cls(tokens, rule, alone, rule.sampler.start(prompt), context)

    def after(self, pending: int) -> Context:
        """What drafters may look at, where so many tokens were not run yet."""
        if pending != self.context.pending:
            self.context = replace(self.context, pending=pending)
        return self.context


def _count(tally: Tally, tree: Draft, walk: Walk) -> None:
    tally.passes += 1
    tally.drawn += len(walk.emitted) + (walk.finish == "stop")
    tally.near_ties += walk.near_tie
    if not len(tree.tokens):
        return
    tally.evaluated += len(tree.tokens)
    tally.accepted += len(walk.nodes)
    reached = len(walk.nodes) + draft.below(tree, walk.nodes)
    while len(tally.depths) < reached:
        tally.depths.append([0, 0])
    for depth in range(reached):
        tally.depths[depth][0] += 1
        tally.depths[depth][1] += depth < len(walk.nodes)
