"""`edgedec generate`: continue a text, on the screen as it comes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import INTERRUPTED, _interrupt, _options, _output

if TYPE_CHECKING:
    from edgedec.generation import Chunk, Generation


@click.command()
@click.argument("prompt", required=False)
@_options.model_options
@_options.sampling_options
@_options.search_options
@click.option(
    "--logprobs",
    type=click.IntRange(1),
    metavar="K",
    help="With --json: each token's log probability and the K likeliest there.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document, no text.")
def command(prompt: str | None, as_json: bool, **options: Any) -> None:
    """Continue PROMPT, or what standard input holds if PROMPT is absent or "-".

    The new text goes to standard output as it comes (on a terminal, after the prompt), then one
    line of numbers to standard error. What beams search for, and several texts, come when all is
    done; several are numbered.
    Ctrl-C ends the text where it is and exits with 130; pressed twice, it ends at once.

    \b
    Examples:
      edgedec generate "Once upon a time"
      edgedec generate -n 60 -t 0.8 --seed 1 "The old man said"
      edgedec generate --beams 4 --return-sequences 2 "Once upon a time"
      cat story.txt | edgedec generate --json
    """
    import edgedec
    from edgedec.generation import Cancel, sequences_to_json

    if options["logprobs"] and not as_json:
        raise click.UsageError("--logprobs needs --json: they are part of the document")
    text = _options.read_text(prompt, "PROMPT")
    _options.tolerate_narrow_encodings()
    cancel = Cancel()
    with edgedec.load(options.pop("model"), **_options.loading(options)) as model:
        later = as_json or (options["num_beams"] or 1) > 1 or options["num_return_sequences"]
        show = None if later else _show
        if show and sys.stdout.isatty():
            click.secho(text, dim=True, nl=model.reads)
        with _interrupt.stopping(cancel):
            done = model.generate(text, stream=show, cancel=cancel, **_options.given(options))
    found = done if isinstance(done, list) else [done]
    if as_json:
        _output.print_json(sequences_to_json(done) if isinstance(done, list) else done.to_json())
    else:
        _finish(found, shown=show is not None)
    if any(each.finish_reason == "cancelled" for each in found):
        click.get_current_context().exit(INTERRUPTED)


def _finish(found: Sequence[Generation], shown: bool) -> None:
    """Print texts that were not shown on their way, and the numbers of each."""
    for number, each in enumerate(found, start=1):
        label = f"{number}: " if len(found) > 1 else ""
        click.echo("" if shown else label + each.text)
        click.echo(label + summary(each), err=True)


def _show(chunk: Chunk) -> None:
    click.echo(chunk.text, nl=False)


def summary(done: Generation) -> str:
    """The line of numbers after a text."""
    speed = "" if done.tokens_per_second is None else f" · {done.tokens_per_second:.1f} tok/s"
    first = done.time_to_first_token_ms
    wait = "" if first is None else f" · first token {first:.0f} ms"
    # A drawn seed is never worth hiding: it alone gives the text again. Greedy text has seed 0.
    seed = f" · seed {done.seed}" if done.seed else ""
    score = "" if done.score is None else f" · score {done.score:.4f}"
    drafting = done.strategy + (" (lossy)" if done.lossy else "")
    return (
        f"[{done.new_tokens} tokens{speed}{wait} · peak {done.peak_rss_mb:.0f} MB · {drafting} · "
        f"{done.runtime} on {done.device}{seed}{score} · {done.finish_reason}]"
    )
