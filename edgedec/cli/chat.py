"""`edgedec chat`: turn by turn, each reading only what is new."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import _interrupt, _options
from edgedec.errors import EdgedecError, InputError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from edgedec.cli._conversation import Conversation
    from edgedec.generation import Chunk
    from edgedec.model import Model

COMMANDS = "/reset  /save FILE  /load FILE  /exit"


@click.command()
@_options.model_options
@_options.sampling_options
@click.option("--system", metavar="TEXT", help="What the model is told first.")
def command(system: str | None, **options: Any) -> None:
    """Talk with a model, line by line.

    /reset begins again, /save FILE and /load FILE keep the conversation (and, in FILE.state, what
    the model computed), /exit or Ctrl-D leaves. Ctrl-C stops an answer; what was said stays. A
    model without a chat template continues your lines as one text. Lines may come from a pipe;
    then the first error ends the chat.

    \b
    Examples:
      edgedec chat
      edgedec chat -m smollm2 -t 0.8 --system "You answer in one sentence."
      printf 'Hello!\\nAnd then?\\n' | edgedec chat
    """
    import edgedec
    from edgedec.cli._conversation import Conversation

    _options.tolerate_narrow_encodings()
    keyboard = sys.stdin.buffer.isatty()
    with edgedec.load(options.pop("model"), **_options.loading(options)) as model:
        if model.reads and not model.is_chat:
            raise UnsupportedError(
                f"{model.name} reads a text and writes another, it does not talk: use "
                "`edgedec generate` or `edgedec fix`"
            )
        conversation = Conversation(model.is_chat, system)
        if keyboard:
            click.echo(f"{model.name} · {COMMANDS}", err=True)
        for line in _typed() if keyboard else _piped():
            try:
                if not _turn(line, model, conversation, _options.given(options)):
                    return
            except EdgedecError as error:
                if not keyboard:
                    raise
                click.echo(f"edgedec: {error}", err=True)


def _typed() -> Iterator[str]:
    """Lines from the keyboard, with the terminal's editing where it has any."""
    with suppress(ImportError):
        import readline  # noqa: F401 - its import is what gives input() a history
    while True:
        try:
            yield input("> ")
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo("\n(Ctrl-D or /exit leaves)", err=True)


def _piped() -> Iterator[str]:
    offset = 0
    for line in sys.stdin.buffer:
        yield _options.decode(line, offset).rstrip("\r\n")
        offset += len(line)


def _turn(line: str, model: Model, conversation: Conversation, options: dict[str, Any]) -> bool:
    """One line of the user; returns whether the chat goes on."""
    if line.startswith("/"):
        return _obey(line.split(maxsplit=1), model, conversation)
    if line.strip():
        _answer(line, model, conversation, options)
    return True


def _obey(words: list[str], model: Model, conversation: Conversation) -> bool:
    match words:
        case ["/exit"]:
            return False
        case ["/reset"]:
            conversation.reset()
            model.reset()
        case ["/save", file]:
            conversation.save(Path(file.strip()), model)
        case ["/load", file]:
            reason = conversation.load(Path(file.strip()), model)
            if reason is not None:
                click.echo(f"edgedec: reading the conversation anew: {reason}", err=True)
        case _:
            raise UsageError(f"no command {' '.join(words)!r}; there is: {COMMANDS}")
    return True


def _answer(line: str, model: Model, conversation: Conversation, options: dict[str, Any]) -> None:
    from edgedec.generation import Cancel

    cancel = Cancel()
    conversation.say(line)
    try:
        with _interrupt.stopping(cancel):
            done = model.generate(conversation.prompt, stream=_show, cancel=cancel, **options)
    except InputError as error:
        conversation.take_back()
        raise InputError(f"{error}, or begin again with /reset") from None
    except BaseException:
        conversation.take_back()
        raise
    conversation.answer(done.text)
    click.echo()


def _show(chunk: Chunk) -> None:
    click.echo(chunk.text, nl=False)
