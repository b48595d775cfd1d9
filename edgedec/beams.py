"""Beam search: several texts at a time, the leaves of one session's tree, which share each step.

One step has one row per beam. What the surviving beams have in common becomes trunk, what belongs
to none is dropped, nothing is computed twice. Scores, order and stopping are those of transformers:
float32 sums of log probabilities, the log-softmax before the processors. Groups of beams are kept
apart by a penalty on tokens that earlier groups chose in the same step (1610.02424), and a search
may be more or less patient (2204.05424). It reads and writes ids and knows no text.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from edgedec import draft, sampling
from edgedec.contracts import TRUNK, Capabilities, Session, StepResult, Want
from edgedec.errors import UsageError
from edgedec.sampling import Sampler, State

if TYPE_CHECKING:
    from edgedec.contracts import Floats
    from edgedec.generation import FinishReason

MOST = 256
"""Beams that a search may have."""

_STRIPES = 64


@dataclass(frozen=True, slots=True)
class Beams:
    """The settings of a search.

    A text of n tokens, its stop token among them, scores its log probability / n^`length_penalty`.
    Once `patience` times as many texts are finished as there are beams, the search ends: with
    `early_stopping` True at once; with False when the best beam, if it ended now, would be no
    better than the worst of them; with "never" when it would not be at its longest either. Each
    of `num_beam_groups` has its share of the beams and ends by itself; `diversity_penalty` is
    taken off a token's log probability for each beam of an earlier group that it has just
    lengthened.

    Raises:
        UsageError: a value out of its range, named.
    """

    num_beams: int
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    patience: float = 1.0
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0

    def __post_init__(self) -> None:
        self._whole("num_beams", MOST)
        self._whole("num_beam_groups", self.num_beams)
        sampling.check_number(self, "length_penalty", -10, 10)
        sampling.check_number(self, "patience", 0, 100, above=True)
        sampling.check_number(self, "diversity_penalty", 0, 1000)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise UsageError(
                f"early_stopping is {self.early_stopping!r}; it must be True, False or 'never'"
            )
        if self.num_beams % self.num_beam_groups:
            raise UsageError(
                f"{self.num_beams} beams cannot be shared out evenly among "
                f"{self.num_beam_groups} groups: num_beam_groups must divide num_beams"
            )
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise UsageError("diversity_penalty needs groups: give num_beam_groups of 2 or more")
        self._whole("num_return_sequences", min(self.num_beams, self.num_beam_groups * self.room))

    @property
    def size(self) -> int:
        """The beams of a group."""
        return self.num_beams // self.num_beam_groups

    @property
    def room(self) -> int:
        """The finished texts that a group gathers."""
        return max(1, round(self.patience * self.size))

    def _whole(self, name: str, high: int) -> None:
        value = getattr(self, name)
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not 1 <= value <= high:
            here = "" if name == "num_beams" else f" with {self.num_beams} beams"
            raise UsageError(
                f"{name} is {value!r}; it must be a whole number from 1 to {high}{here}"
            )

    def score(self, total: np.float32, length: int) -> np.float32:
        """A log probability with the length penalty."""
        return np.float32(total / np.float32(length**self.length_penalty))


@dataclass(frozen=True, slots=True)
class Rule:
    """What is searched for: tokens scored by `sampler`, until a token of `stop` or `limit` tokens.

    The sampler must be greedy.
    """

    beams: Beams
    sampler: Sampler
    stop: frozenset[int]
    limit: int


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A text that was found, without its stop token, and its score, which counts that token."""

    tokens: tuple[int, ...]
    score: float
    finish_reason: FinishReason


@dataclass(slots=True)
class _Beam:
    """A text on its way: `row` is the row of the latest step that it ends with."""

    tokens: tuple[int, ...]
    total: np.float32
    state: State
    row: int = 0


@dataclass(slots=True)
class _Group:
    """Beams that compete with each other, best first, and the texts they have finished."""

    beams: list[_Beam]
    finished: list[Hypothesis] = field(default_factory=list)


