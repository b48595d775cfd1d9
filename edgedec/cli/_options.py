"""The options that several commands share, and the text that they read.

Knows nothing about what a command does with them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from edgedec.errors import InputError

POLICIES = ("best", "fixed", "entropy", "confidence", "thompson", "goodput")
F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Any], Any]

DEVICE = click.option(
    "--device", metavar="NAME", help="Where to run: see `edgedec devices`. Default: cpu."
)
into_bundle = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Write the files there. Default: into the bundle, for every later load of it.",
)


def _model(default: str | None) -> Option:
    return click.option(
        "-m",
        "--model",
        default=default,
        required=default is None,
        show_default=True,
        metavar="NAME|FOLDER",
        help="A shipped model or a bundle's folder: see `edgedec models`.",
    )


_RUNTIME = click.option(
    "--runtime", metavar="NAME", help="What runs it. Default: the device's best."
)
_ENGINE: tuple[Option, ...] = (
    click.option(
        "--threads", type=click.IntRange(1), metavar="N", help="CPU threads. Default: one per core."
    ),
    click.option(
        "--kv-type",
        type=click.Choice(["fp16", "int8"]),
        help="How the native runtime keeps keys and values; int8 takes less memory and is lossy. "
        "Default: fp16.",
    ),
)

_SAMPLING: tuple[Option, ...] = (
    click.option(
        "-n",
        "--max-new-tokens",
        type=click.IntRange(1),
        metavar="N",
        default=128,
        show_default=True,
        help="End after this many tokens.",
    ),
    click.option(
        "-t",
        "--temperature",
        type=click.FloatRange(0),
        metavar="X",
        default=0.0,
        show_default=True,
        help="0 takes the likeliest token each time; 0.8 is livelier.",
    ),
    click.option(
        "--top-k", type=click.IntRange(1), metavar="N", help="Only the N likeliest tokens."
    ),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="P",
        help="Only the likeliest tokens that together have probability P.",
    ),
    click.option(
        "--min-p",
        type=click.FloatRange(0, 1),
        metavar="P",
        help="Only tokens at least P times as likely as the likeliest.",
    ),
    click.option(
        "--repetition-penalty",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Divide the logits of tokens that occurred; 1 is none.",
    ),
    click.option(
        "--frequency-penalty",
        type=float,
        metavar="X",
        help="Subtracted for each time a token occurred.",
    ),
    click.option(
        "--presence-penalty", type=float, metavar="X", help="Subtracted once if a token occurred."
    ),
    click.option(
        "--mirostat-tau",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="Mirostat v2: keep the surprise near X bits.",
    ),
    click.option(
        "--mirostat-eta",
        type=click.FloatRange(0, 1, min_open=True),
        metavar="X",
        help="How fast mirostat follows. Default: 0.1.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), metavar="N", help="Same seed, same text. Default: random."
    ),
    click.option(
        "--no-repeat-ngram",
        "no_repeat_ngram_size",
        type=click.IntRange(1),
        metavar="N",
        help="No sequence of N tokens occurs twice.",
    ),
    click.option(
        "--min-new-tokens",
        type=click.IntRange(1),
        metavar="N",
        help="No end of the text before this many tokens.",
    ),
    click.option("--stop", multiple=True, metavar="TEXT", help="End before TEXT; repeatable."),
    click.option(
        "--strategy",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="How to draft; the words stay the same. auto takes what pays on this device; "
        "A+B combines two, plain is none.",
    ),
    click.option(
        "--strategy-option",
        "strategy_options",
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of a strategy, such as token_recycling.nodes=16; repeatable.",
    ),
    click.option(
        "--policy",
        type=click.Choice(POLICIES),
        help="How much of a draft to check. Default: best, what pays; others are for comparison.",
    ),
    click.option(
        "--acceptance",
        type=click.Choice(["exact", "typical"]),
        help="typical takes what is likely enough, and is lossy. Default: exact.",
    ),
)

_EARLY: dict[str, bool | str] = {"true": True, "false": False, "never": "never"}


def _early_stopping(_: click.Context, __: click.Parameter, value: str | None) -> bool | str | None:
    return None if value is None else _EARLY[value]


_SEARCH: tuple[Option, ...] = (
    click.option(
        "--beams",
        "num_beams",
        type=click.IntRange(1),
        metavar="N",
        help="Search with N texts at a time, for one that is likely as a whole; no drafting.",
    ),
    click.option(
        "--length-penalty",
        type=float,
        metavar="X",
        help="A text's score is its log probability over its length to the power of X. Default: 1.",
    ),
    click.option(
        "--early-stopping",
        type=click.Choice(list(_EARLY)),
        callback=_early_stopping,
        help="End when enough texts are finished: true, at once; false, when the best beam is no "
        "better now; never, when it cannot become better. Default: false.",
    ),
    click.option(
        "--patience",
        type=click.FloatRange(0, min_open=True),
        metavar="X",
        help="How many finished texts are enough, in parts of the beams. Default: 1.",
    ),
    click.option(
        "--beam-groups",
        "num_beam_groups",
        type=click.IntRange(1),
        metavar="N",
        help="Share the beams out among N groups, kept apart by --diversity-penalty.",
    ),
    click.option(
        "--diversity-penalty",
        type=click.FloatRange(0),
        metavar="X",
        help="Taken off a token's log probability for each beam of an earlier group that took it.",
    ),
    click.option(
        "--return-sequences",
        "num_return_sequences",
        type=click.IntRange(1),
        metavar="N",
        help="Give N texts: the best beams or, with a temperature, one for each of N seeds.",
    ),
)


def model_options(command: F) -> F:
    """-m, --device, --runtime, --threads, --kv-type."""
    return model_options_of("stories")(command)


def model_options_of(default: str | None) -> Callable[[F], F]:
    """The same with another model where none is named; None: one must be."""
    return lambda command: _apply(command, (_model(default), DEVICE, _RUNTIME, *_ENGINE))


def place_options(command: F) -> F:
    """The same without --runtime, for a command that takes several."""
    return _apply(command, (_model("stories"), DEVICE, *_ENGINE))


def sampling_options(command: F) -> F:
    """-n, -t and all that shapes the choice of tokens; passed on under `generate`'s names."""
    return _apply(command, _SAMPLING)


