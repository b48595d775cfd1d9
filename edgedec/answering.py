"""A prompt that was read becomes one or several finished generations.

It runs the loop or a beam search and says how it went. It knows no runtime and no strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from edgedec import beams, memory
from edgedec.accept import Rule
from edgedec.course import Course, follow
from edgedec.drafting import PLAIN
from edgedec.generation import Generation
from edgedec.sampling import Sampler, Terms
from edgedec.stopping import StopStrings
from edgedec.streaming import Writer

if TYPE_CHECKING:
    from edgedec.beams import Beams
    from edgedec.contracts import Session
    from edgedec.decode import Loop
    from edgedec.drafting import Drafting
    from edgedec.generation import FinishReason
    from edgedec.model import Setup
    from edgedec.options import Options
    from edgedec.processors import Processor
    from edgedec.reading import Asked

_SEEDS = 1 << 64


@dataclass(frozen=True, slots=True)
class Answering:
    """One model's session and loop, and the drafting that is in use."""

    setup: Setup
    drafting: Drafting
    session: Session
    loop: Loop

    def answer(self, asked: Asked, chosen: Options) -> list[Generation]:
        """The texts that were asked for: one, or the `num_return_sequences` best or drawn.

        Raises:
            InputError: the prompt does not fit, or no token is left to choose from.
            UsageError: an id that the model does not have, or more beams than a step has rows.
        """
        if chosen.beams is not None:
            return self._searched(asked, chosen, chosen.beams)
        first = chosen.sampling.seed
        seeds = [(first + i) % _SEEDS for i in range(chosen.num_return_sequences)]
        return [
            self.write(asked, replace(chosen, sampling=replace(chosen.sampling, seed=seed)))
            for seed in seeds
        ]

    def rule(self, asked: Asked, chosen: Options, rules: Sequence[Processor] = ()) -> Rule:
        """How tokens are drawn, and where a text ends; `rules` are processors of a task's own.

        Raises:
            UsageError: an id that the model does not have.
        """
        return Rule(
            sampler=self._sampler(asked, chosen, rules),
            stop=self._stop(chosen),
            limit=chosen.max_new_tokens,
            logprobs=chosen.logprobs,
            near_ties=bool(self.drafting.parts) and not self.setup.engine.steady(),
            acceptance=self.drafting.rule,
        )

    def write(self, asked: Asked, chosen: Options) -> Generation:
        """One text, token by token."""
        setup = self.setup
        course = Course(setup.clock, setup.clock())
        writer = Writer(
            setup.text.stream(after=asked.before), StopStrings(chosen.stop), chosen.stream
        )
        rule = self.rule(asked, chosen)
        self._encode(asked)
        steps = self.loop.run(asked.prompt, rule, course.tally)
        try:
            finish = follow(steps, writer, chosen, course)
        finally:
            steps.close()
        tally = course.tally
        return replace(
            self._report(
                asked, chosen, course, (tuple(each.token for each in course.taken), finish)
            ),
            text=writer.text,
            strategy=self.drafting.name if tally.evaluated else PLAIN,
            tokens_per_pass=round(tally.drawn / tally.passes, 4) if tally.passes else None,
            logprobs=None if chosen.logprobs is None else course.logprobs(),
        )

    def _searched(self, asked: Asked, chosen: Options, wanted: Beams) -> list[Generation]:
        """The best texts of a beam search, which drafts nothing."""
        setup = self.setup
        course = Course(setup.clock, setup.clock())
        rule = beams.Rule(
            wanted, self._sampler(asked, chosen), self._stop(chosen), self._limit(asked, chosen)
        )
        self._encode(asked)
        self.loop.check(asked.prompt)
        search = beams.Search(self.session, setup.engine.capabilities, rule)
        steps, cancelled = search.run(asked.prompt), False
        try:
            for tokens in steps:
                if tokens:
                    course.mark(len(tokens))
                cancelled = chosen.cancel is not None and chosen.cancel.is_set
                if cancelled:
                    break
        finally:
            steps.close()
        course.tally.passes = search.passes
        found = []
        for each in search.found():
            ending = "cancelled" if cancelled else each.finish_reason
            report = self._report(asked, chosen, course, (each.tokens, ending))
            text = setup.text.decode(each.tokens, after=asked.before)
            # A search drafts nothing, so it loses nothing.
            found.append(replace(report, text=text, score=each.score, lossy=False))
        return found

    # --- what both take --------------------------------------------------------------------------

    def _encode(self, asked: Asked) -> None:
        if asked.source is not None:
            self.loop.encode(asked.features, asked.source)

    def _sampler(self, asked: Asked, chosen: Options, rules: Sequence[Processor] = ()) -> Sampler:
        manifest = self.setup.bundle.manifest
        terms = Terms(
            manifest.architecture.vocab,
            self._stop(chosen),
            self._limit(asked, chosen),
            manifest.decoding,
        )
        return Sampler.build(chosen.sampling, chosen.constraint, terms, rules)

    def _stop(self, chosen: Options) -> frozenset[int]:
        return chosen.stop_tokens | frozenset(self.setup.bundle.manifest.architecture.tokens.eos)

    def _limit(self, asked: Asked, chosen: Options) -> int:
        room = self.setup.bundle.manifest.architecture.limits.context - len(asked.prompt)
        return min(chosen.max_new_tokens, room)

    def _report(
        self,
        asked: Asked,
        chosen: Options,
        course: Course,
        ending: tuple[tuple[int, ...], FinishReason],
    ) -> Generation:
        """Some tokens as plain decoding has them: the caller adds their text, and who drafted."""
        setup, tally, (tokens, finish) = self.setup, course.tally, ending
        return Generation(
            text="",
            tokens=tokens,
            prompt_tokens=asked.tokens,
            new_tokens=len(tokens),
            finish_reason=finish,
            seed=chosen.sampling.seed,
            model=setup.bundle.manifest.name,
            runtime=setup.device.runtime,
            device=setup.device.name,
            strategy=PLAIN,
            strategy_requested=self.drafting.requested,
            lossy=self.drafting.lossy,
            seconds=round(setup.clock() - course.started, 6),
            load_seconds=round(setup.load_seconds, 6),
            tokens_per_second=course.tokens_per_second(len(tokens)),
            time_to_first_token_ms=course.time_to_first_token_ms(),
            passes=tally.passes,
            tokens_per_pass=None,
            evaluated=tally.evaluated,
            accepted=tally.accepted,
            near_ties=tally.near_ties,
            depths=tuple((tried, right) for tried, right in tally.depths),
            peak_rss_mb=memory.peak_rss_mb(),
            draft_seconds=round(tally.drafting, 6),
        )
