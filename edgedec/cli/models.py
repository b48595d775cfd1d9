"""`edgedec models`: the bundles that ship with edgedec and those in folders nearby."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgedec.cli import _output

if TYPE_CHECKING:
    from edgedec.bundle import Bundle


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path))
@click.option("--device", metavar="NAME", help="Say what would run them there. Default: cpu.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(folders: tuple[Path, ...], device: str | None, as_json: bool) -> None:
    """List the models that ship with edgedec and the bundles in FOLDERS.

    Without FOLDERS the current one is looked at. A folder counts if it is a bundle or holds some.
    The last column is the runtime that would run the model.

    \b
    Examples:
      edgedec models
      edgedec models ~/bundles --json
    """
    rows = [_describe(path, device) for path in _find(folders or (Path(),))]
    if as_json:
        _output.print_json({"schema": 1, "models": rows})
        return
    _output.print_table(
        ("model", "parameters", "weights", "size", "context", "runs with"),
        [_line(row) for row in rows],
    )


def _find(folders: tuple[Path, ...]) -> Iterator[str]:
    from edgedec import bundle
    from edgedec.errors import InputError
    from edgedec.manifest import FILE

    yield from bundle.shipped()
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder} is not a folder: name one that holds bundles")
        for path in sorted({*folder.glob(FILE), *folder.glob(f"*/{FILE}")}):
            yield str(path.parent)


def _describe(path: str, device: str | None) -> dict[str, Any]:
    from edgedec import bundle
    from edgedec.errors import EdgedecError

    try:
        opened = bundle.open_bundle(path)
    except EdgedecError as error:
        return {"model": path, "problem": str(error)}
    manifest = opened.manifest
    return {
        "model": path,
        "name": manifest.name,
        "family": manifest.architecture.family,
        "parameters": parameters(opened),
        "weights": weights(opened),
        "bytes": sum(file.size for file in manifest.files.values()),
        "context": manifest.architecture.limits.context,
        "runtime": runtime(opened, device),
    }


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    if "problem" in row:
        return (row["model"], "", "", "", "", row["problem"])
    return (
        row["model"],
        _output.count(row["parameters"]),
        row["weights"],
        _output.megabytes(row["bytes"]),
        str(row["context"]),
        row["runtime"] or "-",
    )


def parameters(bundle: Bundle) -> int:
    """The number of weights; a tied table counts once."""
    from math import prod

    from edgedec import weights

    return sum(prod(shape) for shape in weights.shapes(bundle.manifest.architecture).values())


def weights(bundle: Bundle) -> str:
    """The formats of the matrices, each once."""
    formats = dict.fromkeys(str(kind) for kind in bundle.manifest.quantisation.values())
    return ", ".join(formats) or "fp32"


def runtime(bundle: Bundle, device: str | None) -> str | None:
    """What would run it on a device, or None."""
    from edgedec import devices
    from edgedec.errors import EdgedecError

    try:
        return devices.choose(bundle.manifest.forms, device, None)[0].runtime
    except EdgedecError:
        return None