def search_options(command: F) -> F:
    """--beams and what belongs to it; passed on under `generate`'s names."""
    return _apply(command, _SEARCH)


def loading(options: dict[str, Any]) -> dict[str, Any]:
    """Take what `edgedec.load` wants out of the options."""
    names = ("device", "runtime", "strategy", "threads", "kv_type", "policy", "acceptance")
    found = given({name: options.pop(name, None) for name in names})
    chosen = options.pop("strategy_options", ())
    if not chosen:
        return found
    from edgedec import drafting

    return found | {"strategy_options": drafting.read_options(chosen)}


def given(options: dict[str, Any]) -> dict[str, Any]:
    """The options that were given: what is left out keeps the default of the Python API."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def read_text(argument: str | None, what: str) -> str:
    """The argument, or standard input if it is absent or "-"; one line end at its end is dropped.

    Raises:
        InputError: standard input is not UTF-8.
        click.UsageError: there is no argument, and standard input is a keyboard.
    """
    if argument not in (None, "-"):
        return str(argument)
    stream = sys.stdin.buffer
    if argument is None and stream.isatty():
        raise click.UsageError(f"no {what}: give one, or send it to standard input")
    return decode(stream.read()).removesuffix("\n").removesuffix("\r")


def decode(data: bytes, offset: int = 0) -> str:
    """Bytes of standard input, from `offset` on, as text.

    Raises:
        InputError: they are not UTF-8; the message has the offset of the first bad byte.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InputError(
            f"standard input is not UTF-8: byte 0x{data[error.start]:02x} at offset "
            f"{offset + error.start}; convert it first, for example with iconv"
        ) from None


def _apply(command: F, options: tuple[Option, ...]) -> F:
    for add in reversed(options):
        command = add(command)
    return command


def tolerate_narrow_encodings() -> None:
    """Let a terminal that cannot show a character show a question mark instead of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")