class Search:
    """A search in one session. `passes` counts the steps after the prompt's."""

    def __init__(self, session: Session, capabilities: Capabilities, rule: Rule) -> None:
        self._session, self._rule = session, rule
        self._widths = capabilities.row_widths
        self._chunk = draft.width(capabilities, capabilities.prompt_rows)
        most = draft.width(capabilities, capabilities.max_rows)
        if rule.beams.num_beams > most:
            raise UsageError(
                f"{rule.beams.num_beams} beams, but a step here has at most {most} rows: "
                "give fewer num_beams"
            )
        self._groups: list[_Group] = []
        self.passes = 0

    # --- from the prompt to the texts ------------------------------------------------------------

    def run(self, prompt: Sequence[int]) -> Generator[tuple[int, ...], None, None]:
        """Search; after each step the tokens of the best beam so far (none during the prompt).

        Closing the generator ends the search where it is. What the session holds of the prompt is
        not computed again; when done it holds the prompt and what all beams began with.

        Raises:
            InputError: the prompt or the beams do not fit, or no token is left to choose from.
        """
        rule = self._rule
        state = rule.sampler.start(prompt)
        groups = range(rule.beams.num_beam_groups)
        self._groups = [_Group([_Beam((), np.float32(0), state)]) for _ in groups]
        try:
            result, row = yield from self._read(prompt)
            logprobs = [_log_softmax(result.logits(row))]
            handles = [result.handles[row]]
            while self._lengthen(logprobs):
                yield self._best()
                result, rows = self._step(handles)
                logprobs = [_log_softmax(result.logits(row)) for row in range(rows)]
                handles = list(result.handles)
            yield self._best()
        finally:
            self._session.keep([TRUNK])

    def found(self) -> list[Hypothesis]:
        """The best texts, best first, as many as were asked for where there are as many.

        In a search that was ended early, beams fill up what is not finished: they are `cancelled`,
        and one without a token stands for a search that had not begun.
        """
        ended = [each for group in self._groups for each in group.finished]
        open_beams = [beam for group in self._groups for beam in group.beams if beam.tokens]
        wanted = self._rule.beams.num_return_sequences
        best = sorted(ended, key=_by_score)[:wanted]
        if len(best) < wanted:
            rest = [self._hypothesis(beam.tokens, beam.total, "cancelled") for beam in open_beams]
            best += sorted(rest, key=_by_score)[: wanted - len(best)]
        return best or [Hypothesis((), 0.0, "cancelled")]

    def _read(
        self, prompt: Sequence[int]
    ) -> Generator[tuple[int, ...], None, tuple[StepResult, int]]:
        """Step what the session does not hold of the prompt; the last row has logits."""
        held = self._session.tokens
        most = min(len(held), len(prompt) - 1)
        done = next((i for i in range(most) if held[i] != prompt[i]), most)
        self._session.truncate(done)
        while True:
            part = prompt[done : done + self._chunk]
            done, row = done + len(part), len(part) - 1
            last = done == len(prompt)
            rows = draft.rows(part, draft.empty(), self._widths)
            result = self._session.step(rows, want=Want((row,) if last else ()))
            if last:
                return result, row
            self._session.keep([result.handles[row]])
            yield ()

    def _step(self, handles: Sequence[int]) -> tuple[StepResult, int]:
        """One row for each beam, below the row it ended with; beams that are equal share one."""
        beams = [beam for group in self._groups for beam in group.beams]
        leaves = list(dict.fromkeys(handles[beam.row] for beam in beams))
        kept = dict(zip(leaves, self._session.keep(leaves), strict=True))
        rows: dict[tuple[int, int], int] = {}
        for beam in beams:
            place = kept[handles[beam.row]], beam.tokens[-1]
            beam.row = rows.setdefault(place, len(rows))
        parents, tokens = zip(*rows, strict=True)
        step = draft.padded(tokens, parents, self._widths)
        self.passes += 1
        return self._session.step(step, want=Want(tuple(range(len(rows))))), len(rows)

    # --- one token more --------------------------------------------------------------------------

    def _lengthen(self, logprobs: Sequence[Floats]) -> bool:
        """Give every beam its next token; whether one is left.

        Raises:
            InputError: none is, and no text was finished.
        """
        beams = self._rule.beams
        taken: dict[int, int] = {}
        for group in self._groups:
            if group.beams:
                self._extend(group, _apart(logprobs, taken, beams.diversity_penalty))
                for beam in group.beams:
                    taken[beam.tokens[-1]] = taken.get(beam.tokens[-1], 0) + 1
        if not any(group.beams or group.finished for group in self._groups):
            sampling.check(-math.inf)
        return any(group.beams for group in self._groups)

    def _extend(self, group: _Group, logprobs: Sequence[Floats]) -> None:
        """The best continuations of a group: those that end are finished, the others go on."""
        rule, size, beams = self._rule, self._rule.beams.size, group.beams
        table = np.stack([self._scores(beam, logprobs[beam.row]) for beam in beams])
        # Enough to find `size` that do not end, even if every stop token of each is among them.
        best = largest(table, max(2, 1 + len(rule.stop)) * size)
        group.beams = []
        for rank, (index, token) in enumerate(best.tolist()):
            beam, total = beams[index], table[index, token]
            stops = token in rule.stop
            length = len(beam.tokens) + 1
            if stops or length >= rule.limit:
                # Those below the beams' number were only looked at as a reserve.
                if rank < size:
                    self._finish(group, (*beam.tokens, token), total, stops)
            elif len(group.beams) < size:
                state = rule.sampler.advance(beam.state, token, logprobs[beam.row])
                group.beams.append(_Beam((*beam.tokens, token), total, state, beam.row))
        if self._is_done(group):
            group.beams = []

    def _scores(self, beam: _Beam, logprobs: Floats) -> Floats:
        scores: Floats = self._rule.sampler.process(beam.state, logprobs) + beam.total
        return scores

    def _finish(
        self, group: _Group, tokens: tuple[int, ...], total: np.float32, stops: bool
    ) -> None:
        found = self._hypothesis(tokens, total, "stop" if stops else "length")
        group.finished = sorted([*group.finished, found], key=_by_score)[: self._rule.beams.room]

    def _hypothesis(
        self, tokens: tuple[int, ...], total: np.float32, reason: FinishReason
    ) -> Hypothesis:
        score = float(self._rule.beams.score(total, len(tokens)))
        return Hypothesis(tokens[:-1] if reason == "stop" else tokens, score, reason)

    def _is_done(self, group: _Group) -> bool:
        """Whether enough texts are finished, and no beam is worth going on with."""
        beams = self._rule.beams
        if not group.beams or len(group.finished) < beams.room:
            return not group.beams
        if beams.early_stopping is True:
            return True
        length = len(group.beams[0].tokens)
        if beams.early_stopping == "never" and beams.length_penalty > 0:
            length = self._rule.limit
        return float(beams.score(group.beams[0].total, length)) <= group.finished[-1].score

    def _best(self) -> tuple[int, ...]:
        """The tokens of the best beam, or of the best text where none is left."""
        open_beams = [beam for group in self._groups for beam in group.beams]
        if open_beams:
            return max(open_beams, key=lambda beam: beam.total).tokens
        return self.found()[0].tokens


