"""`edgedec warm`: let a model write, and keep what its drafters learn from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import _options, _output, _progress

if TYPE_CHECKING:
    from edgedec.model import Setup
    from edgedec.prompts import Prompt


@click.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@_options.model_options
@_options.into_bundle
@click.option(
    "--tokens",
    type=click.IntRange(1),
    default=20_000,
    show_default=True,
    metavar="N",
    help="How much the model writes.",
)
@click.option(
    "-t",
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=0.8,
    show_default=True,
    metavar="X",
    help="How lively; with prompts every third text is greedy.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="N")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    files: tuple[Path, ...],
    model: str,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Let the model write, and keep what drafters learn from it as a hot start.

    Drafters without training guess from what the model wrote before, and begin every process
    knowing nothing. A hot start changes only the speed, never the words. FILES hold prompts like
    those you will use, one a line (or JSON lines with "prompt" or "turns"); without them the model
    writes from nothing.

    \b
    Examples:
      edgedec warm -m my-bundle
      edgedec warm -m my-bundle my-prompts.txt --tokens 50000
      edgedec warm -o hot && edgedec generate --strategy token_recycling \\
          --strategy-option hot_start=hot/token_recycling.safetensors "Once upon a time"
    """
    import tempfile

    from edgedec import api, drafting, warm
    from edgedec.bundle import add_strategies, shipped
    from edgedec.devices import EngineOptions
    from edgedec.errors import UsageError
    from edgedec.prompts import read_prompts

    if output is None and model in shipped():
        raise UsageError(f"{model} ships with edgedec, its bundle stays as it is: give -o FOLDER")
    wanted = EngineOptions(options["device"] or "", options["threads"], options["kv_type"])
    prompts = [prompt for file in files for prompt in read_prompts(file)]
    writing = warm.Writing(
        options["tokens"], temperature=options["temperature"], seed=options["seed"]
    )
    setup = api.assemble(model, wanted, options["runtime"], drafting.choose(drafting.PLAIN))
    try:
        texts = [_encoded(setup, prompt) for prompt in prompts]
        with tempfile.TemporaryDirectory() as spare, _progress.bars({"": "writing"}) as tell:
            folder = output or Path(spare)
            written = warm.learn(
                setup, folder, texts, writing, progress=lambda share: tell("", share)
            )
            if output is None:
                add_strategies(setup.bundle, written)
            sizes = {name: path.stat().st_size for name, path in written.items()}
    finally:
        setup.engine.close()
    place = str(output or setup.bundle.path.name)
    if as_json:
        _output.print_json({"schema": 1, "model": setup.bundle.manifest.name, "tokens":
                            writing.tokens, "place": place, "bytes": sizes})  # fmt: skip
        return
    rows = [(name, _output.megabytes(size)) for name, size in sizes.items()]
    _output.print_table(("hot start", "size"), rows)
    click.echo(f"written to {place}", err=True)


def _encoded(setup: Setup, prompt: Prompt) -> list[int]:
    text = setup.text
    if setup.bundle.manifest.architecture.encoder is not None:
        return text.encode_source(prompt.turns[0])
    if not prompt.chat:
        return text.encode(prompt.turns[0])
    return text.encode(text.chat([{"role": "user", "content": prompt.turns[0]}]), special=False)
