"""`edgedec transcribe`: write down what is said in sound files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import INTERRUPTED, _interrupt, _options, _output, _progress

if TYPE_CHECKING:
    from edgedec import Cancel, Model
    from edgedec.speech.transcribe import Listeners, Request
    from edgedec.speech.transcript import Segment, Transcript
    from edgedec.speech.wav import Sound


@click.command()
@click.argument("audio", nargs=-1, required=True)
@_options.model_options
@click.option(
    "--language",
    metavar="CODE",
    help="What is spoken, such as en. Default: what the first window sounds like.",
)
@click.option(
    "--task",
    type=click.Choice(["transcribe", "translate"]),
    default="transcribe",
    show_default=True,
    help="translate writes English.",
)
@click.option(
    "--timestamps/--no-timestamps",
    default=None,
    help="Say when each part is said. Default: work with them where the sound is longer than a "
    "window, but do not show them.",
)
@click.option("--condition", is_flag=True, help="Let each window know the words before it.")
@click.option("--mix", is_flag=True, help="Mix several channels into one.")
@click.option("--srt", type=click.Path(path_type=Path), metavar="FILE", help="Write subtitles.")
@click.option("--vtt", type=click.Path(path_type=Path), metavar="FILE", help="The same as WebVTT.")
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="How to draft; the words stay the same.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, no text.")
def command(audio: Sequence[str], as_json: bool, **options: Any) -> None:
    """Write down what is said in AUDIO: WAV files of one channel, or - for standard input.

    It takes a model of speech (-m), such as a Whisper or a Moonshine that was exported. Sound at
    16 kHz is used as it is, any other rate is converted. The text goes to standard output as it
    comes. Ctrl-C ends it, prints what there is, and exits with 130; pressed twice, it ends at once.

    \b
    Examples:
      edgedec transcribe -m ./whisper-base talk.wav
      edgedec transcribe -m ./whisper-base --language de --task translate --timestamps talk.wav
      edgedec transcribe -m ./whisper-base --srt talk.srt talk.wav
      ffmpeg -i talk.mp3 -ac 1 -ar 16000 -f wav - | edgedec transcribe -m ./moonshine --json -
    """
    import edgedec

    files = [options[name] for name in ("srt", "vtt") if options[name] is not None]
    _check(audio, files, options)
    _options.tolerate_narrow_encodings()
    cancel = edgedec.Cancel()
    work = _Work(as_json, len(audio) > 1, bool(options["timestamps"]), cancel)
    mix = options.pop("mix")
    done: list[dict[str, Any]] = []
    with edgedec.load(options.pop("model"), **_options.loading(options)) as model:
        request = _request(options, model, timed=bool(files))
        for name in audio:
            started = time.perf_counter()
            with _interrupt.stopping(cancel):
                found = work.transcribe(model, _sound(name, mix), request, name)
            seconds = time.perf_counter() - started
            _write_subtitles(found, options)
            done.append({"file": name, "seconds": round(seconds, 3), **found.to_json()})
            if not as_json:
                click.echo(_summary(found, seconds, model.name), err=True)
            if cancel.is_set:
                break
    if as_json:
        for each in done:
            del each["schema"]
        _output.print_json({"schema": 1, "files": done})
    if cancel.is_set:
        click.get_current_context().exit(INTERRUPTED)


def _check(audio: Sequence[str], files: Sequence[Path], options: dict[str, Any]) -> None:
    """What can be known to fail before the model is loaded."""
    from edgedec.errors import InputError

    if files and len(audio) > 1:
        raise click.UsageError("--srt and --vtt take one AUDIO: run them one after the other")
    if files and options["timestamps"] is False:
        raise click.UsageError("--srt and --vtt need timestamps: leave out --no-timestamps")
    for path in files:
        _output.check_target(path)
    for name in audio:
        if name == "-" and sys.stdin.isatty():
            raise click.UsageError("no sound: send it to standard input, or name a file")
        if name != "-" and not Path(name).is_file():
            raise InputError(f"{name} is no file: give the path of a WAV file")


def _request(options: dict[str, Any], model: Model, timed: bool) -> Request:
    from edgedec.speech.transcribe import Request

    speech, timestamps = model.bundle.manifest.speech, options["timestamps"]
    if timed and timestamps is None and speech is not None:
        # Without any, subtitles are as long as windows.
        timestamps = speech.first_timestamp is not None or None
    return Request(options["language"], options["task"], timestamps, options["condition"])


def _sound(name: str, mix: bool) -> Sound:
    from edgedec.speech import wav

    if name == "-":
        return wav.parse(sys.stdin.buffer.read(), "standard input", mix=mix)
    return wav.read(Path(name), mix=mix)


class _Work:
    """Shows what comes out of each file: pieces of text or, with timestamps, lines."""

    def __init__(self, silent: bool, several: bool, timed: bool, cancel: Cancel) -> None:
        self._silent, self._several, self._timed = silent, several, timed
        self._cancel = cancel

    def transcribe(self, model: Model, sound: Sound, request: Request, name: str) -> Transcript:
        """One file, with a bar where its text does not come to the same terminal."""
        if self._several and not self._silent:
            click.echo(f"{name}:")
        if not self._silent and sys.stdout.isatty():
            found = model.transcribe(sound, request, self._listeners(None))
        else:
            with _progress.bars({"hear": f"{name}"}) as tell:

                def share(done: float, total: float) -> None:
                    tell("hear", done / total)

                found = model.transcribe(sound, request, self._listeners(share))
        if not self._silent and not self._timed:
            click.echo()
        return found

    def _listeners(self, progress: Callable[[float, float], object] | None) -> Listeners:
        from edgedec.speech.transcribe import Listeners

        shown = not self._silent
        return Listeners(
            text=_show if shown and not self._timed else None,
            segment=_show_line if shown and self._timed else None,
            progress=progress,
            cancel=self._cancel,
        )


def _show(piece: str) -> None:
    click.echo(piece, nl=False)


def _show_line(segment: Segment) -> None:
    from edgedec.speech.transcript import clock

    click.echo(f"[{clock(segment.start)} --> {clock(segment.end)}] {segment.text}")


def _write_subtitles(found: Transcript, options: dict[str, Any]) -> None:
    from edgedec.speech import transcript

    for name, form in (("srt", transcript.srt), ("vtt", transcript.vtt)):
        if options[name] is not None:
            _output.write_text(options[name], form(found.segments))


def _summary(found: Transcript, seconds: float, name: str) -> str:
    language = "" if found.language is None else f" · {found.language}"
    speed = f" · {found.audio_seconds / seconds:.1f}x" if seconds else ""
    return (
        f"[{found.audio_seconds:.1f} s of sound in {seconds:.1f} s{speed}{language} · {name} · "
        f"{found.finish_reason}]"
    )