def largest(table: Floats, count: int) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """The (line, column) of up to `count` largest numbers of a table, largest first [n, 2].

    -inf is left out; of equal numbers the first comes first. Thousands of times `count` numbers
    cost little more than to look at each once.
    """
    flat = table.ravel()
    floor = np.float32(-np.inf)
    width = flat.size // _STRIPES
    if width > count:
        # The largest of 64 numbers each: `count` numbers at least reach the count-th of those.
        tops = flat[: width * _STRIPES].reshape(_STRIPES, width).max(axis=0)
        floor = np.partition(tops, width - count)[width - count]
    near = np.flatnonzero(flat >= floor)
    near = near[flat[near] > -np.inf]
    order = np.argsort(-flat[near], kind="stable")[:count]
    return np.stack(np.divmod(near[order], table.shape[1]), axis=1)


def _log_softmax(logits: Floats) -> Floats:
    """log softmax(logits) [V], in float32.

    Raises:
        InputError: they are not numbers.
    """
    peak = logits.max()
    sampling.check(float(peak))
    shifted: Floats = logits - peak
    shifted -= np.log(np.exp(shifted).sum(dtype=np.float32))
    return shifted


def _apart(
    logprobs: Sequence[Floats], taken: Mapping[int, int], penalty: float
) -> Sequence[Floats]:
    """Log probabilities less the penalty for each time that a token was taken."""
    if not taken or not penalty:
        return logprobs
    ids, counts = np.array([*taken]), np.array([*taken.values()], np.float32)
    lowered = [line.copy() for line in logprobs]
    for line in lowered:
        line[ids] -= np.float32(penalty) * counts
    return lowered


def _by_score(found: Hypothesis) -> float:
    return -found.score
