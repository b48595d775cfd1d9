"""`edgedec score`: how likely a model finds a text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import _options, _output

if TYPE_CHECKING:
    from edgedec.generation import Score


@click.command()
@click.argument("text", required=False)
@_options.model_options
@click.option(
    "--source",
    metavar="TEXT",
    help="What TEXT was made of: for a model with an encoder, which needs it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(text: str | None, source: str | None, as_json: bool, **options: Any) -> None:
    """Say how likely the model finds TEXT, or standard input if TEXT is absent or "-".

    Prints a line per token with its log probability in nats, then the sum of them, the bits spent
    per byte, and the perplexity per token.

    \b
    Examples:
      edgedec score "Once upon a time there was a king."
      edgedec score --json < story.txt
      edgedec score -m fix --source "teh cat" "The cat"
    """
    import edgedec

    read = _options.read_text(text, "TEXT")
    _options.tolerate_narrow_encodings()
    with edgedec.load(options.pop("model"), **_options.loading(options)) as model:
        found = model.score(read, source)
        pieces = model.pieces(found.tokens)
    if as_json:
        _output.print_json(found.to_json())
    else:
        _print(found, pieces)


def _print(found: Score, pieces: list[str]) -> None:
    values = ["-" if value is None else f"{value:.4f}" for value in found.logprobs]
    rows = zip(map(str, found.tokens), values, map(repr, pieces), strict=True)
    _output.print_table(("token", "logprob", "text"), list(rows))
    click.echo(
        f"total {found.total:.4f} nats · {found.bits_per_byte:.4f} bits per byte · "
        f"perplexity {found.perplexity:.3f}"
    )
