"""`edgedec fix`: damaged English put right, line by line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import INTERRUPTED, _interrupt, _options, _output
from edgedec.cli.generate import summary
from edgedec.errors import InputError

if TYPE_CHECKING:
    from edgedec.generation import Cancel, Chunk, Generation
    from edgedec.model import Model


@click.command()
@click.argument("text", required=False)
@_options.model_options_of("fix")
@click.option(
    "--strategy",
    default="auto",
    show_default=True,
    metavar="NAME",
    help="How to draft; the words stay the same. plain drafts nothing.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, no text.")
def command(text: str | None, as_json: bool, **options: Any) -> None:
    """Put right what is wrong in TEXT, or in standard input if TEXT is absent or "-".

    Spelling, capitals, marks, and words that are missing or doubled. Each line is a text of its own
    (a paragraph, up to some 200 words) and stays one. The same as `edgedec generate -m fix`, with
    room for the whole line. Ctrl-C ends it where it is and exits with 130.

    \b
    Examples:
      edgedec fix "teh cat sat on teh mat."
      edgedec fix < letter.txt > letter.fixed.txt
      edgedec fix --json "i dont no wether its true"
    """
    import edgedec
    from edgedec.generation import Cancel

    lines = _options.read_text(text, "TEXT").splitlines()
    if not any(line.strip() for line in lines):
        raise InputError("the text is empty: give at least one word to put right")
    _options.tolerate_narrow_encodings()
    cancel = Cancel()
    loaded = edgedec.load(options.pop("model"), **_options.loading(options))
    with loaded as model, _interrupt.stopping(cancel):
        done = _all(model, lines, cancel, quiet=as_json)
    if as_json:
        _output.print_json(_document(lines, done))
    elif done:
        click.echo(summary(done[-1]), err=True)
    if cancel.is_set:
        click.get_current_context().exit(INTERRUPTED)


def _all(model: Model, lines: list[str], cancel: Cancel, *, quiet: bool) -> list[Generation]:
    """Every line that is not blank, put right; on the screen as it comes."""
    done: list[Generation] = []
    stream = None if quiet else _show
    for line in lines:
        if cancel.is_set:
            break
        if line.strip():
            room = model.context
            done.append(model.generate(line, max_new_tokens=room, stream=stream, cancel=cancel))
        if not quiet:
            click.echo()
    return done


def _show(chunk: Chunk) -> None:
    click.echo(chunk.text, nl=False)


def _document(lines: list[str], done: list[Generation]) -> dict[str, Any]:
    """What `generate` prints; of several lines the whole text, and one such document for each."""
    if len(lines) == 1 and done:
        return done[0].to_json()
    texts = iter(done)
    whole: list[str] = []
    for line in lines:
        answer = next(texts, None) if line.strip() else None
        if line.strip() and answer is None:
            break  # it was cancelled here
        whole.append(line if answer is None else answer.text)
    return {"schema": 1, "text": "\n".join(whole), "lines": [each.to_json() for each in done]}
