"""From sound to timed text: windows in, prompts and rules to a model, spans and words out.

It knows what a manifest says of a model and drives it through `Ear`; it knows no runtime, no
session and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from edgedec.errors import InputError, UnsupportedError, UsageError
from edgedec.speech import mel
from edgedec.speech.resample import RATE, resample
from edgedec.speech.rules import OneOf, Timestamps
from edgedec.speech.transcript import Segment, Transcript
from edgedec.speech.wav import Sound, read
from edgedec.speech.windows import Clock, Span, cut, quietest

if TYPE_CHECKING:
    from edgedec.architecture import Architecture, Frontend
    from edgedec.contracts import Floats
    from edgedec.detokenise import Detokenizer
    from edgedec.generation import Cancel
    from edgedec.manifest import Speech
    from edgedec.processors import Processor
    from edgedec.text import Text

TOKENS_PER_SECOND = 6.5
"""No one speaks faster; a model of waveforms that writes more repeats itself (2410.15608)."""

TRANSCRIBE = "transcribe"


class Ear(Protocol):
    """A model that hears: what `transcribe` needs of it."""

    def encode(self, features: Floats) -> None:
        """Hear a window of features [n, F]; texts of it follow."""
        ...

    def run(
        self, prompt: Sequence[int], rules: Sequence[Processor], limit: int
    ) -> Generator[int, None, None]:
        """Write after a prompt, up to `limit` ids; the id that ends the text is not among them.

        The rules stand after what the bundle itself demands. A limit beyond the context is cut.
        """
        ...


@dataclass(frozen=True, slots=True)
class Voice:
    """What is known of a model of speech. `speech` None: it writes words only.

    Raises:
        UnsupportedError: the model hears nothing.
    """

    architecture: Architecture
    text: Text
    speech: Speech | None = None

    @property
    def frontend(self) -> Frontend:
        """What turns sound into rows."""
        frontend = self.architecture.frontend
        if frontend is None:
            raise UnsupportedError(
                "this model reads text, it does not hear: give one of speech (-m), such as a "
                "Whisper or a Moonshine that `edgedec export` has converted"
            )
        return frontend


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for.

    `language` None is found out from the first window; `task` "translate" writes English.
    `timestamps` None: where the sound is longer than a window, so that windows can begin between
    words, if the model has them. With `condition` each window is given the words before it.
    """

    language: str | None = None
    task: str = TRANSCRIBE
    timestamps: bool | None = None
    condition: bool = False


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what comes out; all may be left out.

    `text` gets each new piece of the text, `segment` each finished one, `progress` the seconds
    done and the seconds of all. `cancel` ends it: what is there until then is the result.
    """

    text: Callable[[str], object] | None = None
    segment: Callable[[Segment], object] | None = None
    progress: Callable[[float, float], object] | None = None
    cancel: Cancel | None = None


def heard(audio: str | Path | Sound | Floats) -> Sound:
    """A WAV file, or a `Sound`, or samples [n] at 16 kHz, as a `Sound`.

    Raises:
        InputError: the file cannot be read.
        UsageError: an array that is no row of numbers.
    """
    if isinstance(audio, Sound):
        return audio
    if isinstance(audio, str | Path):
        return read(Path(audio))
    samples = np.asarray(audio)
    if samples.ndim != 1 or samples.dtype.kind != "f":
        raise UsageError(
            f"the sound is an array of {samples.dtype} with the shape {list(samples.shape)}; it "
            "must be samples [n] at 16 kHz, floats from -1 to 1"
        )
    if not np.isfinite(samples).all():
        raise InputError("the sound holds samples that are no numbers")
    return Sound(samples.astype(np.float32), RATE)


def transcribe(
    ear: Ear,
    voice: Voice,
    sound: Sound,
    request: Request | None = None,
    listeners: Listeners | None = None,
) -> Transcript:
    """Write down what is said.

    Raises:
        InputError: there is no sound, or too little for the model to hear.
        UnsupportedError: the model hears nothing, or has no timestamps, languages or tasks.
        UsageError: a language or a task that the model does not know.
    """
    kind = voice.frontend.kind
    samples = resample(sound.samples, sound.rate)
    if not len(samples):
        raise InputError("there is no sound to transcribe: its length is zero")
    work = _Work(ear, voice, request or Request(), listeners or Listeners(), len(samples) / RATE)
    return work.mel(samples) if kind == "mel" else work.waveform(samples)


@dataclass(slots=True)
class _Work:
    """One transcription under way."""

    ear: Ear
    voice: Voice
    request: Request
    listeners: Listeners
    seconds: float
    spans: list[Span] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    language: str | None = field(init=False)
    stream: Detokenizer = field(init=False)

    def __post_init__(self) -> None:
        self.stream = self.voice.text.stream()
        _check(self.request, self.voice.speech)
        self.language = self.request.language

    # --- the two kinds of model --------------------------------------------------------------

    def mel(self, samples: Floats) -> Transcript:
        """Windows of one length over features that are computed once."""
        frontend = self.voice.frontend
        length = frontend.length or 30 * RATE // mel.HOP
        found = mel.features(samples, frontend.features, length)
        # Short sound was filled up with silence, which nobody needs to hear by itself.
        heard = max(min(len(found), len(samples) // mel.HOP), 1)
        asked = self.request.timestamps
        timed = (heard > length and self._has_timestamps) if asked is None else asked
        clock = self._clock(RATE / mel.HOP)
        begin = 0
        while begin < heard and not self._cancelled:
            self._tell(begin * mel.HOP / RATE)
            window = found[begin : begin + length]
            self.ear.encode(np.pad(window, ((0, length - len(window)), (0, 0))))
            tokens = self._write(self._prompt(timed), self._rules(timed), words=not timed)
            spans, on = cut(tokens, clock, begin, min(length, heard - begin))
            self._keep(spans, tell=timed)
            begin += on
        return self._done()

    def waveform(self, samples: Floats) -> Transcript:
        """Windows that end where it is quiet, none longer than the context has words for."""
        architecture = self.voice.architecture
        most = int((architecture.limits.context - 1) / TOKENS_PER_SECOND * RATE)
        most = max(RATE, min(most, architecture.limits.source or most))
        prompt = self._prompt(False)
        begin = 0
        while begin < len(samples) and not self._cancelled:
            self._tell(begin / RATE)
            rest = samples[begin:]
            window = rest[: quietest(rest, most * 3 // 4, most, RATE)]
            if self.voice.frontend.rows(len(window)) >= 1:
                self.ear.encode(window[:, None])
                limit = max(int(len(window) / RATE * TOKENS_PER_SECOND) - len(prompt), 1)
                tokens = self._write(prompt, (), limit)
                self._keep(cut(tokens, Clock(RATE, None), begin, len(window))[0], tell=False)
            elif not begin:
                raise InputError(
                    f"the sound is {self.seconds:.3f} s long: too short for this model to hear"
                )
            begin += len(window)
        return self._done()

    # --- a window ------------------------------------------------------------------------------

    def _prompt(self, timed: bool) -> list[int]:
        """What the decoder begins with: start, language, task, whether there are timestamps."""
        start, speech = self.voice.architecture.tokens.decoder_start, self.voice.speech
        if start is None:
            raise UnsupportedError(
                "the bundle names no token that the decoder begins with: export the model again"
            )
        if speech is None:
            return [start]
        prompt = [start]
        if speech.languages:
            if self.language is None:
                self.language = self._heard_language(start, speech)
            prompt.append(speech.languages[self.language])
        if speech.tasks:
            prompt.append(speech.tasks[self.request.task])
        if not timed and speech.no_timestamps is not None:
            prompt.append(speech.no_timestamps)
        return [*self._before(speech), *prompt]

    def _before(self, speech: Speech) -> list[int]:
        """The words of the windows before, where they are asked for."""
        if not self.request.condition or not self.spans or speech.previous is None:
            return []
        clock, words = self._clock(1.0), list[int]()
        for span in self.spans:
            # Where a span ends with two timestamps, the second belongs to the next one.
            double = len(span.tokens) > 2 and clock.timed(span.tokens[-2])
            words += span.tokens[:-1] if double else span.tokens
        most = self.voice.architecture.limits.context // 2 - 1
        return [speech.previous, *words[-most:]]

    def _heard_language(self, start: int, speech: Speech) -> str:
        names = {token: name for name, token in speech.languages.items()}
        with closing(self.ear.run([start], [OneOf(tuple(sorted(names)))], 1)) as written:
            found = next(written, None)
        # Nothing comes out where the user has had enough.
        return next(iter(speech.languages)) if found is None else names[found]

    def _rules(self, timed: bool) -> list[Processor]:
        speech = self.voice.speech
        if not timed or speech is None:
            return []
        if speech.first_timestamp is None or speech.no_timestamps is None:
            raise UnsupportedError("this model writes no timestamps: ask for none")
        ends = self.voice.architecture.tokens.eos
        return [
            Timestamps(
                first=speech.first_timestamp,
                end=ends[0] if ends else speech.first_timestamp,
                no_timestamps=speech.no_timestamps,
                latest_first=speech.latest_first,
            )
        ]

    def _write(
        self,
        prompt: Sequence[int],
        rules: Sequence[Processor],
        limit: int | None = None,
        words: bool = True,
    ) -> list[int]:
        """The tokens of a window; with `words` each is told at once, as nothing takes it back."""
        room = self.voice.architecture.limits.context
        tokens: list[int] = []
        with closing(self.ear.run(prompt, rules, limit or room)) as written:
            for token in written:
                tokens.append(token)
                if words:
                    self._say([token])
                if self._cancelled:
                    break
        return tokens

    # --- what comes out ------------------------------------------------------------------------

    def _keep(self, spans: Sequence[Span], tell: bool) -> None:
        clock = self._clock(1.0)
        for span in spans:
            self.spans.append(span)
            words = [token for token in span.tokens if not clock.timed(token)]
            if tell:
                self._say(words)
            text = self.voice.text.decode(words).strip()
            # The last timestamps may lie beyond the end of the sound.
            start, end = (round(min(each, self.seconds), 2) for each in (span.start, span.end))
            segment = Segment(start, end, text, span.tokens)
            self.segments.append(segment)
            if self.listeners.segment is not None:
                self.listeners.segment(segment)

    def _say(self, tokens: Sequence[int]) -> None:
        """Text goes out as it comes; the space that a first word begins with does not."""
        clock = self._clock(1.0)
        piece = "".join(self.stream.push(each) for each in tokens if not clock.timed(each))
        if not self.parts:
            piece = piece.lstrip()
        if piece:
            self.parts.append(piece)
            if self.listeners.text is not None:
                self.listeners.text(piece)

    def _done(self) -> Transcript:
        self._tell(self.seconds if not self._cancelled else None)
        return Transcript(
            text="".join(self.parts).rstrip(),
            segments=tuple(self.segments),
            language=self.language,
            task=self.request.task,
            audio_seconds=round(self.seconds, 3),
            finish_reason="cancelled" if self._cancelled else "stop",
        )

    def _tell(self, done: float | None) -> None:
        if self.listeners.progress is not None and done is not None:
            self.listeners.progress(done, self.seconds)

    def _clock(self, rate: float) -> Clock:
        speech = self.voice.speech
        if speech is None:
            return Clock(rate, None)
        return Clock(rate, speech.first_timestamp, speech.timestamp_seconds)

    @property
    def _has_timestamps(self) -> bool:
        return self.voice.speech is not None and self.voice.speech.first_timestamp is not None

    @property
    def _cancelled(self) -> bool:
        return self.listeners.cancel is not None and self.listeners.cancel.is_set


def _check(request: Request, speech: Speech | None) -> None:
    """Whether the model can do what is asked, before anything is heard."""
    languages = {} if speech is None else speech.languages
    tasks = {} if speech is None else speech.tasks
    if request.language is not None and request.language not in languages:
        if not languages:
            raise UnsupportedError("this model knows one language only: give none")
        known = ", ".join(sorted(languages))
        raise UsageError(f"no language {request.language!r}; the model knows: {known}")
    if request.task not in (tasks or {TRANSCRIBE: 0}):
        if not tasks:
            raise UnsupportedError(f"this model does not {request.task}, it transcribes only")
        raise UsageError(f"no task {request.task!r}; the model knows: {', '.join(sorted(tasks))}")
    if request.timestamps and (speech is None or speech.first_timestamp is None):
        raise UnsupportedError("this model writes no timestamps: ask for none")
