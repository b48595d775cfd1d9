"""A model in use: a bundle opened by a runtime, one conversation, and a way of drafting.

It joins text, sampling and the loop; it knows no runtime and no strategy by name.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Unpack, overload

from edgedec import memory, options, scoring
from edgedec.accept import Emitted, Rule
from edgedec.bundle import Bundle
from edgedec.contracts import Engine
from edgedec.costs import Costs
from edgedec.decode import Loop, Steps, Tally
from edgedec.devices import Device
from edgedec.drafting import PLAIN, Drafting
from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.generation import FinishReason, Generation, Score, TokenLogprobs
from edgedec.host import Scratch
from edgedec.options import GenerateOptions, Options
from edgedec.plan import Planner
from edgedec.sampling import Logprobs, Sampler
from edgedec.stopping import StopStrings
from edgedec.streaming import Writer
from edgedec.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What `load` has put together for a model."""

    bundle: Bundle
    text: Text
    device: Device
    engine: Engine
    open_engine: Callable[[str], Engine]
    drafting: Drafting
    costs: Costs
    load_seconds: float
    clock: Callable[[], float] = time.perf_counter


class Model:
    """A loaded model. Made by `edgedec.load`; a context manager that closes itself.

    It holds one conversation: a prompt that continues what was said before costs only what is new
    in it. Where the runtime is not bitwise exact (ONNX with int8 or int4 weights), near ties may
    then fall otherwise than in a fresh model; after `reset` the same call gives the same text. It
    serves one call at a time; load a second model for a second one.
    """

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._architecture = setup.bundle.manifest.architecture
        if self._architecture.encoder is not None:
            raise UnsupportedError(
                f"{setup.bundle.manifest.name} is an encoder-decoder model; this version of "
                "edgedec runs decoder-only ones"
            )
        self._engine = setup.engine
        self._capabilities = setup.engine.capabilities
        self._session = setup.engine.session()
        shape = self._architecture, self._capabilities
        self._host = Scratch(self._session, *shape, setup.open_engine, setup.bundle.strategy_file)
        self._planner = Planner(
            setup.drafting.open(self._host, *shape),
            setup.costs,
            self._architecture.vocab,
            setup.drafting.policy,
            setup.clock,
        )
        needs = setup.drafting.needs(*shape)
        self._loop = Loop(self._session, self._host, self._planner, needs, setup.clock)
        self._busy = threading.Lock()
        self._closed = False

    # --- what it is ------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the bundle."""
        return self._setup.bundle.manifest.name

    @property
    def bundle(self) -> Bundle:
        """The bundle it was loaded from."""
        return self._setup.bundle

    @property
    def context(self) -> int:
        """The most tokens that prompt and output can have together."""
        return self._architecture.limits.context

    @property
    def is_chat(self) -> bool:
        """Whether it takes messages: its bundle has a chat template."""
        return self._setup.text.is_chat

    # --- generating ------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str | Messages, **given: Unpack[GenerateOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: list[str], **given: Unpack[GenerateOptions]) -> list[Generation]: ...

    def generate(
        self, prompt: str | list[str] | Messages, **given: Unpack[GenerateOptions]
    ) -> Generation | list[Generation]:
        """Continue a text, each of several texts (a list of str), or a chat (a list of messages).

        The options are those of `edgedec.options.GenerateOptions`. Several prompts share a seed:
        each gives the text it would give alone.

        Raises:
            InputError: a prompt is empty, too long for the context, or not valid Unicode.
            UnsupportedError: messages, but the model has no chat template.
            UsageError: an option makes no sense, or the model is busy or closed.
        """
        chosen = options.read(given)
        with self._alone():
            if isinstance(prompt, str):
                return self._run(self._encode(prompt), chosen)
            if not isinstance(prompt, Sequence):
                raise UsageError("a prompt is a text, a list of texts, or a list of messages")
            if not prompt:
                raise InputError("there is no prompt: give a text, some texts or some messages")
            if all(isinstance(each, str) for each in prompt):
                # All are checked before the first takes its time.
                return [self._run(ids, chosen) for ids in [self._encode(str(p)) for p in prompt]]
            messages = [each for each in prompt if isinstance(each, Mapping)]
            if len(messages) < len(prompt):
                raise UsageError("a prompt is a text, a list of texts, or a list of messages")
            text = self._setup.text
            return self._run(text.encode(text.chat(messages), special=False), chosen)

    def _encode(self, prompt: str) -> list[int]:
        if not prompt:
            raise InputError("the prompt is empty: give at least one word to continue")
        tokens = self._setup.text.encode(prompt)
        self._loop.check(tokens)
        return tokens

    def _run(self, prompt: list[int], chosen: Options) -> Generation:
        clock = self._setup.clock
        course = _Course(clock, clock())
        writer = Writer(
            self._setup.text.stream(after=prompt), StopStrings(chosen.stop), chosen.stream
        )
        steps = self._loop.run(prompt, self._rule(chosen), course.tally)
        try:
            finish = _follow(steps, writer, chosen, course)
        finally:
            steps.close()
        return self._report(prompt, chosen, course, (writer.text, finish))

    def _rule(self, chosen: Options) -> Rule:
        stop = chosen.stop_tokens | frozenset(self._architecture.tokens.eos)
        return Rule(
            sampler=Sampler.build(chosen.sampling, chosen.constraint),
            stop=stop,
            limit=chosen.max_new_tokens,
            logprobs=chosen.logprobs,
            near_ties=self._capabilities.exactness == "token",
            acceptance=self._setup.drafting.rule,
        )

    def _report(
        self,
        prompt: list[int],
        chosen: Options,
        course: _Course,
        ending: tuple[str, FinishReason],
    ) -> Generation:
        setup, tally = self._setup, course.tally
        return Generation(
            text=ending[0],
            tokens=tuple(each.token for each in course.taken),
            prompt_tokens=len(prompt),
            new_tokens=len(course.taken),
            finish_reason=ending[1],
            seed=chosen.sampling.seed,
            model=self.name,
            runtime=setup.device.runtime,
            device=setup.device.name,
            strategy=self._ran(tally),
            strategy_requested=setup.drafting.requested,
            lossy=setup.drafting.lossy,
            seconds=round(setup.clock() - course.started, 6),
            load_seconds=round(setup.load_seconds, 6),
            tokens_per_second=course.tokens_per_second(),
            time_to_first_token_ms=course.time_to_first_token_ms(),
            passes=tally.passes,
            tokens_per_pass=round(tally.drawn / tally.passes, 4) if tally.passes else None,
            evaluated=tally.evaluated,
            accepted=tally.accepted,
            near_ties=tally.near_ties,
            depths=tuple((tried, right) for tried, right in tally.depths),
            peak_rss_mb=memory.peak_rss_mb(),
            logprobs=None if chosen.logprobs is None else course.logprobs(),
        )

    def _ran(self, tally: Tally) -> str:
        """What drafted; `plain` where nothing that was proposed was worth checking."""
        return self._setup.drafting.name if tally.evaluated else PLAIN

    # --- scoring ---------------------------------------------------------------------------------

    def score(self, text: str) -> Score:
        """How likely the model finds a text. The conversation stays as it is.

        Raises:
            InputError: the text is empty, too short to say anything, or longer than the context.
            UsageError: it is no text, or the model is busy or closed.
        """
        if not isinstance(text, str):
            raise UsageError(f"score takes one text, found {type(text).__name__}: give a string")
        if not text:
            raise InputError("the text is empty: give at least two words to score")
        tokens = self._setup.text.encode(text)
        if len(tokens) > self.context:
            raise InputError(
                f"the text has {len(tokens)} tokens; the context of {self.name} holds "
                f"{self.context}: score it in parts"
            )
        if len(tokens) < 2:
            raise InputError("the text is one token: there is nothing before it to judge it by")
        with self._alone():
            found = scoring.logprobs(self._engine.session(), self._capabilities, tokens)
        return self._score(text, tokens, found)

    def _score(self, text: str, tokens: list[int], found: list[float]) -> Score:
        total, first = math.fsum(found), self._architecture.tokens.bos
        size = len(text.encode())
        if tokens[0] == first:
            shown, values = tokens[1:], tuple[float | None, ...](found)
        else:
            shown, values = tokens, (None, *found)
            size -= len(self._setup.text.decode(tokens[:1]).encode())
        return Score(
            tokens=tuple(shown),
            logprobs=values,
            total=total,
            bits_per_byte=-total / math.log(2) / max(size, 1),
            perplexity=math.exp(-total / len(found)),
        )

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text each token adds, in order."""
        stream = self._setup.text.stream()
        return [stream.push(token) for token in tokens]

    # --- the conversation's state ----------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what the model has read so far, so that `load` need not compute it again.

        Raises:
            WriteError: the file cannot be written.
        """
        with self._alone():
            self._session.save(Path(path))

    def load(self, path: str | Path) -> None:
        """Take over a state saved by the same model on the same runtime.

        Raises:
            StateError: it was saved by another model, runtime or version, or is damaged.
        """
        with self._alone():
            self._loop.reset()
            self._session.load(Path(path))

    def reset(self) -> None:
        """Forget the conversation."""
        with self._alone():
            self._loop.reset()

    def forget(self) -> None:
        """Forget the conversation and every text that drafters learned from.

        How well each kind of drafter guesses and what it costs on this device stays known.
        """
        with self._alone():
            self._loop.reset()
            self._host.close()
            drafting, shape = self._setup.drafting, (self._architecture, self._capabilities)
            self._planner.reopen([drafter for drafter, _ in drafting.open(self._host, *shape)])

    def close(self) -> None:
        """Give the weights back. Closing twice is fine."""
        if not self._closed:
            with self._alone():
                self._closed = True
                self._host.close()
                self._engine.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One call at a time: a second one would mix two texts in one session."""
        if not self._busy.acquire(blocking=False):
            raise UsageError(
                "this model is at work already: wait for the other call, or load a second model"
            )
        try:
            if self._closed:
                raise UsageError("this model was closed: load it again")
            yield
        finally:
            self._busy.release()


@dataclass(slots=True)
class _Course:
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

    def tokens_per_second(self) -> float | None:
        """Of the tokens after the first step that gave some; None if that is the only one.

        That step's time is not in it, so its tokens, which may be several, are not either.
        """
        if len(self.taken) <= self.at_first or self.last <= self.first:
            return None
        return round((len(self.taken) - self.at_first) / (self.last - self.first), 3)

    def logprobs(self) -> tuple[TokenLogprobs, ...]:
        """Those of all tokens taken, where they were asked for."""
        found = ((each.token, each.logprobs) for each in self.taken)
        return tuple(_logprobs(token, known) for token, known in found if known is not None)

    def time_to_first_token_ms(self) -> float | None:
        """None if there is no token."""
        return round((self.first - self.started) * 1000, 3) if self.taken else None


def _follow(steps: Steps, writer: Writer, chosen: Options, course: _Course) -> FinishReason:
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
