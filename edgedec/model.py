"""A model in use: a bundle opened by a runtime, one conversation, and a way of drafting.

It joins text, sampling and the loop; it knows no runtime and no strategy by name.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack, overload

from edgedec import options, scoring
from edgedec.answering import Answering
from edgedec.bundle import Bundle
from edgedec.contracts import Engine
from edgedec.costs import Costs
from edgedec.decode import Loop
from edgedec.devices import Device
from edgedec.drafting import Drafting
from edgedec.errors import InputError, UsageError
from edgedec.generation import Generation, Score
from edgedec.hearing import Hearing
from edgedec.host import Files, Scratch
from edgedec.options import GenerateOptions, Options, SeveralOptions
from edgedec.plan import Planner
from edgedec.reading import Asked, Reader
from edgedec.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgedec.contracts import Floats
    from edgedec.speech.transcribe import Listeners, Request
    from edgedec.speech.transcript import Transcript
    from edgedec.speech.wav import Sound

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What `load` has put together for a model."""

    bundle: Bundle
    text: Text
    device: Device
    engine: Engine
    files: Files
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
        self._engine = setup.engine
        self._capabilities = setup.engine.capabilities
        self._session = setup.engine.session()
        here = setup.engine, self._session, self._architecture
        self._host = Scratch(*here, setup.files, setup.text)
        self._drafting = setup.drafting.fitted(self._host)
        self._reader = Reader(setup.text, self._architecture)
        self._planner = Planner(
            self._drafting.open(self._host),
            setup.costs,
            self._architecture.vocab,
            self._drafting.policy,
            setup.clock,
        )
        needs = self._drafting.needs(self._host)
        self._loop = Loop(self._session, self._host, self._planner, needs, setup.clock)
        self._answering = Answering(setup, self._drafting, self._session, self._loop)
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
    def drafting(self) -> Drafting:
        """What drafts: of `auto`, that which this model, its bundle and runtime can do."""
        return self._drafting

    @property
    def context(self) -> int:
        """The most tokens that prompt and output can have together."""
        return self._architecture.limits.context

    @property
    def is_chat(self) -> bool:
        """Whether it takes messages: its bundle has a chat template."""
        return self._setup.text.is_chat

    @property
    def reads(self) -> bool:
        """Whether a prompt is a source, which it reads, and not the beginning of its text."""
        return self._architecture.encoder is not None

    # --- generating ------------------------------------------------------------------------------

    @overload
    def generate(self, prompt: str | Messages, **given: Unpack[GenerateOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: list[str], **given: Unpack[GenerateOptions]) -> list[Generation]: ...

    @overload
    def generate(
        self, prompt: str | list[str] | Messages, **given: Unpack[SeveralOptions]
    ) -> list[Generation]: ...

    def generate(
        self, prompt: str | list[str] | Messages, **given: Any
    ) -> Generation | list[Generation]:
        """Continue a text, each of several texts (a list of str), or a chat (a list of messages).

        A model with an encoder reads the text and writes what it makes of it. The options are those
        of `edgedec.options.GenerateOptions`. Several prompts share a seed: each gives the text it
        would give alone. With `num_return_sequences` there is a list in any case.

        Raises:
            InputError: a prompt is empty, too long for the context, or not valid Unicode.
            UnsupportedError: messages, but the model has no chat template.
            UsageError: an option makes no sense, or the model is busy or closed.
        """
        chosen = options.read(given)
        with self._alone():
            if isinstance(prompt, str):
                return self._one(self._read(prompt), chosen)
            if not isinstance(prompt, Sequence):
                raise UsageError("a prompt is a text, a list of texts, or a list of messages")
            if not prompt:
                raise InputError("there is no prompt: give a text, some texts or some messages")
            if all(isinstance(each, str) for each in prompt):
                # All are checked before the first takes its time.
                read = [self._read(str(each)) for each in prompt]
                return [done for asked in read for done in self._answering.answer(asked, chosen)]
            messages = [each for each in prompt if isinstance(each, Mapping)]
            if len(messages) < len(prompt):
                raise UsageError("a prompt is a text, a list of texts, or a list of messages")
            return self._one(self._reader.chat(messages), chosen)

    def _one(self, asked: Asked, chosen: Options) -> Generation | list[Generation]:
        found = self._answering.answer(asked, chosen)
        return found if chosen.several else found[0]

    def _read(self, prompt: str) -> Asked:
        asked = self._reader.text(prompt)
        self._loop.check(asked.prompt)
        return asked

    def transcribe(
        self,
        audio: str | Path | Sound | Floats,
        request: Request | None = None,
        listeners: Listeners | None = None,
    ) -> Transcript:
        """Write down what is said in a WAV file, a `speech.wav.Sound`, or samples [n] at 16 kHz.

        `request` says in which language, whether to translate, and whether to time it; `listeners`
        are told what comes out while it does.

        Raises:
            InputError: the file cannot be read, or there is too little sound.
            UnsupportedError: this model hears nothing, or lacks what is asked for.
            UsageError: a language or task it does not know, or the model is busy or closed.
        """
        from edgedec.speech import transcribe

        setup = self._setup
        voice = transcribe.Voice(self._architecture, setup.text, setup.bundle.manifest.speech)
        sound = transcribe.heard(audio)
        with self._alone():
            ear = Hearing(self._answering)
            return transcribe.transcribe(ear, voice, sound, request, listeners)

    # --- scoring ---------------------------------------------------------------------------------

    def score(self, text: str, source: str | None = None) -> Score:
        """How likely the model finds a text. The conversation stays as it is.

        A model with an encoder finds it likely as what it makes of `source`.

        Raises:
            InputError: the text is empty, too short to say anything, or longer than the context.
            UsageError: it is no text, a source is missing or nobody reads it, or the model is busy
                or closed.
        """
        for each in (text, source):
            if not isinstance(each, str) and (each is not None or each is text):
                raise UsageError(
                    f"score takes one text, found {type(each).__name__}: give a string"
                )
        if not text:
            raise InputError("the text is empty: give at least two words to score")
        if (source is not None) != self.reads:
            raise UsageError(
                "this model says how likely a text is for a source: give score(text, source)"
                if source is None
                else "this model reads no source: give score(text)"
            )
        return self._score(text, None if source is None else self._reader.text(source))

    def _score(self, text: str, asked: Asked | None) -> Score:
        begin = [] if asked is None else asked.prompt
        tokens = [*begin, *self._setup.text.encode(text)]
        if len(tokens) > self.context:
            raise InputError(
                f"the text has {len(tokens)} tokens; the context of {self.name} holds "
                f"{self.context}: score it in parts"
            )
        if len(tokens) < 2:
            raise InputError("the text is one token: there is nothing before it to judge it by")
        with self._alone():
            session = self._engine.session()
            if asked is not None:
                session.encode(asked.features)
            found = scoring.logprobs(session, self._capabilities, tokens)
        total, size = math.fsum(found), len(text.encode())
        if begin or tokens[0] == self._architecture.tokens.bos:
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
            opened = self._drafting.open(self._host)
            self._planner.reopen([drafter for drafter, _ in opened])

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
